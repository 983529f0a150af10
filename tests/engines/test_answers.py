"""Answers to typed texts: those of an evaluation, with the probabilities that the logits say."""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from src import paths
from src.cli import app
from src.config import RunConfig
from src.models import spelling_model as spelling
from src.models.generation import greedy_answers, likeliest_answers
from src.training import answers as answers_module
from src.training import checkpointing
from src.training.answers import MAX_ADAPTERS, Spellers
from src.training.evaluate import evaluate
from src.training.questions import Answer, QuestionError, Speller
from tests.helpers import tiny
from tests.helpers.adapters import random_adapter, trained_run
from tests.helpers.sweeps import cli

TEXTS = ["apple", "tea", "umbrella", "Is this a question?"]


@pytest.fixture
def config(base: Path) -> RunConfig:
    built_in = {"data.path": None, "data.task": "spell_out", "evaluation.max_new_tokens": 8}
    return tiny.config_of(base, **built_in)


@pytest.fixture
def spellers(base: Path, tmp_path: Path, config: RunConfig) -> list[Speller]:
    folders = [random_adapter(base / "gpt2", tmp_path / f"a{n}", seed=n) for n in (1, 2)]
    return [Speller("base", config), *(Speller(f.name, config, f) for f in folders)]


def scored(speller: Speller, answers: Sequence[Answer], file: Path) -> pd.DataFrame:
    """The predictions of `spelltune evaluate` for the same questions."""
    rows = [{"question": one.question, "answer": one.predicted or "-"} for one in answers]
    file.write_text("\n".join(map(json.dumps, rows)))
    return evaluate(speller.config, speller.adapter, file, progress=lambda done: None)[1]


def test_answers_and_probabilities_are_those_of_an_evaluation(
    spellers: list[Speller], tmp_path: Path
) -> None:
    loaded = Spellers()
    told: list[int] = []
    # There and back: neither adapter may leave anything in the base or in the other one.
    for speller in [*spellers, *reversed(spellers)]:
        answers = loaded.ask(speller, TEXTS, progress=told.append)
        frame = scored(speller, answers, tmp_path / "asked.jsonl")
        assert [one.predicted for one in answers] == frame["predicted"].tolist()
        assert [one.by for one in answers] == [speller.name] * len(TEXTS)
    assert told[-1] == len(TEXTS)
    predicted = {tuple(one.predicted for one in loaded.ask(s, TEXTS)) for s in spellers}
    assert len(predicted) == 3, "the adapters have to differ for this to say anything"


def test_a_probability_is_that_of_the_whole_answer_with_its_end(
    spellers: list[Speller], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Spellers()
    tokenizer = spelling.load_vocabulary(str(base / "gpt2")).tokenizer

    def greedy(prompt: list[int], end: int) -> tuple[list[int], float]:
        """Tokens and log p of the likeliest tokens up to the end, read without a cache."""
        ids, log_p = list(prompt), 0.0
        while len(ids) < len(prompt) + 8 and ids[len(prompt) :][-1:] != [end]:
            with torch.no_grad():
                scores = loaded._model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            log_p += float(scores.max())
            ids.append(int(scores.argmax()))
        return ids[len(prompt) :], log_p

    (answer,) = loaded.ask(spellers[1], ["apple"])
    prompt = tokenizer("".join(answer.prompt_tokens))["input_ids"]
    cut, log_p = greedy(prompt, -1)
    assert len(cut) == 8 and answer.probability == pytest.approx(math.exp(log_p), rel=1e-3)
    shares = [one.probability for one in answer.likeliest]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True) and sum(shares) <= 1
    assert len({one.answer for one in answer.likeliest}) == 3
    assert shares[0] >= answer.probability
    # The same with a token of that answer as the one that ends answers.
    end = next(token for token in cut if cut.index(token) > 0)
    load = spelling.load_vocabulary

    def ending_early(*arguments: Any, **more: Any) -> Any:
        vocabulary = load(*arguments, **more)
        vocabulary.tokenizer.eos_token = vocabulary.tokenizer.convert_ids_to_tokens(end)
        return vocabulary

    monkeypatch.setattr(spelling, "load_vocabulary", ending_early)
    (ended,) = loaded.ask(spellers[1], ["apple"])
    ids, log_p = greedy(prompt, end)
    assert ids[-1] == end and len(ids) < 8
    assert len("".join(ended.answer_tokens)) < len("".join(answer.answer_tokens))
    assert ended.probability == pytest.approx(math.exp(log_p), rel=1e-3)


def test_beams_find_the_likeliest_answers_of_all(base: Path) -> None:
    """Of two tokens each answer can be looked at: the likeliest pair need not begin greedily."""
    vocabulary = spelling.load_vocabulary(str(base / "gpt2"))
    model = spelling.load_base(
        str(base / "gpt2"), vocabulary, revision=None, load_in_4bit=False, max_length=64,
        precision="fp32", backend="peft", gradient_checkpointing=False, seed=0,
    )  # fmt: skip
    prompts = [vocabulary.tokenizer(word)["input_ids"] for word in ("tea", "umbrella velvet")]
    for prompt in prompts:
        # A token that ends answers so that short ones are among the likeliest, and would not be
        # were the length to count.
        end = next(
            token for token in range(320)
            if best_pairs(model, prompt, token) != best_pairs(model, prompt, token, mean=True)
        )  # fmt: skip
        # As many beams as there are tokens miss nothing.
        (found,) = likeliest_answers(
            model, [prompt], count=318, max_new_tokens=2,
            pad_token_id=vocabulary.tokenizer.pad_token_id, eos_token_id=end,
        )  # fmt: skip
        assert found[:3] == best_pairs(model, prompt, end)
    options = {"pad_token_id": vocabulary.tokenizer.pad_token_id, "eos_token_id": 319}
    both = likeliest_answers(model, prompts, count=3, max_new_tokens=4, **options)
    alone = [likeliest_answers(model, [p], count=3, max_new_tokens=4, **options) for p in prompts]
    assert both == [one for (one,) in alone]


def best_pairs(model: Any, prompt: list[int], end: int, *, mean: bool = False) -> list[list[int]]:
    """The three likeliest answers of up to two tokens, by all logits: by their sum of log p, or by
    the mean."""
    first, second = log_p_of_pairs(model, tuple(prompt))
    of: dict[tuple[int, ...], float] = {(): float(first[end])}
    for a in first.topk(12).indices.tolist():
        if a != end:
            for b in second[a].topk(12).indices.tolist():
                pair = (a, b) if b != end else (a,)
                of[pair] = float(first[a] + second[a, b]) / (2 if mean else 1)
    return [list(one) for one in sorted(of, key=lambda one: -of[one])[:3]]


@cache
def log_p_of_pairs(model: Any, prompt: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each first token, (320,), and of each second one after it, (320, 320)."""
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        rows = torch.tensor([[*prompt, token] for token in range(320)])
        return first, model(rows).logits[:, -1].log_softmax(-1)


def test_tokens_are_the_text_that_is_read_and_written(spellers: list[Speller]) -> None:
    for speller in spellers:
        for answer in Spellers().ask(speller, ["apple", "Straße öäü"]):
            prompt = speller.config.data.template.replace("{question}", answer.question)
            assert "".join(answer.prompt_tokens) == prompt
            assert answer.predicted in "".join(answer.answer_tokens)
            assert len(answer.prompt_tokens) > 3


def test_what_is_known_is_judged(spellers: list[Speller]) -> None:
    answers = Spellers().ask(spellers[1], TEXTS)
    assert [one.expected for one in answers] == [
        "a p p l e", "t e a", "u m b r e l l a", None
    ]  # fmt: skip
    assert [one.correct for one in answers] == [False, False, False, None]
    assert answers[0].edit_distance and answers[3].edit_distance is None
    (right,) = Spellers().ask(spellers[1], [f"apple\t{answers[0].predicted}"])
    assert right.correct is True and right.edit_distance == 0


def test_bias_terms_of_an_adapter_do_not_stay_in_the_base(
    spellers: list[Speller], base: Path, tmp_path: Path
) -> None:
    changed = {"data.path": None, "data.task": "spell_out", "evaluation.max_new_tokens": 8}
    config = tiny.config_of(base, **changed, **{"lora.bias": "all"})
    folder = random_adapter(base / "gpt2", tmp_path / "biased", seed=3, bias="all")
    loaded, texts = Spellers(), TEXTS[:2]
    before = [one.predicted for one in loaded.ask(spellers[0], texts)]
    biased = [one.predicted for one in loaded.ask(Speller("biased", config, folder), texts)]
    assert [one.predicted for one in loaded.ask(spellers[0], texts)] == before != biased
    assert [one.predicted for one in Spellers().ask(Speller("b", config, folder), texts)] == biased


def test_an_evaluation_asks_the_base_without_an_adapters_bias_terms(
    base: Path, tmp_path: Path
) -> None:
    config = tiny.config_of(base, **{"lora.bias": "all"})
    folder = random_adapter(base / "gpt2", tmp_path / "biased", seed=3, bias="all")
    data, silent = base / "words" / "validation.jsonl", lambda done: None
    told: list[int] = []
    _, of_base = evaluate(config, None, data, progress=silent)
    _, alone = evaluate(config, folder, data, progress=silent)
    _, beside = evaluate(config, folder, data, progress=told.append, with_base=True)
    assert list(beside["base_predicted"]) == list(of_base["predicted"])
    assert list(beside["predicted"]) == list(alone["predicted"]) != list(of_base["predicted"])
    assert told == sorted(told) and told[-1] == 2 * len(of_base)


def test_a_damaged_adapter_is_not_asked(base: Path, tmp_path: Path) -> None:
    written = random_adapter(base / "gpt2", tmp_path / "written", seed=3)
    checkpointing.commit_adapter(written, tmp_path / "final", {"step": 1})
    weights = tmp_path / "final" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    asked = Speller("damaged", tiny.config_of(base), tmp_path / "final")
    with pytest.raises(checkpointing.BrokenCheckpoint, match="is not as it was written"):
        Spellers().ask(asked, ["apple"])


def test_only_some_adapters_stay_loaded_and_a_changed_one_is_read_anew(
    spellers: list[Speller], base: Path, tmp_path: Path
) -> None:
    loaded, config = Spellers(), spellers[0].config
    folder = random_adapter(base / "gpt2", tmp_path / "first", seed=1)
    first = Speller("first", config, folder)
    one = [a.predicted for a in loaded.ask(first, TEXTS[:2])]
    for number in range(MAX_ADAPTERS):
        folder = random_adapter(base / "gpt2", tmp_path / f"more{number}", seed=9)
        other = [a.predicted for a in loaded.ask(Speller("more", config, folder), TEXTS[:2])]
    assert len(loaded._model.peft_config) == MAX_ADAPTERS
    assert [a.predicted for a in loaded.ask(first, TEXTS[:2])] == one != other
    random_adapter(base / "gpt2", tmp_path / "first", seed=9)
    assert [a.predicted for a in loaded.ask(first, TEXTS[:2])] == other


def test_a_chat_ends_its_answers_as_its_template_does(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.save_model(tmp_path / "chat" / "gpt2", "gpt2")
    file = tmp_path / "chat" / "gpt2" / "chat_template.jinja"
    file.write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|pad|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    config = tiny.config_of(
        tmp_path / "chat",
        **{"data.path": None, "data.task": "spell_out", "data.template": "chat"},
        **{"evaluation.max_new_tokens": 6},
    )
    ends: list[int] = []

    def spied(*arguments: Any, **options: Any) -> list[list[int]]:
        ends.append(options["eos_token_id"])
        return greedy_answers(*arguments, **options)

    monkeypatch.setattr(answers_module, "greedy_answers", spied)
    (answer,) = Spellers().ask(Speller("base", config), ["tea"])
    assert ends == [tiny.tokenizer().convert_tokens_to_ids("<|pad|>")]
    assert "".join(answer.prompt_tokens) == "[user] Spell the word: tea<|pad|>[assistant] "
    frame = scored(Speller("base", config), [answer], tmp_path / "asked.jsonl")
    assert frame["predicted"].tolist() == [answer.predicted]


def test_a_text_beyond_the_context_is_a_sentence(spellers: list[Speller]) -> None:
    with pytest.raises(QuestionError, match="tokens with its prompt, and .* reads 128; shorten"):
        Spellers().ask(spellers[0], ["tea", "x y " * 200])


# --- the command ----------------------------------------------------------------------------------

ANSWER = {
    "by": str, "question": str, "expected": str, "predicted": str, "correct": bool,
    "edit_distance": int, "probability": float, "likeliest": list, "prompt_tokens": list,
    "answer_tokens": list, "seconds": float,
}  # fmt: skip


def test_the_command_answers_side_by_side_as_json(base: Path, home: Path) -> None:
    one, two = (trained_run(base / "gpt2", seed=seed, name=f"run{seed}") for seed in (1, 2))
    file = home / "data" / "missed.jsonl"
    answer = cli("try", "run1", "apple", "tea", "--vs", two, "--add", str(file), "--json")
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert list(document) == ["models", "words", "added"]
    assert [m["name"] for m in document["models"]] == [str(base / "gpt2"), one, two]
    assert [m["adapter"] for m in document["models"]] == [
        None, *(str(paths.output_dir(run) / "final") for run in (one, two))
    ]  # fmt: skip
    assert [word["text"] for word in document["words"]] == ["apple", "tea"]
    for word in document["words"]:
        assert [a["by"] for a in word["answers"]] == [m["name"] for m in document["models"]]
        for told in word["answers"]:
            assert {name: type(value) for name, value in told.items()} == ANSWER
            assert 1 <= len(told["likeliest"]) <= 3
            for likely in told["likeliest"]:
                assert set(likely) == {"answer", "probability", "correct"}
    assert document["added"] == 2
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"question": "Spell the word: apple", "answer": "a p p l e"},
        {"question": "Spell the word: tea", "answer": "t e a"},
    ]


def test_the_command_prints_a_table_and_reads_lines(base: Path, home: Path) -> None:
    run = trained_run(base / "gpt2", seed=1, name="run1")
    answer = cli("try", "run1", "apple", "--no-baseline")
    assert answer.exit_code == 0, answer.output
    assert "next likeliest" in answer.stdout and f"{run}: 0 of 1 right" in answer.stdout
    assert f"{run}: its tokens " in answer.stdout
    lines = CliRunner().invoke(app, ["try", "run1", "--no-baseline"], input="apple\ntea\n")
    assert lines.exit_code == 0 and f"{run}: 0 of 2 right" in lines.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody", "tea"), "nobody"),
        (("run1", "x" * 1001), "1,001 letters"),
        (("run1", *(f"w{i}" for i in range(201))), "201 words are too many"),
        (("run1", " "), "no word to try"),
        (("run1@7", "tea"), "step-7"),
        (("run1", "tea", "--add", "words.csv"), "has to end in .jsonl"),
    ],
)
def test_a_call_that_cannot_be_answered_is_a_sentence(
    base: Path, home: Path, arguments: tuple[str, ...], told: str
) -> None:
    trained_run(base / "gpt2", seed=1, name="run1")
    answer = cli("try", *arguments)
    assert answer.exit_code == 2 and told in answer.stderr.replace("\n", " "), answer.stderr
