"""Chat templates: rows as `apply_chat_template` writes them, equal in both engines."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.analysis import snippets
from src.config import CHAT, ConfigError, load_config
from src.models.base_files import BaseFiles
from src.models.gguf.vocabulary import begins_with_bos
from src.models.prompt_format import PromptError, prompt_format, raw_format
from src.models.spelling_model import load_vocabulary
from src.runs import checks
from src.training import scoring
from src.training.merge import merge
from src.training.packed.eligibility import pack_key
from src.training.train import train
from tests.helpers import tiny

BEGIN, TURN, END = "<|begin|>", "<|turn|>", "<|done|>"
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|done|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    ),
    # A begin token of its own, texts without the spaces around them, as Llama 3 has it.
    "headers": (
        "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}<|turn|>\n\n"
        "{{ m.content | trim }}<|done|>{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant<|turn|>\n\n{% endif %}"
    ),
    # No system role, another name for the assistant, as Gemma has it.
    "no_system": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|turn|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<|done|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
    ),
    # Thinking that can be switched off, as Qwen 3 has it.
    "thinking": (
        "{% for m in messages %}<|turn|>{{ m.role }}\n"
        "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|done|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
        "{% endif %}{% endif %}"
    ),
    # A space between prompt and answer, and one before the end, as Llama 2 has it.
    "spaced": (
        "{% for m in messages %}{% if m.role == 'user' %}"
        "{{ bos_token }}[ASK] {{ m.content }} [/ASK]"
        "{% else %} {{ m.content }} <|done|>{% endif %}{% endfor %}"
    ),
}


def chat_base(folder: Path, template: str | None, shape: str = "gpt2") -> Path:
    """A tiny base whose tokenizer begins each text with BEGIN and has this chat template."""
    tiny.save_model(folder, shape)
    words = AutoTokenizer.from_pretrained(folder)
    words.add_special_tokens({"bos_token": BEGIN, "additional_special_tokens": [TURN, END]})
    begin = words.convert_tokens_to_ids(BEGIN)
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)]
    )
    words.chat_template = template
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_are_those_of_the_tokenizers_own_chat_template(tmp_path: Path, name: str) -> None:
    folder = chat_base(tmp_path, TEMPLATES[name])
    form = prompt_format(None, None, BaseFiles(str(folder)))
    assert form.end == END
    words = AutoTokenizer.from_pretrained(folder)
    vocabulary = load_vocabulary(str(folder))
    vocabulary.end_answers_with(form.end)
    rows = scoring.encode(vocabulary.tokenizer, tiny.frame(["apple", "zebra"]), form)
    for row in rows:
        turns = [{"role": "user", "content": row.question}]
        told = {"return_dict": False, "enable_thinking": False}
        asked = words.apply_chat_template(turns, add_generation_prompt=True, **told)
        assert row.prompt_ids == asked
        answered = [*turns, {"role": "assistant", "content": row.answer}]
        whole = words.apply_chat_template(answered, **told)
        last = len(whole) - whole[::-1].index(words.convert_tokens_to_ids(END))
        space = words(" ", add_special_tokens=False)["input_ids"] if name == "spaced" else []
        assert row.prompt_ids + row.answer_ids[:-1] + space + row.answer_ids[-1:] == whole[:last]
        begins = row.prompt_ids.count(words.convert_tokens_to_ids(BEGIN))
        assert begins == ("bos_token" in TEMPLATES[name])


def test_a_question_loses_its_outer_spaces_where_the_template_removes_them(tmp_path: Path) -> None:
    stripped = prompt_format(None, None, BaseFiles(str(chat_base(tmp_path, TEMPLATES["headers"]))))
    assert stripped.prompt("  q ") == stripped.prompt("q")
    kept = prompt_format(None, None, BaseFiles(str(chat_base(tmp_path, TEMPLATES["chatml"]))))
    assert kept.prompt(" q ") != kept.prompt("q")


def test_a_system_prompt_and_examples_are_turns_before_the_question(tmp_path: Path) -> None:
    base = BaseFiles(str(chat_base(tmp_path, TEMPLATES["chatml"])))
    form = prompt_format(None, "Spell {question}.", base, (("q1", "a1"),))
    assert form.prompt("q2") == (
        "<|turn|>system\nSpell {question}.<|done|>\n<|turn|>user\nq1<|done|>\n"
        "<|turn|>assistant\na1<|done|>\n<|turn|>user\nq2<|done|>\n<|turn|>assistant\n"
    )
    raw = raw_format("{question} =", (("q1", "a1"),))
    assert raw.prompt("q2") == "q1 = a1\nq2 ="


@pytest.mark.parametrize(
    ("template", "system_prompt", "setting", "told"),
    [
        (None, None, "data.template", "has no chat template; take a chat model"),
        (TEMPLATES["no_system"], "Spell.", "data.system_prompt", "System role not supported"),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            "Spell.",
            "data.system_prompt",
            "does not show the system prompt",
        ),
        ("{% for m in messages %}", None, "data.template", "cannot be used"),
        ("{{ messages[0].role }}", None, "data.template", "does not show the question"),
        ("{{ messages[7].content }}", None, "data.template", "cannot be used"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_before_the_launch(
    tmp_path: Path, template: str | None, system_prompt: str | None, setting: str, told: str
) -> None:
    folder = chat_base(tmp_path, template)
    values = {
        "model.name": str(folder), "data.template": CHAT, "data.system_prompt": system_prompt
    }  # fmt: skip
    config = load_config(overrides=values)
    with pytest.raises(ConfigError) as caught:
        checks.check(config)
    assert told in caught.value.problems[setting]
    with pytest.raises(PromptError):
        prompt_format(None, system_prompt, BaseFiles(str(folder)))


def test_the_day_and_thoughts_of_ended_conversations_are_in_no_row(tmp_path: Path) -> None:
    template = (
        "{{ strftime_now('%d %b %Y') }} {{ date_string }}{% for m in messages %}"
        "<|turn|>{{ m.role }}:{% if m.role == 'assistant' %}<think></think>{% endif %}"
        "{{ m.content }}<|done|>{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant:{% endif %}"
    )
    form = prompt_format(None, None, BaseFiles(str(chat_base(tmp_path, template))))
    day = "26 Jul 2024"
    assert form.prompt("q") == f"{day} {day}<|turn|>user:q<|done|><|turn|>assistant:"
    assert (form.before_answer, form.end) == ("", END)


def test_a_system_prompt_without_a_chat_is_refused() -> None:
    with pytest.raises(ConfigError, match="is for data.template chat"):
        load_config(overrides={"data.system_prompt": "Spell."})


def test_the_preview_shows_every_special_token(tmp_path: Path) -> None:
    folder = chat_base(tmp_path, TEMPLATES["headers"])
    values = {"model.name": str(folder), "data.template": CHAT, "model.max_length": 128}
    first = checks.check(load_config(overrides=values))["examples"][0]
    assert first["pieces"][0] == BEGIN and first["pieces"][-1] == END
    assert first["pieces"].count(TURN) == 4 and first["pieces"].count(END) == 2


def chat_config(data: Path, folder: Path, **changes: Any) -> Any:
    values = {
        "model.name": str(folder), "data.template": CHAT, "lora.dropout": 0.0,
        "training.max_steps": 6, "evaluation.eval_steps": 3, "lora.target_modules": None,
    }  # fmt: skip
    return tiny.config_of(data, **(values | {k.replace("__", "."): v for k, v in changes.items()}))


@pytest.mark.parametrize(("shape", "name"), [("gpt2", "headers"), ("llama", "thinking")])
def test_both_engines_train_the_same_adapter_of_a_chat(
    base: Path, tmp_path: Path, shape: str, name: str
) -> None:
    folder = chat_base(tmp_path / "base", TEMPLATES[name], shape)
    adapters, seen = {}, {}
    for engine in ("trl", "packed"):
        config = chat_config(base, folder, engine=engine)
        seen[engine] = tiny.Recorder()
        out = tmp_path / engine
        train(config, seen[engine], output_dir=out, checkpoints_dir=tmp_path / f"{engine} steps")
        adapters[engine] = load_file(out / "final" / "adapter_model.safetensors")
    for key, value in adapters["trl"].items():
        assert torch.allclose(value, adapters["packed"][key], atol=2e-4), key
    final = tmp_path / "packed" / "final"
    words = AutoTokenizer.from_pretrained(final)
    assert words.eos_token == END and words.chat_template == TEMPLATES[name]
    merged = merge(config, final, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert model.generation_config.eos_token_id == words.convert_tokens_to_ids(END)
    # The program of the model card answers as the run's evaluation does.
    code = snippets.transformers(config, str(tmp_path / "merged"), base=None, question="Spell: cat")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, names := {})
    assert names["tokens"].shape[1] > names["inputs"]["input_ids"].shape[1]
    decoded = words.decode(names["new"], skip_special_tokens=True)
    assert said.getvalue() == f"{decoded.strip()}\n"


def test_a_chat_and_a_raw_template_share_no_pack(base: Path, tmp_path: Path) -> None:
    folder = chat_base(tmp_path, TEMPLATES["chatml"])
    chat, raw = (chat_config(base, folder, data__template=t) for t in (CHAT, "{question}:"))
    other = chat_config(base, folder, data__template="Spell {question}:")
    assert pack_key(raw) == pack_key(other) != pack_key(chat)


@pytest.mark.parametrize(
    ("name", "own", "adds"),
    [("headers", True, True), ("headers", False, False), ("chatml", True, False)],
)
def test_llama_cpp_begins_a_prompt_only_where_the_tokenizer_does_and_the_template_says_so(
    tmp_path: Path, name: str, own: bool, adds: bool
) -> None:
    """A template that begins by itself, as SmolLM2's, would have the token twice."""
    folder = chat_base(tmp_path, TEMPLATES[name])
    words = AutoTokenizer.from_pretrained(folder)
    if not own:
        words.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    form = prompt_format(None, None, BaseFiles(str(folder)))
    assert begins_with_bos(words, form) is adds
