"""Base models and adapters: what is loaded, what is trained, what is refused."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.models import spelling_model as spelling
from src.models.generation import greedy_answers
from src.models.utils import ModelError, parameter_counts, random_state_kept, resolve_precision
from tests.helpers import tiny

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def load(folder: Path | str, **changes: Any) -> tuple[Any, Any]:
    vocabulary = spelling.load_vocabulary(str(folder))
    options: dict[str, Any] = {
        "revision": None,
        "load_in_4bit": False,
        "max_length": 64,
        "precision": "fp32",
        "backend": "peft",
        "gradient_checkpointing": False,
        "seed": 0,
    } | changes
    return spelling.load_base(str(folder), vocabulary, **options), vocabulary.tokenizer


def lora(model: Any, **changes: Any) -> tuple[Any, list[str]]:
    options: dict[str, Any] = {
        "backend": "peft",
        "r": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "target_modules": None,
        "bias": "none",
        "gradient_checkpointing": False,
        "max_length": 64,
        "seed": 0,
    } | changes
    return spelling.add_lora(model, **options)


def test_target_modules_follow_the_architecture(base: Path) -> None:
    for shape, expected in {
        "gpt2": ["c_attn", "c_fc", "c_proj"],
        "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    }.items():
        model, targets = lora(load(base / shape)[0])
        assert targets == expected
        adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A.default")]
        assert {name.split(".")[-3] for name in adapted} == set(expected)
        assert not any("lm_head" in name or "wte" in name for name in adapted)


def test_own_target_modules(base: Path) -> None:
    assert lora(load(base / "llama")[0], target_modules=["v_proj", "q_proj"])[1] == [
        "q_proj",
        "v_proj",
    ]
    with pytest.raises(ModelError, match="no linear layer q_proj; it has c_attn, c_fc, c_proj"):
        lora(load(base / "gpt2")[0], target_modules=["q_proj", "c_attn"])


def test_only_the_adapter_is_trained_and_it_is_fp32(base: Path) -> None:
    model, _ = lora(load(base / "gpt2")[0])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    # r x (in + out) for c_attn, c_proj, c_fc and the second c_proj, in 2 layers 64 wide.
    expected = 2 * 4 * ((64 + 192) + (64 + 64) + (64 + 256) + (256 + 64))
    assert parameter_counts(model)["trainable_parameters"] == expected


def test_the_adapter_comes_from_the_seed(base: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        model, _ = lora(load(base / "gpt2")[0], seed=seed)
        return next(p for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_dropout_in_the_base_is_off(base: Path) -> None:
    assert json.loads((base / "gpt2" / "config.json").read_text())["resid_pdrop"] == 0.1
    model, tokenizer = load(base / "gpt2")
    model.train()
    ids = torch.tensor([tokenizer("apple")["input_ids"]])
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_greedy_answers_are_those_of_one_row_without_a_cache(base: Path, shape: str) -> None:
    model, tokenizer = load(base / shape)
    prompts = [tokenizer(text)["input_ids"] for text in ("<human>: banana", "c", "umbrella tree")]
    batched = greedy_answers(
        model,
        prompts,
        max_new_tokens=6,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    for prompt, answer in zip(prompts, batched, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) < len(prompt) + 6 and ids[-1] != tokenizer.eos_token_id:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == [i for i in ids[len(prompt) :] if i != tokenizer.eos_token_id]


def test_answers_end_at_eos(base: Path) -> None:
    model, tokenizer = load(base / "gpt2")
    with torch.no_grad():  # whatever it reads, it ends
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(100 * model.transformer.wte.weight[0])
    ids = tokenizer("apple")["input_ids"]
    answers = greedy_answers(
        model, [ids], max_new_tokens=5, pad_token_id=1, eos_token_id=tokenizer.eos_token_id
    )
    assert tokenizer.eos_token_id == 0 and answers == [[]]


def test_a_tokenizer_without_pad_pads_with_eos(base: Path, tmp_path: Path) -> None:
    tiny.save_model(tmp_path, "gpt2")
    words = tiny.tokenizer()
    words.pad_token = None
    words.save_pretrained(tmp_path)
    model, tokenizer = load(tmp_path)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert model.get_input_embeddings().weight.shape[0] == 320


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder, and it is no hub id"):
        spelling.load_vocabulary(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="cannot be read"):
        spelling.load_vocabulary(str(tmp_path))


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError
    from transformers import AutoConfig

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("We couldn't connect") from LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="hub cannot be reached; connect this machine, or take"):
        spelling.load_vocabulary("gpt2")


def test_a_model_with_its_own_code_is_refused(base: Path, tmp_path: Path) -> None:
    tiny.save_model(tmp_path, "gpt2")
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    file.write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="own code"):
        spelling.load_vocabulary(str(tmp_path))
    own = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    file.write_text(json.dumps(config | own))
    with pytest.raises(ModelError, match="own code"):
        spelling.load_vocabulary(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@on_cpu
def test_without_a_gpu(base: Path) -> None:
    with pytest.raises(ModelError, match="load_in_4bit needs an NVIDIA GPU"):
        load(base / "gpt2", load_in_4bit=True)
    backend, note = spelling.choose_backend("auto", precision="fp32")
    assert backend == "peft" and note is not None and "NVIDIA GPU" in note
    assert spelling.choose_backend("peft", precision="fp32") == ("peft", None)
    with pytest.raises(ModelError, match="take backend auto or peft"):
        spelling.choose_backend("unsloth", precision="bf16")
    assert resolve_precision("auto") == "fp32"
    assert resolve_precision("bf16") == "bf16"
    with pytest.raises(ModelError, match="fp16 needs a GPU"):
        resolve_precision("fp16")


def test_random_state_is_kept() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with random_state_kept():
        draw()
    assert draw() == undisturbed
