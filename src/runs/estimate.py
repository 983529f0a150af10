"""Memory and time that a run takes, measured before its launch by src/workers/memory_probe.py.

A measurement is stored by the settings that decide it, and a launch that would not fit is refused.
"""

import hashlib
import json
import math
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from src import paths, store
from src.config import RunConfig, affecting, subset, with_absolute_paths, with_overrides
from src.errors import UserError
from src.files import read_text, write_atomic
from src.format import GIB, duration
from src.runs import remedies, spawn, standby
from src.runs.environment import slot_environment
from src.runs.locks import FileLock
from src.runs.machine import active_here, gpus, slot_count, slot_lock
from src.runs.timeouts import TIMEOUTS


class CannotMeasure(UserError, ValueError):
    """No measurement can be made now."""


@dataclass(frozen=True)
class Measurement:
    """Memory and time of one run, or of `adapters` runs in one process. Times are None if it does
    not fit."""

    fits: bool
    adapters: int
    engine: str | None  # the one that trained
    peak_gib: float
    room_gib: float  # available
    rows: dict[str, int]  # of the validation and test splits
    start_seconds: float | None = None  # until the first step, with one evaluation batch
    step_seconds: float | None = None  # a step of all adapters, on the longest rows
    evaluation_seconds: float | None = None  # one batch of the longest rows
    largest: dict[str, Any] = field(default_factory=dict)  # changes with which it fits, if any

    def seconds(self, config: RunConfig) -> float:
        """Upper bound from launch to end: counts every row and answer as one of the longest."""
        assert self.start_seconds is not None
        assert self.step_seconds is not None and self.evaluation_seconds is not None
        interval, steps = config.evaluation.eval_steps, config.training.max_steps
        rows = min(self.rows["validation"], config.evaluation.max_rows or math.inf)
        size = config.evaluation.batch_size
        # Validation: before the first step, at intervals, after the last, and of the best adapter.
        batches = (2 + math.ceil(steps / interval)) * math.ceil(rows / size)
        batches += math.ceil(self.rows["test"] / size)
        return self.start_seconds + steps * self.step_seconds + batches * self.evaluation_seconds

    def sentence(self, config: RunConfig) -> str:
        """`takes 4 min 10 s at most, ...`; only for a run that fits."""
        return (
            f"takes {duration(self.seconds(config))} at most: {self.step_seconds:.3g} s per step "
            f"on the longest rows ({self.engine} engine), {self.peak_gib:.1f} of the "
            f"{self.room_gib:.1f} GiB available"
        )

    def problems(self, config: RunConfig) -> dict[str, str]:
        """{setting: error} if it does not fit, else empty."""
        if self.fits:
            return {}
        rows = config.training.per_device_train_batch_size
        text = (
            f"a micro-batch of {rows:,} of the longest rows takes more than the "
            f"{self.room_gib:.1f} GiB available"
        )
        if self.largest:
            text += "; what fits: " + ", ".join(f"{k} {v}" for k, v in self.largest.items())
        else:
            text += ", and so does a single row: take a smaller model, fewer target modules or "
            text += "gradient_checkpointing"
        return {"training.per_device_train_batch_size": text}


def load(config: RunConfig, *, adapters: int = 1) -> Measurement | None:
    """The stored measurement of this config on this machine, or None: also where its file was cut
    or is of another version, and must be measured again."""
    try:
        return Measurement(**json.loads(read_text(measurement_file(config, adapters))))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def measure(config: RunConfig, *, adapters: int = 1) -> Measurement:
    """Measure a config and store the result: seconds to a minute, after waiting for runs that were
    asked to stop. CannotMeasure while all slots train, or if the config cannot train at all."""
    slot, lock = _acquire_slot()
    try:
        found = _probe(config, adapters, slot)
        if not found.fits and adapters == 1:
            for changes in remedies.less_memory(config, engine=found.engine):
                if _probe(with_overrides(config.model_dump(), changes), 1, slot).fits:
                    found.largest.update(changes)
                    break
    finally:
        lock.release()
    file = measurement_file(config, adapters)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(file, json.dumps(asdict(found)))
    return found


def _acquire_slot() -> tuple[int, FileLock]:
    """Acquire a free slot. Waits for slots that are being vacated or that measure; CannotMeasure if
    every slot trains."""
    # By then a supervisor has killed its trainer, or claimed the run that it was started for.
    deadline = time.monotonic() + TIMEOUTS.stop + TIMEOUTS.terminate + TIMEOUTS.start
    while True:
        for slot in range(slot_count()):
            lock = FileLock(slot_lock(slot))
            if lock.acquire():
                standby.end(slot)  # its memory is a run's
                return slot, lock
        with store.reading() as session:
            here = active_here(session)
        training = {run.slot for run in here if run.stop_requested_at is None}
        if training.issuperset(range(slot_count())):
            raise CannotMeasure(
                "a run is training, and measuring needs an idle slot; wait for its end or stop it"
            )
        if time.monotonic() > deadline:
            raise CannotMeasure("other processes hold all slots; try again once they end")
        time.sleep(TIMEOUTS.poll)


def _probe(config: RunConfig, adapters: int, slot: int) -> Measurement:
    request = {"config": with_absolute_paths(config).model_dump(), "adapters": adapters}
    done = spawn.run(spawn.Worker.MEMORY_PROBE, json.dumps(request), **slot_environment(slot))
    if done.returncode in (-signal.SIGKILL, -signal.SIGABRT):
        # Killed by the OOM killer, or C++ failed to allocate.
        total_gib = psutil.virtual_memory().total / GIB
        return Measurement(False, adapters, None, total_gib, total_gib, {})
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CannotMeasure(f"the measurement ended with {last}") from None
    if "error" in found:
        raise CannotMeasure(found["error"])
    return Measurement(adapters=adapters, **found)


def memory_problems(config: RunConfig) -> dict[str, str]:
    """{setting: error} if a config is known not to fit into memory."""
    found = load(config)
    return found.problems(config) if found else {}


def measurement_file(config: RunConfig, adapters: int = 1) -> Path:
    """File of a measurement; its name depends on all settings that decide memory and time."""
    values = subset(config, affecting("cost"))
    machine = list(gpus().values()) or [f"{os.cpu_count()} {psutil.virtual_memory().total}"]
    key = json.dumps([values, machine, adapters], sort_keys=True)
    return paths.results() / "preflight" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
