"""Samples the meters of a slot while its supervisor follows a trainer.

A thread of its own reads them, as a driver that hangs must not keep the supervisor from its runs;
the supervisor writes what there is, in its own time.
"""

import sys
import threading
import time
from dataclasses import dataclass, field

import psutil

from src import store
from src.runs.machine import gpus, host, slot_count
from src.runs.meters import Gpu, Meters, Reader
from src.store.tables import MachineSample

SHORTEST, LONGEST = 2.0, 10.0  # seconds between two samples
GROWTH = 60  # samples become rarer as a training goes on, once there are so many
KEPT = 1000  # samples that wait for a run table that takes no writes


class EnergyMeter:
    """Joules that a GPU took: by its own counter or, on a card without one, by its power."""

    def __init__(self) -> None:
        self._joules = 0.0
        self._last: tuple[float, Gpu] | None = None

    def take(self, now: float, gpu: Gpu) -> None:
        """Take a reading of the GPU, at a time of the monotonic clock."""
        if self._last is not None:
            then, before = self._last
            if gpu.energy_joules is not None and before.energy_joules is not None:
                # A driver that was loaded again counts from 0.
                self._joules += max(0.0, gpu.energy_joules - before.energy_joules)
            elif gpu.power_watts is not None and before.power_watts is not None:
                self._joules += (gpu.power_watts + before.power_watts) / 2 * (now - then)
        self._last = now, gpu

    def joules(self, now: float) -> float | None:
        """Joules until `now`, at the last power since the last reading; None without a meter."""
        if self._last is None:
            return None
        then, gpu = self._last
        if gpu.energy_joules is None and gpu.power_watts is None:
            return None
        return self._joules + (gpu.power_watts or 0.0) * max(0.0, now - then)


@dataclass(frozen=True)
class Usage:
    """Time and energy that a slot took since the last ones that were written."""

    until: float  # on the monotonic clock
    machine_seconds: float
    joules: float | None
    samples: list[MachineSample] = field(default_factory=list)


class Sampler:
    """The samples of a slot that wait to be written, and what it took since the last writing."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.slots = slot_count()
        self._began = self._written_until = time.monotonic()
        self._written_joules = 0.0
        self._waiting: list[MachineSample] = []
        self._energy = EnergyMeter()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def start(self) -> None:
        """Read the meters from now on, until `stop`."""
        threading.Thread(target=self._run, name="meters", daemon=True).start()

    def stop(self) -> None:
        """End the thread, as soon as its driver lets it."""
        self._over.set()

    def _run(self) -> None:
        told = False
        mine = list(gpus())[self.slot : self.slot + 1]
        reader = Reader()
        while not self._over.wait(_interval(time.monotonic() - self._began)):
            try:
                self.take(reader.read(mine), time.monotonic())
            except (OSError, psutil.Error) as error:
                if not told:
                    print(f"warning: no sample of the meters: {error}", file=sys.stderr, flush=True)
                told = True

    def take(self, found: Meters, now: float) -> None:
        """Take a reading, at a time of the monotonic clock."""
        gpu = next(iter(found.gpus.values()), Gpu(""))
        sample = MachineSample(
            host=host(),
            slot=self.slot,
            at=found.at,
            gpu_utilization=gpu.utilization,
            gpu_memory_gib=gpu.memory_gib,
            gpu_power_watts=gpu.power_watts,
            gpu_temperature_celsius=gpu.temperature_celsius,
            cpu_utilization=found.cpu_utilization,
            memory_gib=found.memory_gib,
            disk_free_gib=found.disk_free_gib,
        )
        with self._lock:
            self._energy.take(now, gpu)
            self._waiting = [*self._waiting[1 - KEPT :], sample]

    def usage(self) -> Usage:
        """The time and energy that the slot took since the last `written`, and the samples."""
        now = time.monotonic()
        with self._lock:
            joules = self._energy.joules(now)
            if joules is not None:
                joules = max(0.0, joules - self._written_joules)
            return Usage(
                until=now,
                machine_seconds=(now - self._written_until) / self.slots,
                joules=joules,
                samples=list(self._waiting),
            )

    def written(self, usage: Usage) -> None:
        """Count it no more: it is in the run table."""
        with self._lock:
            self._written_until = usage.until
            self._written_joules += usage.joules or 0.0
            known = {sample.at for sample in usage.samples}
            self._waiting = [sample for sample in self._waiting if sample.at not in known]

    def write(self, token: str, run_ids: list[str]) -> None:
        """Write what the slot took to the run table, in equal shares for these runs."""
        found = self.usage()
        with store.writing() as session:
            store.record_samples(session, found.samples)
            if run_ids:
                energy = None if found.joules is None else found.joules / 3600 / len(run_ids)
                store.add_usage(
                    session, token, run_ids,
                    machine_seconds=found.machine_seconds / len(run_ids), energy_wh=energy,
                )  # fmt: skip
        self.written(found)


def _interval(age: float) -> float:
    """Seconds to the next sample of a training that is `age` seconds old."""
    return min(LONGEST, max(SHORTEST, age / GROWTH))
