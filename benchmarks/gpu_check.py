"""Train GPT-2 and Llama shapes in 16 and in 4 bits, with PEFT and with Unsloth.

`python -m benchmarks.gpu_check [--parallel N] [--out FOLDER]` prints a table and, with --out,
writes it with gpu_check.json. Weights are random: it shows that each way works, and its cost.
"""

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

STARTED = time.time()
STEPS = 20
CASES = list(itertools.product(("gpt2", "llama"), (16, 4), ("peft", "unsloth")))
COLUMNS = {
    "shape": "model",
    "bits": "bits",
    "asked": "backend asked",
    "backend": "used",
    "seconds_to_first_step": "to first step, s",
    "steps_per_second": "steps/s",
    "memory_gib": "peak memory, GiB",
    "first_loss": "first loss",
    "last_loss": "last loss",
    "adapter_mib": "adapter, MiB",
    "problem": "problem",
}


def run_case(shape: str, bits: int, backend: str) -> dict[str, Any]:
    """Train `STEPS` steps in this process and return its measurements."""
    from src.config import load_config
    from src.training.train import train
    from tests.helpers import tiny

    class Timed(tiny.Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.at: dict[int, float] = {}

        def metrics(self, step: int, values: Mapping[str, float]) -> None:
            super().metrics(step, values)
            if "train/loss" in values:
                self.at[step] = time.time()

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # transformers must not be imported before Unsloth, so another process writes the model.
        code = "import sys; from tests.helpers import tiny; tiny.save_model(*sys.argv[1:], 768, 12)"
        subprocess.run([sys.executable, "-c", code, str(home / "base"), shape], check=True)
        config = load_config(
            preset="tiny-spell",
            overrides={
                "backend": backend,
                "model.name": str(home / "base"),
                "model.load_in_4bit": bits == 4,
                "training.max_steps": STEPS,
                "training.logging_steps": 1,
                "training.gradient_accumulation_steps": 2,
                "scheduler.warmup_steps": 2,
                "evaluation.eval_steps": STEPS,
            },
        )
        reporter = Timed()
        result = train(config, reporter, output_dir=home / "out", checkpoints_dir=home / "steps")
        losses = reporter.curve("train/loss")
        adapter = home / "out" / "final" / "adapter_model.safetensors"
        memory = reporter.curve("gpu/memory_gib")
        problems = [f"loss at step {s} is {v}" for s, v in losses.items() if not math.isfinite(v)]
        if not losses[STEPS] < losses[1]:
            problems.append("the loss did not fall")
        if result.step != STEPS:
            problems.append(f"ended at step {result.step}")
        return {
            "backend": reporter.values["backend"],
            "note": reporter.values["backend_note"],
            "seconds_to_first_step": round(reporter.at[1] - STARTED, 1),
            "steps_per_second": round((STEPS - 5) / (reporter.at[STEPS] - reporter.at[5]), 2),
            "memory_gib": round(max(memory.values()), 2) if memory else None,
            "first_loss": round(losses[1], 3),
            "last_loss": round(losses[STEPS], 3),
            "adapter_mib": round(adapter.stat().st_size / 2**20, 2),
            "problem": "; ".join(problems),
            "metrics": result.metrics,
            "used": reporter.values,
        }


def start_case(case: tuple[str, int, str], logs: Path) -> dict[str, Any]:
    """Run `run_case` in a subprocess, because Unsloth patches libraries permanently."""
    shape, bits, backend = case
    out = logs / f"{shape}-{bits}-{backend}.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--case", *map(str, case)]
    log = out.with_suffix(".log")
    with open(log, "w") as file:
        done = subprocess.run([*command, "--out", str(out)], stdout=file, stderr=subprocess.STDOUT)
    row = {"shape": shape, "bits": bits, "asked": backend}
    if done.returncode == 0:
        return row | json.loads(out.read_text())
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return row | {"problem": lines[-1] if lines else f"exit {done.returncode}", "log": lines[-40:]}


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        cells = ("" if row.get(key) is None else str(row[key]) for key in COLUMNS)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=3, metavar=("SHAPE", "BITS", "BACKEND"))
    parser.add_argument("--parallel", type=int, default=1, help="cases at once on the one GPU")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.case:
        shape, bits, backend = options.case
        row = run_case(shape, int(bits), backend)
        options.out.write_text(json.dumps(row, default=str))
        return 0
    import torch

    if not torch.cuda.is_available():
        print("gpu_check needs an NVIDIA GPU, and there is none here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as logs, ThreadPoolExecutor(options.parallel) as pool:
        rows = list(pool.map(lambda case: start_case(case, Path(logs)), CASES))
    print(markdown(rows))
    versions = next((row["used"]["versions"] for row in rows if "used" in row), {})
    print(f"\n{torch.cuda.get_device_name()}, {versions}, {options.parallel} cases at once")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu_check.md").write_text(markdown(rows) + "\n")
        (options.out / "gpu_check.json").write_text(json.dumps(rows, indent=1))
    return 1 if any(row["problem"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
