"""TRL's trainer on the same base, in processes of its own."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.packed.clock import free, synchronize
from benchmarks.packed.models import (
    LENGTH,
    RANKS,
    ROW_KINDS,
    ROWS,
    SHAPES,
    device,
    draw_rows,
    flop_of_a_step,
    random_model,
    targets_of,
)
from benchmarks.packed.results import Results

PEFT_STEPS = 60


ALONE = 10  # first steps of a process, after which it waits for those beside it


def phase_baselines(results: Results, options: argparse.Namespace) -> None:
    """Measure TRL's trainer in subprocesses: default and tuned, with PEFT and with Unsloth."""
    backends = options.backends.split(",") if device() == "cuda" else ["peft"]
    cases = [(backend, setting) for backend in backends for setting in ("default", "tuned")]
    with tempfile.TemporaryDirectory() as folder:
        flop = save_base(options.shape, Path(folder) / "base")
        for backend, setting in cases:
            row = run_baselines(Path(folder), backend, setting, 1, options)
            name = f"trl {backend} {setting}"
            results.add(phase="baselines", name=name, **row, **work(results, flop, row))


def phase_processes(results: Results, options: argparse.Namespace) -> None:
    """Measure several TRL processes at once on one GPU."""
    with tempfile.TemporaryDirectory() as folder:
        flop = save_base(options.shape, Path(folder) / "base")
        for count in (4,) if options.shape.startswith("tiny") else (4, 8):
            row = run_baselines(Path(folder), "peft", "tuned", count, options)
            name = f"trl peft tuned x {count} processes"
            results.add(phase="baselines", name=name, **row, **work(results, flop, row))


def work(results: Results, flop: float, row: dict[str, Any]) -> dict[str, Any]:
    """TFLOP/s of a baseline, and their share of the peak: of the work that the packed engine needs
    for as many steps, whatever a trainer does beside it."""
    tokens, peak = row.get("tokens_per_second"), results.value("large product", "tflops")
    if not tokens:
        return {}
    rate = tokens / (ROWS * LENGTH)  # in steps of uniform rows
    share = {"share_of_peak": round(flop * rate / 1e12 / peak, 4)} if peak else {}
    return {"tflops": round(flop * rate / 1e12, 3), **share}


def save_base(shape: str, folder: Path) -> float:
    """Write the base into `folder`; `flop_of_a_step` of it."""
    import torch

    from src.models.multi_lora.base import read_base
    from tests.helpers import tiny

    # In another process transformers would be imported anew; Unsloth patches only its own.
    dtype = torch.bfloat16 if device() == "cuda" else torch.float32
    model = random_model(shape, dtype)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    flop = flop_of_a_step(read_base(model, targets_of(shape), dtype))
    del model
    free()
    return flop


def run_baselines(
    folder: Path, backend: str, setting: str, count: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Steps per second of `count` processes while all of them train."""
    files = [folder / f"{backend}-{setting}-{count}-{n}.json" for n in range(count)]
    command = [sys.executable, "-m", "benchmarks.packed", "--baseline", backend, setting]
    command += ["--shape", options.shape, "--base", str(folder / "base")]
    command += ["--steps", str(options.steps), "--at-once", str(count)]
    command += ["--rows", options.rows]
    started = time.time()
    logs = [file.with_suffix(".log") for file in files]
    running = []
    for file, log in zip(files, logs, strict=True):
        with open(log, "w") as opened:
            running.append(
                subprocess.Popen([*command, "--out", str(file)], stdout=opened, stderr=opened)
            )
    try:
        for process in running:
            process.wait(max(options.seconds - (time.time() - started), 1))
    except subprocess.TimeoutExpired:
        for process in running:
            process.kill()
        return {"problem": f"not done in {options.seconds} s"}
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    if len(found) < count:
        return {"problem": " / ".join(log.read_text()[-300:] for log in logs)[-900:]}
    # Only the time in which every process trained, after they waited for each other.
    begin, end = max(f["steps"][ALONE] for f in found), min(f["steps"][-1] for f in found)
    steps = sum(sum(begin < at <= end for at in f["steps"]) for f in found)
    gaps = [
        b - a
        for f in found
        for a, b in zip(f["steps"][ALONE:], f["steps"][ALONE + 1 :], strict=False)
    ]
    return {
        "steps_per_second": round(steps / (end - begin), 2) if end > begin else None,
        "median_step_ms": round(1e3 * statistics.median(gaps), 2),
        "fastest_ms": round(1e3 * min(gaps), 2),
        "slowest_ms": round(1e3 * max(gaps), 2),
        "tokens_per_second": round(sum(f["tokens"] for f in found) / count * steps / (end - begin))
        if end > begin
        else None,
        "gib": found[0]["gib"],
        "seconds_to_first_step": round(max(f["steps"][0] for f in found) - started, 1),
        "used": found[0]["used"],
    }


def baseline(
    backend: str, setting: str, shape: str, base: str, out: Path, steps: int, count: int, rows: str
) -> None:
    """Train with TRL in this process, beside `count` - 1 others, and write when each step ended."""
    from src.models import spelling_model as spelling

    precision = "bf16" if device() == "cuda" else "fp32"
    used, note = spelling.choose_backend(backend, precision=precision)
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tuned = setting == "tuned"
    vocabulary = spelling.load_vocabulary(base, revision=None)
    shared = {"max_length": 64, "gradient_checkpointing": not tuned, "seed": 0}
    model = spelling.load_base(
        base, vocabulary, revision=None, load_in_4bit=False, precision=precision, backend=used,
        **shared,
    )  # fmt: skip
    model, _ = spelling.add_lora(
        model, backend=used, r=RANKS[-1], alpha=32, dropout=0.0, target_modules=targets_of(shape),
        bias="none", **shared,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    top = min(SHAPES[shape]["vocabulary"], 1500)
    drawn, prompts, answers = draw_rows(ROW_KINDS[rows], (ROWS * 8,), top, generator)
    ids, labels = [], []
    for row, prompt, answer in zip(
        drawn.tolist(), prompts[:, 0].tolist(), answers[:, 0].tolist(), strict=True
    ):
        ids.append(row[: prompt + answer])
        labels.append([-100] * prompt + row[prompt : prompt + answer])
    steps = steps if device() == "cuda" else 14
    extra: dict[str, Any] = {}
    if tuned:
        extra = {
            "logging_nan_inf_filter": False,
            "logging_steps": 50,
            "dataloader_pin_memory": True,
        }
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if len(ends) == ALONE:
                # Those beside it start at other moments; only steps at the same time count.
                out.with_suffix(".ready").touch()
                while len(list(out.parent.glob(f"{backend}-{setting}-{count}-*.ready"))) < count:
                    time.sleep(0.01)
            ends.append(time.time())

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            synchronize()
            ends[-1] = time.time()

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=ROWS,
                gradient_accumulation_steps=1, learning_rate=2e-4, max_length=64,
                bf16=precision == "bf16", use_cpu=precision == "fp32",
                gradient_checkpointing=not tuned, save_strategy="no", report_to="none",
                disable_tqdm=True, packing=False, remove_unused_columns=False, loss_type="nll",
                dataset_kwargs={"skip_prepare_dataset": True}, **extra,
            ),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
            processing_class=vocabulary.tokenizer,
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    peak = torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_available() else None
    out.write_text(
        json.dumps(
            {
                "steps": ends,
                "gib": peak and round(peak, 2),
                "used": note or used,
                "tokens": ROWS * sum(map(len, ids)) / len(ids),  # of a step
            }
        )  # fmt: skip
    )
