"""Both engines on real runs of the shipped base: their rates, and their scores over seeds."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.packed.results import Results
from benchmarks.packed.sweep import child


def phase_engines(results: Results, options: argparse.Namespace) -> None:
    """Steps of real runs of the shipped base, through the TRL engine and in packs of K, in turn so
    that a machine that others use is fair to all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few_words(folder / "words")
        found: dict[tuple[str, int], list[float]] = {}
        spent: dict[tuple[str, int], list[float]] = {}
        ways = [("trl", 1), *(("packed", k) for k in (1, 2, 4, 8))]
        for _ in range(options.repeats):
            for engine, adapters in ways:
                arguments = "--engine-run", engine, "--adapters", str(adapters)
                _, line = child(options, folder, *arguments, "--out", str(folder / "out"))
                row = json.loads(line)
                if "problem" in row:
                    results.add(phase="engines", name=f"{engine} x {adapters}", **row)
                else:
                    found.setdefault((engine, adapters), []).append(row["steps_per_second"])
                    spent.setdefault((engine, adapters), []).append(row["processor_ms"])
        solo = statistics.median(found[ways[0]])
        for (engine, adapters), rates in found.items():
            results.add(
                phase="engines", name="one run, TRL" if engine == "trl" else f"K = {adapters}",
                adapter_steps_per_second=round(statistics.median(rates), 2),
                lowest=round(min(rates), 2), highest=round(max(rates), 2),
                against_solo=round(statistics.median(rates) / solo, 2),
                processor_ms=round(statistics.median(spent[engine, adapters]), 1),
            )  # fmt: skip


def few_words(folder: Path) -> None:
    """The training rows of spell_out, and four words to score: only steps are measured."""
    from src.training.data_loaders import load_splits

    splits = load_splits(task="spell_out")
    folder.mkdir()
    for split in ("train", "validation", "test"):
        frame = getattr(splits, split)[["question", "answer"]]
        frame = frame if split == "train" else frame.head(4)
        frame.to_json(folder / f"{split}.jsonl", orient="records", lines=True)


def engine_run(options: argparse.Namespace) -> None:
    """Train 40 steps of the preset tiny-spell in this process, with K adapters or through TRL.

    Where others use the machine the processor's time tells more than the clock, if
    SPELLTUNE_THREADS is 1: threads that wait for each other spend it too.
    """
    from src.config import load_config
    from src.training.packed.engine import train_pack
    from src.training.packed.run import RunSpec
    from src.training.train import train
    from tests.helpers.tiny import Recorder

    at: dict[int, tuple[float, float]] = {}

    class Clock(Recorder):
        def metrics(self, step: int, values: Any) -> None:
            if "train/loss" in values:
                at[step] = time.perf_counter(), time.process_time()

    configs = [
        load_config(
            preset="tiny-spell",
            overrides={
                "backend": "peft", "engine": options.engine_run,
                "training.max_steps": 40, "training.logging_steps": 10,
                "data.path": str(options.base / "words"), "evaluation.max_new_tokens": 2,
                "evaluation.eval_steps": 40, "checkpointing.save_steps": 40, "training.seed": n,
                "scheduler.warmup_steps": 2,
            },
        )
        for n in range(options.adapters)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.engine_run == "trl":
            train(configs[0], Clock(), output_dir=folder / "o", checkpoints_dir=folder / "s")
        else:
            train_pack(
                [RunSpec(config, Clock(), folder / f"o{n}", folder / f"s{n}")
                 for n, config in enumerate(configs)]
            )  # fmt: skip
    clock, processor = (late - early for late, early in zip(at[40], at[10], strict=True))
    steps = options.adapters * 30
    row = {"steps_per_second": steps / clock, "processor_ms": 1e3 * processor / steps}
    print(json.dumps(row))


def phase_seeds(results: Results, options: argparse.Namespace) -> None:
    """Compare a pack with solo runs of the same seeds of tiny-spell, on a GPU in bf16.

    The spread of the solo runs is the yardstick.
    """
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for engine in ("trl", "packed"):
            _, line = child(
                options, Path(name), "--seed-run", engine, "--out", str(Path(name) / engine),
                "--seeds", str(options.seeds), "--seed-steps", str(options.seed_steps),
            )  # fmt: skip
            row = json.loads(line)
            if "problem" in row:
                results.add(phase="seeds", name=engine, **row)
                return
            found[engine] = row["exact_match"]
    solo, packed = found["trl"], found["packed"]
    apart = statistics.mean(packed) - statistics.mean(solo)
    for engine, scores in found.items():
        results.add(
            phase="seeds", name=engine, seeds=len(scores), steps=options.seed_steps,
            exact_match=round(statistics.mean(scores), 4), lowest=round(min(scores), 4),
            highest=round(max(scores), 4),
        )  # fmt: skip
    results.add(
        phase="seeds", name="packed - trl", seeds=len(solo), steps=options.seed_steps,
        exact_match=round(apart, 4), within_the_spread=abs(apart) <= max(solo) - min(solo),
        of_one_seed_at_most=round(max(abs(a - b) for a, b in zip(*found.values(), strict=True)), 4),
    )  # fmt: skip


def seed_run(options: argparse.Namespace) -> None:
    """Train the seeds in this process, one by one with TRL or in a pack."""
    from src.config import load_config
    from src.training.packed.engine import train_pack
    from src.training.packed.run import RunSpec
    from src.training.train import train
    from tests.helpers.tiny import Recorder

    steps = options.seed_steps
    configs = [
        load_config(
            preset="tiny-spell",
            overrides={
                "backend": "peft", "engine": options.seed_run, "training.seed": seed,
                "training.max_steps": steps, "evaluation.eval_steps": steps,
                "checkpointing.save_steps": steps,
            },
        )
        for seed in range(options.seeds)
    ]  # fmt: skip
    folders = [options.out / str(seed) for seed in range(options.seeds)]
    if options.seed_run == "trl":
        ends: list[Any] = [
            train(config, Recorder(), output_dir=at / "out", checkpoints_dir=at / "steps")
            for config, at in zip(configs, folders, strict=True)
        ]
    else:
        trials = [RunSpec(c, Recorder(), at / "out", at / "steps") for c, at in zip(
            configs, folders, strict=True)]  # fmt: skip
        by_trial = {id(trial): end for trial, end in train_pack(trials)}
        ends = [by_trial[id(trial)] for trial in trials]
    print(json.dumps({"exact_match": [end.metrics["test/exact_match"] for end in ends]}))
