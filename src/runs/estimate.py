"""What a run takes, measured before its launch by src/workers/memory_probe.py in a process of its
own, and kept by what decides it: a launch that would not fit is refused."""

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from src import paths, store
from src.config import RunConfig, affecting, subset, with_absolute_paths, with_overrides
from src.errors import UserError
from src.format import duration
from src.runs import spawn
from src.runs.environment import slot_environment
from src.runs.locks import FileLock
from src.runs.machine import gpus, host, slot_count, slot_lock
from src.runs.timeouts import TIMEOUTS
from src.store.tables import ACTIVE


class CannotMeasure(UserError, ValueError):
    """Why no measurement was made, and what can be done."""


@dataclass(frozen=True)
class Measurement:
    """What one run takes, or `adapters` of them in one process. Of a run that does not fit only the
    memory is known."""

    fits: bool
    adapters: int
    engine: str | None  # that trained
    peak_gib: float
    room_gib: float  # there is so much
    rows: dict[str, int]  # to score, of validation and test
    start_seconds: float | None = None  # to the first step, with a score of one batch
    step_seconds: float | None = None  # of all adapters together, on the longest rows
    evaluation_seconds: float | None = None  # of one batch of the longest rows
    largest: dict[str, Any] = field(default_factory=dict)  # settings that fit instead, if any do

    def seconds(self, config: RunConfig) -> float:
        """From launch to end, at most: rows and answers count as if all were the longest."""
        assert self.start_seconds is not None
        assert self.step_seconds is not None and self.evaluation_seconds is not None
        every, last = config.evaluation.eval_steps, config.training.max_steps
        rows = min(self.rows["validation"], config.evaluation.max_rows or math.inf)
        size = config.evaluation.batch_size
        # Before the first step, at intervals, after the last, and of the best one once more.
        scored = (2 + math.ceil(last / every)) * math.ceil(rows / size)
        scored += math.ceil(self.rows["test"] / size)
        return self.start_seconds + last * self.step_seconds + scored * self.evaluation_seconds

    def sentence(self, config: RunConfig) -> str:
        """`takes 4 min 10 s at most, ...`, of a run that fits."""
        return (
            f"takes {duration(self.seconds(config))} at most: {self.step_seconds:.3g} s a step on "
            f"the longest rows ({self.engine} engine), {self.peak_gib:.1f} of the "
            f"{self.room_gib:.1f} GiB there are"
        )

    def problems(self, config: RunConfig) -> dict[str, str]:
        """{setting: sentence} where it does not fit; empty where it does."""
        if self.fits:
            return {}
        rows = config.training.per_device_train_batch_size
        text = (
            f"a micro-batch of {rows:,} of the longest rows takes more than the "
            f"{self.room_gib:.1f} GiB there are"
        )
        if self.largest:
            text += "; what fits: " + ", ".join(f"{k} {v}" for k, v in self.largest.items())
        else:
            text += ", and so does a single row: take a smaller model, fewer target modules or "
            text += "gradient_checkpointing"
        return {"training.per_device_train_batch_size": text}


def load(config: RunConfig, *, adapters: int = 1) -> Measurement | None:
    """What is known of this config on this machine."""
    try:
        return Measurement(**json.loads(measurement_file(config, adapters).read_text()))
    except FileNotFoundError:
        return None


def measure(config: RunConfig, *, adapters: int = 1) -> Measurement:
    """Measure and keep it; seconds to a minute, and first those that a stopped run takes to end.
    CannotMeasure while all slots train, or where the config cannot train at all."""
    slot, lock = _acquire_slot()
    try:
        found = _probe(config, adapters, slot)
        if not found.fits and adapters == 1:
            for changes in smaller_batches(config, found.engine):
                if _probe(with_overrides(config.model_dump(), changes), 1, slot).fits:
                    found.largest.update(changes)
                    break
    finally:
        lock.release()
    file = measurement_file(config, adapters)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(asdict(found)))
    part.replace(file)
    return found


def _acquire_slot() -> tuple[int, FileLock]:
    """A slot that is now this process's. One whose runs were all asked to stop, or have ended but
    for their processes, or that measures, is waited for; CannotMeasure where every slot trains."""
    # By then a supervisor has used force, or claimed the run that it was started for.
    deadline = time.monotonic() + TIMEOUTS.stop + TIMEOUTS.terminate + TIMEOUTS.start
    while True:
        for slot in range(slot_count()):
            lock = FileLock(slot_lock(slot))
            if lock.acquire():
                return slot, lock
        with store.reading() as session:
            active = store.list_runs(session, statuses=ACTIVE)
        here = [run for run in active if run.host in (None, host())]
        train = {run.slot for run in here if run.stop_requested_at is None}
        if train.issuperset(range(slot_count())):
            raise CannotMeasure(
                "a run is training, and beside it neither time nor memory can be measured; wait "
                "for its end or stop it"
            )
        if time.monotonic() > deadline:
            raise CannotMeasure("other processes take all the slots; try again once they end")
        time.sleep(TIMEOUTS.poll)


def smaller_batches(config: RunConfig, engine: str | None) -> Iterator[dict[str, Any]]:
    """The same training in less memory, largest first: smaller micro-batches, and more of them."""
    name, other = "per_device_train_batch_size", "gradient_accumulation_steps"
    rows, times = getattr(config.training, name), getattr(config.training, other)
    changes: dict[str, Any] = {}
    if engine == "packed":  # it takes a whole step's rows at once
        changes = {"engine": "trl"}
        yield changes
    while rows > 1:
        divisor = next(d for d in range(2, rows + 1) if rows % d == 0)
        rows, times = rows // divisor, times * divisor
        yield changes | {f"training.{name}": rows, f"training.{other}": times}


def _probe(config: RunConfig, adapters: int, slot: int) -> Measurement:
    asked = {"config": with_absolute_paths(config).model_dump(), "adapters": adapters}
    done = spawn.run(spawn.Worker.MEMORY_PROBE, json.dumps(asked), **slot_environment(slot))
    if done.returncode in (-signal.SIGKILL, -signal.SIGABRT):
        # Killed for memory, or C++ had none to allocate.
        there = psutil.virtual_memory().total / 2**30
        return Measurement(False, adapters, None, there, there, {})
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        last = (done.stderr.strip().splitlines() or ["no word why"])[-1]
        raise CannotMeasure(f"the measurement ended with {last}") from None
    if "error" in found:
        raise CannotMeasure(found["error"])
    return Measurement(adapters=adapters, **found)


def memory_problems(config: RunConfig) -> dict[str, str]:
    """{setting: sentence} where it is known not to fit."""
    found = load(config)
    return found.problems(config) if found else {}


def measurement_file(config: RunConfig, adapters: int = 1) -> Path:
    """Where a measurement is kept: its name changes with what decides memory and time."""
    values = subset(config, affecting("cost"))
    machine = list(gpus().values()) or [f"{os.cpu_count()} {psutil.virtual_memory().total}"]
    key = json.dumps([values, machine, adapters], sort_keys=True)
    return paths.results() / "preflight" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
