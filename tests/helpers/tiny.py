"""Random-weight models, data and a reporter for tests of training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from src.config import RunConfig, load_config

WORDS = [
    word
    for line in (
        "apple banana cherry dragon engine forest garden hammer island jungle kitten lemon mirror",
        "number orange pencil quiver rabbit silver tunnel umbrella velvet window yellow zebra",
    )
    for word in line.split()
]


def tokenizer() -> Any:
    """A byte-level BPE of 300 tokens with <|end|> as EOS and <|pad|> as PAD."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [f"<human>: {word}\n<assistant>: {' '.join(word)}" for word in WORDS],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|end|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=128
    )


def save_model(
    folder: Path | str, shape: str, width: int = 64, layers: int = 2, *, seed: int = 0
) -> None:
    """A base model with random weights: `gpt2` or `llama`, 4 heads, context of 128 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    common = {
        "vocab_size": 320,
        # Frozen embeddings bound the logits; a narrow model could learn nothing with 0.02.
        "initializer_range": 19.2 / width,
        "bos_token_id": words.eos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    torch.manual_seed(seed)
    model: Any
    if shape == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(n_layer=layers, n_embd=width, n_head=4, n_positions=128, **common)
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=layers,
                hidden_size=width,
                intermediate_size=2 * width,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                **common,
            )
        )
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def frame(words: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"question": words, "answer": [" ".join(word) for word in words], "word": words}
    )


def data(folder: Path, train: int = 15, validation: int = 5, test: int = 5) -> Path:
    """A folder with train, validation and test.jsonl of words to spell letter by letter."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "train": WORDS[:train],
        "validation": WORDS[train : train + validation],
        "test": WORDS[train + validation : train + validation + test],
    }
    for split, words in parts.items():
        lines = [json.dumps({"question": w, "answer": " ".join(w)}) for w in words]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def config_of(base: Path, **changes: object) -> RunConfig:
    """12 steps over 15 rows, 4 rows a step: the third epoch ends in the last step."""
    values: dict[str, object] = {
        "backend": "peft",
        "engine": "trl",
        "model.name": str(base / "gpt2"),
        "model.max_length": 64,
        "data.path": str(base / "words"),
        "lora.dropout": 0.1,
        "training.max_steps": 12,
        "training.per_device_train_batch_size": 2,
        "training.gradient_accumulation_steps": 2,
        "training.learning_rate": 5e-3,
        "training.logging_steps": 1,
        "scheduler.warmup_steps": 2,
        "evaluation.eval_steps": 4,
        "evaluation.max_new_tokens": 4,
        "checkpointing.save_steps": 3,
        "early_stopping.metric": "val/loss",
        "early_stopping.mode": "min",
    }
    return load_config(overrides=values | changes)


class Recorder:
    """A Reporter that keeps what it is told, and asks to stop once step `stop_at` was reported."""

    def __init__(self, stop_at: int | None = None):
        self.points: list[tuple[int, str, float]] = []
        self.evaluations: list[tuple[int, str, pd.DataFrame]] = []
        self.checkpoints: list[tuple[int, Path, bool]] = []
        self.removed: list[int] = []
        self.values: dict[str, Any] = {}
        self.phases: list[str] = []
        self.warnings: list[tuple[int, str]] = []
        self.stop_at = stop_at

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.points += [(step, name, float(value)) for name, value in values.items()]

    def evaluation(self, step: int, split: str, predictions: pa.Table) -> None:
        self.evaluations.append((step, split, predictions.to_pandas()))

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        self.checkpoints.append((step, path, is_best))

    def checkpoint_removed(self, step: int) -> None:
        self.removed.append(step)

    def used(self, values: Mapping[str, Any]) -> None:
        self.values.update(values)

    def warning(self, step: int, text: str) -> None:
        self.warnings.append((step, text))

    def phase(self, text: str, *, scoring: bool = False) -> None:
        self.phases.append(text)

    def stop_requested(self) -> bool:
        return self.stop_at is not None and any(step >= self.stop_at for step, _, _ in self.points)

    def curve(self, name: str) -> dict[int, float]:
        return {step: value for step, at, value in self.points if at == name}
