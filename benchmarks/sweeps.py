"""Measure the figures of "Sweeps" in docs/results.md.

`python -m benchmarks.sweeps --home DIR --phases plan,grid,replay` prints them as Markdown.

plan    plans and lists the 4,096 trials of configs/sweeps/seed-grid.yaml.
grid    trains its sub-grid of rank, alpha and learning rate, a real sweep of 64 trials: of the
        small model that ships, or with `--shape gpt2` of random weights in that shape, for which
        it needs a GPU. `--confirm` trains the three best and the default with five more seeds.
        Runs that DIR has already are not trained again.
replay  lets grid, random, TPE and TPE with ASHA search that fully measured table at equal cost.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import TrialState

from src import paths, store
from src.store.tables import Run, Status, Sweep, SweepStatus
from src.sweeps import estimate, results, search
from src.sweeps.file import SweepConfig, base_config, load_sweep, trial_config
from src.sweeps.pruning import Pruning
from src.sweeps.search import PastTrial

SEED_GRID = paths.ROOT / "configs" / "sweeps" / "seed-grid.yaml"
SEARCHED = ("lora.r", "lora.alpha", "training.learning_rate")
SEEDS = range(5)
BUDGETS = (4, 8, 16, 32)  # whole trials
WAYS = {
    "grid": {"method": "grid"},
    "random": {"method": "random"},
    "TPE": {"method": "tpe"},
    "TPE + ASHA": {"method": "tpe", "pruner": "asha"},
}


def timed(what: Any, repeats: int = 5) -> tuple[float, float, float]:
    """Median, least and most milliseconds."""
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        what()
        took.append(1e3 * (time.perf_counter() - started))
    return statistics.median(took), min(took), max(took)


# --- plan -----------------------------------------------------------------------------------------


def phase_plan() -> None:
    """Measure planning and listing, in a separate store."""
    own = os.environ["SPELLTUNE_HOME"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPELLTUNE_HOME"] = folder
        try:
            _plan()
        finally:
            os.environ["SPELLTUNE_HOME"] = own


def _plan() -> None:
    def planned() -> None:
        search._grid.cache_clear()
        sweep = load_sweep(SEED_GRID)
        estimate.estimate_sweep(sweep, sweep.seed)

    print("| 4,096 trials | median, ms | least to most |\n|---|---|---|")
    told("read the file, plan it and count duplicates", timed(planned))
    sweep = load_sweep(SEED_GRID)
    base = base_config(sweep)
    with store.writing() as session:
        row = Sweep(
            id="seed-grid", name="seed-grid", file=SEED_GRID.read_text(), path=str(SEED_GRID),
            folder=str(paths.ROOT), status=SweepStatus.COMPLETED, seed=0, created_at=time.time(),
        )  # fmt: skip
        session.add(row)
        for number, cell in enumerate(search.grid(sweep, 0)):
            config = trial_config(sweep, base, cell, number)
            run = store.enqueue(
                session, config, sweep_id=row.id, number=number, seed_index=0, searched=cell
            )
            run.status, run.step = Status.COMPLETED, config.training.max_steps
            run.started_at, run.ended_at = run.created_at, run.created_at + 60
            points = [(run.step, sweep.metric, number % 997 / 997, run.created_at)]
            store.record_metrics(session, run.id, 1, points)

    def listed() -> None:
        with store.reading() as session:
            found = results.read(session, store.find_sweep(session, "seed-grid"))
        assert len(found.trials) == 4096 and len(found.settings) == 4096

    told("list all with their scores and settings, best first", timed(listed))


def told(what: str, took: tuple[float, float, float]) -> None:
    print(f"| {what} | {took[0]:,.0f} | {took[1]:,.0f} to {took[2]:,.0f} |")


# --- grid -----------------------------------------------------------------------------------------


def sweep_file(home: Path, shape: str | None) -> Path:
    """The sub-grid as a sweep file."""
    whole = yaml.safe_load(SEED_GRID.read_text())
    overrides: dict[str, Any] = {"engine": "packed", "backend": "peft", "tracking.mode": "off"}
    if shape is None:
        overrides |= {
            "training.max_steps": 120, "evaluation.eval_steps": 20, "evaluation.max_rows": 100,
            "checkpointing.save_steps": 120, "pack_size": 4,  # two cores are full with fewer
        }  # fmt: skip
    else:
        from benchmarks.packed.baselines import save_base
        from benchmarks.packed.models import ROWS
        from benchmarks.packed.sweep import words

        if not (home / "base").exists():
            save_base(shape, home / "base")
            words(home / "words")
        steps = 500 if shape == "gpt2" else 20
        overrides |= {
            "model.name": str(home / "base"), "data.path": str(home / "words"),
            "model.max_length": 64, "training.per_device_train_batch_size": ROWS,
            "training.max_steps": steps, "evaluation.eval_steps": steps,
            "evaluation.batch_size": 400, "checkpointing.save_steps": steps,
        }  # fmt: skip
    file = home / "sub-grid.yaml"
    space = {name: whole["space"][name] for name in SEARCHED}
    base = {"preset": "tiny-spell", "overrides": overrides}
    # By loss: at these rates so few steps teach the small model hardly a whole word.
    metric = {"metric": "val/loss", "mode": "min"}
    text = {"name": "sub-grid", "base": base, "method": "grid", **metric, "space": space}
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    return file


def phase_grid(home: Path, shape: str | None, confirm: bool) -> None:
    file = sweep_file(home, shape)
    with store.reading() as session:
        there = store.list_sweeps(session)
    started = time.time()
    if there:
        sweep_id = there[0].id
    else:
        command = [sys.executable, "-m", "src.cli", "sweep", "launch", str(file)]
        answer = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
        if answer.returncode:
            raise SystemExit(answer.stderr)
        sweep_id = answer.stdout.strip()
    found = waited(sweep_id)
    print(f"watched for {time.time() - started:,.0f} s\n")
    if confirm and not found.confirming:
        results.confirm(found)
    while confirm and results.is_confirming(found := read(sweep_id)):
        time.sleep(1)
    summary(found)


def read(sweep_id: str) -> results.SweepResults:
    with store.reading() as session:
        return results.read(session, store.find_sweep(session, sweep_id))


def waited(sweep_id: str) -> results.SweepResults:
    while (found := read(sweep_id)).row.status == SweepStatus.ACTIVE:
        time.sleep(0.5)
    return found


def summary(found: results.SweepResults) -> None:
    trials, sweep = found.trials, found.sweep
    with store.reading() as session:
        runs = store.runs_of(session, list(trials["run"]))
        judged, told = results.judge(session, found)
        best_test = store.trial_metrics(session, found.row.id, {"test/exact_match"})
    began = found.row.created_at
    took = max(run.ended_at or began for run in runs) - began
    steps = sum(run.step or 0 for run in runs)
    # Members of a pack share a process.
    packs = {(run.trainer_pid, run.boot_id) for run in runs}
    slots = sorted({run.used.get("slots") for run in runs if run.used.get("slots")})
    first = min(run.started_at or began for run in runs) - began
    print(
        f"{', '.join(f'{n} {what}' for what, n in found.counts.items())}; {took:,.1f} s from "
        f"launch to the last end, {first:,.1f} s to the first claim; {steps:,} adapter-steps in "
        f"{len(packs)} processes of up to {slots} adapters: {steps / took:,.1f} a second of all\n"
    )
    for run in runs:
        if run.status != Status.COMPLETED:
            print(f"- {run.id}: {run.status}, {run.reason}")
    columns = [*sweep.space, "score"]
    print("| " + " | ".join(columns) + " | test |\n|" + "---|" * (len(columns) + 1))
    ranked = found.settings
    for place, (_, row) in enumerate(ranked.iterrows()):
        if place < 5 or place >= len(ranked) - 2:
            test = best_test.get(row["run"], {}).get("test/exact_match")
            cells = [f"{row[c]:g}" for c in columns] + ["" if test is None else f"{test:.3f}"]
            print("| " + " | ".join(cells) + " |")
    for name in sweep.space:
        means = ranked.groupby(name)["score"].mean()
        print(f"\n{name}: " + ", ".join(f"{v:g} {m:.3f}" for v, m in means.items()))
    print()
    for name, share in results.importance(found).items():
        print(f"importance of {name}: {share:.0%}")
    print()
    for verdict in judged:
        print(f"- {verdict.claim} ({told})")


# --- replay ---------------------------------------------------------------------------------------


def phase_replay() -> None:
    """Trials one after the other, as one slot trains them, each as the table says."""
    with store.reading() as session:
        row = store.list_sweeps(session)[0]
        found = results.read(session, row)
        curves: dict[str, dict[int, float]] = {}
        for run, step, value, _ in store.reports(session, row.id, found.sweep.metric):
            curves.setdefault(run, {})[step] = value
    table: dict[tuple[Any, ...], dict[int, float]] = {}
    for _, trial in found.trials.iterrows():
        table[tuple(trial[name] for name in SEARCHED)] = curves[trial["run"]]
    whole = max(found.trials["max_steps"])
    better = min if found.sweep.mode == "min" else max
    lasts = sorted(curve[whole] for curve in table.values())
    print(
        f"{found.sweep.metric} after {whole} steps in the table: {lasts[0]:.3f} to "
        f"{lasts[-1]:.3f}, median {statistics.median(lasts):.3f}\n"
    )
    print("| way | " + " | ".join(f"{n} trials' steps" for n in BUDGETS) + " | trials begun |")
    print("|---|" + "---|" * (len(BUDGETS) + 1))
    for name, changes in WAYS.items():
        sweep = found.sweep.model_copy(update=changes | {"budget": "1000 trials"})
        cells: list[list[float]] = [[] for _ in BUDGETS]
        begun = []
        for seed in SEEDS:
            ends = list(searched(sweep, seed, table, whole, whole * BUDGETS[-1]))
            begun.append(len(ends))
            for cell, budget in zip(cells, BUDGETS, strict=True):
                cell.append(better(score for at, score in ends if at <= whole * budget))
        shown = [f"{statistics.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in cells]
        print(f"| {name} | " + " | ".join(shown) + f" | {statistics.mean(begun):.0f} |")


def searched(
    sweep: SweepConfig, seed: int, table: dict[tuple[Any, ...], dict[int, float]], whole: int,
    most: int,
) -> Iterator[tuple[int, float]]:  # fmt: skip
    """(steps spent, last score of the trial) at the end of each trial, by the search's own code."""
    base = base_config(sweep)
    pruning = Pruning(f"replay-{seed}", sweep, base)
    tried: list[PastTrial] = []
    runs: list[Run] = []
    reports: list[tuple[str, int, float, float]] = []
    spent = 0
    while spent < most:
        values = search.suggest(sweep, seed, len(tried), tried)
        if values is None:
            return
        number = len(runs)
        run = Run(id=str(number), name=str(number), status=Status.RUNNING, config={},
                  max_steps=whole, created_at=0, number=number)  # fmt: skip
        runs.append(run)
        known: dict[int, float] = {}
        before = 0
        for step, value in sorted(table[tuple(values[name] for name in SEARCHED)].items()):
            spent, before = spent + step - before, step
            known[step] = value
            reports.append((run.id, step, value, float(len(reports))))
            if pruning.look(runs, reports) and step < whole:
                run.stop_reason = "pruned"
                break
        run.status, run.ended_at = Status.COMPLETED, float(len(reports))
        state = TrialState.PRUNED if run.stop_reason else TrialState.COMPLETE
        last = list(known.values())[-1]
        tried.append(PastTrial(number, values, state, last, known))
        yield spent, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="keeps the sweep that it trains")
    parser.add_argument("--phases", default="plan,grid,replay")
    parser.add_argument("--shape", choices=("gpt2", "tiny"), help="random weights in this shape")
    parser.add_argument("--confirm", action="store_true", help="with five more seeds")
    asked = parser.parse_args()
    home = asked.home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    os.environ["SPELLTUNE_HOME"] = str(home)
    os.environ.pop("SPELLTUNE_DATABASE_URL", None)
    for phase in asked.phases.split(","):
        print(f"\n## {phase}\n", flush=True)
        if phase == "plan":
            phase_plan()
        elif phase == "grid":
            phase_grid(home, asked.shape, asked.confirm)
        else:
            phase_replay()


if __name__ == "__main__":
    main()
