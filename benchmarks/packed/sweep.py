"""A whole sweep in one packed process, and its trials alone."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.packed.baselines import save_base
from benchmarks.packed.clock import gib
from benchmarks.packed.models import ALPHAS, ANSWER, RANKS, RATES, ROWS
from benchmarks.packed.results import STARTED, Results


def words(folder: Path) -> None:
    """Questions of random letters: rows of about LENGTH tokens, ANSWER of them the answer's."""
    import random

    draw = random.Random(0)
    folder.mkdir()
    for split, count in (("train", 2000), ("validation", 400), ("test", 400)):
        lines = []
        for _ in range(count):
            word = "".join(draw.choices("qwxzjkvybhgf", k=ANSWER - 3))
            lines.append(json.dumps({"question": word, "answer": " ".join(word)}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


def sweep_settings(folder: Path, steps: int) -> dict[str, Any]:
    """Settings that all trials of the grid share."""
    return {
        "backend": "peft", "model.name": str(folder / "base"), "model.load_in_4bit": False,
        "model.max_length": 64, "data.path": str(folder / "words"), "lora.dropout": 0.0,
        "training.max_steps": steps, "training.per_device_train_batch_size": ROWS,
        "training.logging_steps": 50, "training.gradient_checkpointing": False,
        "evaluation.eval_steps": steps, "evaluation.batch_size": 400,
        "checkpointing.save_steps": steps, "early_stopping.patience": None,
    }  # fmt: skip


def sweep_config(folder: Path, index: int, options: argparse.Namespace) -> Any:
    """Trial `index` of the grid r x alpha x learning rate."""
    from src.config import load_config

    return load_config(
        overrides={
            **sweep_settings(folder, options.sweep_steps), "lora.r": RANKS[index % 4],
            "lora.alpha": ALPHAS[index // 4 % 4], "training.learning_rate": RATES[index // 16 % 4],
            "engine": options.solo_engine,
        }
    )  # fmt: skip


def sweep_files(options: argparse.Namespace, folder: Path) -> None:
    save_base(options.shape, folder / "base")
    words(folder / "words")


def child(options: argparse.Namespace, folder: Path, *arguments: str) -> tuple[float, str]:
    """Run this script as a subprocess; its seconds, and the last line that it printed."""
    command = [sys.executable, "-m", "benchmarks.packed", "--shape", options.shape, "--base"]
    command += [str(folder), "--sweep-steps", str(options.sweep_steps), "--trials"]
    command += [str(options.trials), "--solo-engine", options.solo_engine, *arguments]
    started = time.time()
    file = folder / f"{uuid.uuid4()}.log"
    with open(file, "w") as log:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=options.seconds
            )
        except subprocess.TimeoutExpired:
            return time.time() - started, json.dumps({"problem": f"over {options.seconds} s"})
    if done.returncode:
        problem = file.read_text()[-900:]
        return time.time() - started, json.dumps({"problem": problem})
    return time.time() - started, done.stdout.strip().splitlines()[-1]


def phase_sweep(results: Results, options: argparse.Namespace) -> None:
    """Measure the whole grid in one packed process, from launch to evaluated, saved adapters."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep_files(options, folder)
        seconds, line = child(options, folder, "--sweep-run", "--out", str(folder / "out"))
        saved = len(list((folder / "out").glob("*/out/final/adapter_model.safetensors")))
        results.add(
            phase="sweep", name=f"packed, {options.trials} trials x {options.sweep_steps} steps",
            seconds=round(seconds, 1), saved=saved, **json.loads(line),
        )  # fmt: skip


def phase_solo(results: Results, options: argparse.Namespace) -> None:
    """Measure some trials of the grid, one process each, `--at-once` at the same time."""

    def one(index: int) -> None:
        trial = (index * 7) % options.trials
        seconds, line = child(
            options, folder, "--solo-run", str(trial), "--out", str(folder / f"solo{index}")
        )
        others = f", {options.at_once} at once" if options.at_once > 1 else ""
        results.add(
            phase="sweep",
            name=f"alone ({options.solo_engine}), trial {trial} x {options.sweep_steps} "
            f"steps{others}",
            seconds=round(seconds, 1), **json.loads(line),
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.at_once) as pool:
        folder = Path(name)
        sweep_files(options, folder)
        list(pool.map(one, range(options.first_solo, options.first_solo + options.solos)))


def sweep_run(options: argparse.Namespace) -> None:
    from src.training.packed.engine import train_pack
    from src.training.packed.run import RunSpec
    from tests.helpers.tiny import Recorder

    class Clocked(Recorder):
        first = 0.0

        def metrics(self, step: int, values: Any) -> None:
            super().metrics(step, values)
            if "train/loss" in values and not Clocked.first:
                Clocked.first = time.time()

    imported = time.time()
    trials = [
        RunSpec(
            sweep_config(options.base, n, options), Clocked(), options.out / str(n) / "out",
            options.out / str(n) / "steps",
        )
        for n in range(options.trials)
    ]  # fmt: skip
    for trial in trials:
        trial.output_dir.mkdir(parents=True)
    found = train_pack(trials)
    problems = [repr(outcome) for _, outcome in found if isinstance(outcome, Exception)]
    print(
        json.dumps(
            {
                "imported_at": round(imported - STARTED, 1),
                "first_log_at": round(Clocked.first - STARTED, 1),
                "ended_at": round(time.time() - STARTED, 1),
                "gib": gib(),
                "problems": problems[:2],
            }
        )
    )


def solo_run(options: argparse.Namespace) -> None:
    from src.training.train import train
    from tests.helpers.tiny import Recorder

    options.out.mkdir(parents=True)
    config = sweep_config(options.base, options.solo_run, options)
    result = train(
        config, Recorder(), output_dir=options.out / "out", checkpoints_dir=options.out / "steps"
    )
    print(json.dumps({"ended_at": round(time.time() - STARTED, 1), "step": result.step}))
