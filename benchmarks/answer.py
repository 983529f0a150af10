"""Measure how long a person waits for answers on this machine: `make bench-answer`.

Launches through the product, as a person would: a sweep of 64 trials x 300 steps of tiny-spell,
each with four evaluations of 400 words and a test of 1,384; one run of tiny-spell; and that run by
a standby trainer that is ready, as it is while a panel is open. Prints, as Markdown, the wall time
from launch to COMPLETED, the time to the first step, and where the time of the training thread
went, by the trainer's own account (`trainer_seconds` of each run). On a GPU its utilization is
sampled 5 times a second between the first and the last step. The row `gpt2` is a sweep of 64 trials
x 500 steps on a base of GPT-2's shape with random weights.

    python -m benchmarks.answer [--trials 64] [--steps 300] [--rows sweep,solo,standby] [--quick]

`--timeline FOLDER`: each sweep leaves a drawing of its time there (SVG), and its moments (JSON).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.packed import models as packed
from benchmarks.packed.baselines import save_base
from benchmarks.packed.sweep import sweep_settings, words
from benchmarks.presets import processor
from benchmarks.timeline import write
from src import paths, store
from src.paths import ROOT
from src.runs import standby
from src.store.tables import Run, Status, SweepStatus
from src.training.throughput import ACTIVITIES

SAMPLES_PER_SECOND = 5
RANKS, RATES = (4, 8, 16, 32), (1e-3, 2e-3, 3e-3, 4e-3)
STANDBY_SECONDS = 120  # in which a standby trainer has to be ready
STANDBY_IDLE_SECONDS = 3  # after which a standby trainer is taken to be ready
QUICK = {"trials": 8, "steps": 20}  # on a CPU: some minutes


def spelltune(*arguments: str) -> str:
    """The standard output of a command."""
    command = [sys.executable, "-m", "src.cli", *arguments]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    return answer.stdout.strip()


class Utilization:
    """Samples of how busy the GPUs are, in percent: {time: mean of all GPUs}; none without one."""

    def __init__(self) -> None:
        self.samples: dict[float, float] = {}
        self._read = self._reader()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        if self._read is not None:
            self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def mean(self, begin: float, end: float) -> float | None:
        """The mean between two times; None without samples."""
        found = [value for at, value in self.samples.items() if begin <= at <= end]
        return statistics.mean(found) if found else None

    def _loop(self) -> None:
        assert self._read is not None
        while not self._ended.wait(1 / SAMPLES_PER_SECOND):
            with suppress(Exception):  # a sample less
                self.samples[time.time()] = self._read()

    @staticmethod
    def _reader() -> Callable[[], float] | None:
        try:
            import pynvml

            pynvml.nvmlInit()
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            numbers = range(pynvml.nvmlDeviceGetCount()) if visible is None else visible.split(",")
            gpus = [pynvml.nvmlDeviceGetHandleByIndex(int(number)) for number in numbers]
            if gpus:
                return lambda: statistics.mean(
                    pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in gpus
                )
        except Exception:  # not installed, or no driver
            pass
        if shutil.which("nvidia-smi") is None:
            return None
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

        def asked() -> float:
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            return statistics.mean(float(line) for line in lines.split())

        return asked


def sweep_file(folder: Path, name: str, **document: Any) -> Path:
    """The file of a grid whose trials are packed and not tracked."""
    document["base"]["overrides"] |= {"engine": "packed", "tracking.mode": "off"}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, "method": "grid", **document}, sort_keys=False))
    return file


def tiny_sweep(folder: Path, trials: int, steps: int) -> Path:
    """A grid of ranks, learning rates and seeds with as many cells as there are trials."""
    each = -(-steps // 3)
    settings = {
        "training.max_steps": steps, "evaluation.eval_steps": each,
        "checkpointing.save_steps": each, "scheduler.warmup_steps": min(30, steps // 4),
    }  # fmt: skip
    return sweep_file(
        folder, "answer", base={"preset": "tiny-spell", "overrides": settings},
        budget=f"{trials} trials", seeds=-(-trials // (len(RANKS) * len(RATES))),
        space={"lora.r": list(RANKS), "training.learning_rate": list(RATES)},
    )  # fmt: skip


def gpt2_sweep(folder: Path) -> Path:
    """A grid of 64 trials on a base of GPT-2's shape with random weights, which is written here."""
    save_base("gpt2", folder / "base")
    words(folder / "words")
    return sweep_file(
        folder, "gpt2", base={"overrides": sweep_settings(folder, 500)}, budget="64 trials",
        space={
            "lora.r": list(packed.RANKS), "lora.alpha": list(packed.ALPHAS),
            "training.learning_rate": list(packed.RATES),
        },
    )  # fmt: skip


def sweep(what: str, file: Path, timeline: Path | None) -> dict[str, Any]:
    """Launch a sweep and wait for its end; its row of the table."""
    usage, launched = Utilization(), time.time()
    sweep_id = spelltune("sweep", "launch", str(file))
    while True:
        with store.reading() as session:
            status = store.find_sweep(session, sweep_id).status
        if status != SweepStatus.ACTIVE:
            break
        time.sleep(0.1)
    wall = time.time() - launched
    usage.end()
    with store.reading() as session:
        # Trials are listed without what they used.
        runs = store.runs_of(session, [run.id for run in store.runs_of_sweep(session, sweep_id)])
        evaluated = [one for run in runs for one in store.list_evaluations(session, run.id)]
        saved = [one for run in runs for one in store.list_checkpoints(session, run.id)]
    if timeline is not None:
        moments = {
            "steps": [at for run in runs for at in step_times(run)],
            "scored": [one.created_at for one in evaluated],
            "saved": [one.created_at for one in saved],
        }
        write(timeline / file.stem, what, launched, wall, usage.samples, moments)
    return row(what, launched, wall, runs, usage)


def have_standby_trainer() -> None:
    """Have a standby trainer wait for a run, and wait until it has done all that it can before."""
    standby.keep_ready()
    idle, before, deadline = 0, -1.0, time.monotonic() + STANDBY_SECONDS
    while idle < STANDBY_IDLE_SECONDS:
        time.sleep(1)
        if time.monotonic() > deadline:
            raise SystemExit(f"no standby trainer: {standby.state()}")
        if (there := standby.read(0)) is None:
            continue
        processes = psutil.Process(there.pid).children(recursive=True)
        used = sum(sum(process.cpu_times()[:2]) for process in processes)
        idle = idle + 1 if processes and used - before < 0.1 else 0
        before = used


def solo(what: str, prepare: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Launch tiny-spell with its own settings and wait for its end."""
    prepare()
    usage, launched = Utilization(), time.time()
    options = ("--set", "tracking.mode=off", "--wait", "--json")
    told = json.loads(spelltune("launch", "--preset", "tiny-spell", *options))
    wall = time.time() - launched
    usage.end()
    with store.reading() as session:
        runs = store.runs_of(session, [told["id"]])
    return row(what, launched, wall, runs, usage)


def row(
    what: str, launched: float, wall: float, runs: list[Run], usage: Utilization
) -> dict[str, Any]:
    """The figures of these runs."""
    at = [moment for run in runs for moment in step_times(run)]
    # Members of a pack share a process, whose account the one that ended last tells whole.
    accounts: dict[Any, dict[str, float]] = {}
    for run in sorted(runs, key=lambda run: run.ended_at or 0):
        if spent := run.used.get("trainer_seconds"):
            accounts[run.boot_id, run.trainer_pid] = spent
    spent = {name: sum(one.get(name, 0.0) for one in accounts.values()) for name in ACTIVITIES}
    first, last = min(at, default=launched), max(at, default=launched)
    return {
        "what": what,
        "wall": wall,
        "completed": sum(run.status == Status.COMPLETED for run in runs),
        "runs": len(runs),
        "first step": first - launched,
        **spent,
        "trainers": len(accounts),
        "engine": ", ".join(sorted({str(run.used.get("engine")) for run in runs})),
        "utilization": usage.mean(first, last),
    }


def step_times(run: Run) -> list[float]:
    """When the steps of a run were logged."""
    points = map(json.loads, paths.metrics_log(run.id).read_text().splitlines())
    return [point["at"] for point in points if point["name"] == "train/loss"]


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "launched", "engine", "completed", "wall s", "first step s",
        *(f"{activity} s" for activity in ACTIVITIES), "steps and scoring, share of wall",
        "trainers", "GPU utilization",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in rows:
        share = (one["steps"] + one["scoring"]) / one["wall"] / max(one["trainers"], 1)
        busy = one["utilization"]
        cells = (
            one["what"], one["engine"], f"{one['completed']} of {one['runs']}",
            f"{one['wall']:.1f}", f"{one['first step']:.1f}",
            *(f"{one[name]:.1f}" for name in ACTIVITIES),
            f"{share:.0%}", str(one["trainers"]), "" if busy is None else f"{busy:.0f}%",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """The machine, in one line."""
    gpu = ""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")
        gpu = ", ".join(name for name in names if name) + ", "
    cores = len(os.sched_getaffinity(0))
    return f"{gpu}{processor()}, {cores} cores, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", default="sweep,solo,standby", help="of the table")
    parser.add_argument("--quick", action="store_true", help="small, and the sweep alone")
    parser.add_argument("--home", type=Path, help="keep the runs in this folder")
    parser.add_argument("--timeline", type=Path, help="folder for a drawing of each sweep")
    asked = parser.parse_args()
    trials, steps, rows = asked.trials, asked.steps, asked.rows.split(",")
    if asked.quick:
        trials, steps, rows = QUICK["trials"], QUICK["steps"], ["sweep"]
    with tempfile.TemporaryDirectory() as folder:
        home = (asked.home or Path(folder)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        os.environ["SPELLTUNE_HOME"] = str(home)
        os.environ.pop("SPELLTUNE_DATABASE_URL", None)
        print(machine() + "\n", flush=True)
        measured = {
            "sweep": lambda: sweep(
                f"sweep of {trials} x {steps}", tiny_sweep(home, trials, steps), asked.timeline
            ),
            "gpt2": lambda: sweep("gpt2, sweep of 64 x 500", gpt2_sweep(home), asked.timeline),
            "solo": lambda: solo("tiny-spell"),
            "standby": lambda: solo("tiny-spell, standby trainer", have_standby_trainer),
        }
        print(table([measured[name]() for name in rows]))


if __name__ == "__main__":
    main()
