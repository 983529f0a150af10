"""Evaluation of many adapters: packed, and with transformers' generate one by one."""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.packed.clock import free, gib, timed
from benchmarks.packed.models import RANKS, device, pack_of, random_model, targets_of
from benchmarks.packed.results import Results
from benchmarks.packed.sweep import words
from src.models.prompt_format import raw_format


def phase_decode(results: Results, options: argparse.Namespace) -> None:
    """Evaluate 64 adapters x 400 words: packed, and with generate adapter by adapter."""
    import torch

    from src.models import spelling_model as spelling
    from src.models.multi_lora.base import read_base
    from src.models.multi_lora.step import Options
    from src.training import scoring
    from src.training.packed.scorer import Scorer
    from tests.helpers import tiny

    adapters = 4 if options.shape.startswith("tiny") else 64
    count = 40 if options.shape.startswith("tiny") else 400
    dtype = torch.bfloat16 if device() == "cuda" else torch.float32
    tokenizer = tiny.tokenizer()
    with tempfile.TemporaryDirectory() as name:
        words(Path(name) / "words")
        import pandas as pd

        frame = pd.read_json(Path(name) / "words" / "test.jsonl", lines=True)[:count]
    frame["word"] = frame["question"]
    form = raw_format("<human>: {question}\n<assistant>:")
    rows = scoring.encode(tokenizer, frame, form)
    # Random weights never end an answer: both ways decode the same number of tokens.
    asked: dict[str, Any] = {"batch_size": count, "max_new_tokens": 20}
    model = random_model(options.shape, dtype)
    base = read_base(model, targets_of(options.shape), dtype)
    pack = pack_of(base, adapters)
    scorer = Scorer(base, tokenizer, 128, Options(kernels=device() == "cuda"))
    members = [(slot, rows) for slot in range(adapters)]
    scorer.score(pack.stacks, members[:2], **asked)
    free()
    times = timed(lambda: scorer.score(pack.stacks, members, **asked), 1, least=2)
    packed = statistics.median(times)
    results.add(
        phase="decode", name="packed", words_per_second=round(adapters * count / packed),
        seconds=round(packed, 2), gib=gib(),
        row_tokens=round(sum(map(len, rows)) / len(rows), 1),
        answer_tokens=round(sum(len(row.answer_ids) for row in rows) / len(rows), 1),
    )  # fmt: skip
    free()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    adapted, _ = spelling.add_lora(
        model, backend="peft", r=RANKS[-1], alpha=32, dropout=0.0,
        target_modules=targets_of(options.shape), bias="none", gradient_checkpointing=False,
        max_length=64, seed=0,
    )  # fmt: skip
    precision = "bf16" if device() == "cuda" else "fp32"

    def one() -> None:
        scoring.score(adapted, tokenizer, rows, precision=precision, context=128, **asked)

    one()
    alone = statistics.median(timed(one, 1, least=3))
    results.add(
        phase="decode", name="generate, one adapter after the other",
        words_per_second=round(count / alone), seconds=round(alone * adapters, 2), gib=gib(),
        packed_is_faster_by=round(alone * adapters / packed, 1),
    )  # fmt: skip
