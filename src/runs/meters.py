"""Meters of this machine: its GPUs by NVML, its processor, memory and disk. A reading takes a few
milliseconds, and a meter that a card does not have reads None."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from src import paths
from src.format import GIB, number
from src.runs import machine


@dataclass(frozen=True)
class Gpu:
    """One GPU at a moment."""

    name: str
    utilization: float | None = None  # share of the time in which a kernel ran
    memory_gib: float | None = None  # of all processes
    total_gib: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    energy_joules: float | None = None  # of the card's own counter, since its driver was loaded


@dataclass(frozen=True)
class Meters:
    """The machine at a moment."""

    at: float
    cpu_utilization: float | None  # of the cores that may be used, since the last reading
    memory_gib: float  # in use
    memory_total_gib: float
    disk_free_gib: float  # where the home lies
    disk_total_gib: float
    gpus: Mapping[str, Gpu] = field(default_factory=dict)  # by CUDA_VISIBLE_DEVICES value

    def document(self) -> dict[str, Any]:
        """The reading as JSON holds it."""
        return asdict(self)


class Reader:
    """Reads the meters; the processor's tells of the time since the reading before."""

    def __init__(self) -> None:
        self._busy, self._passed = _processor_seconds()

    def read(self, devices: Collection[str] | None = None) -> Meters:
        """All meters, now; of these GPUs, or of all."""
        memory, disk = memory_bytes(), shutil.disk_usage(existing(paths.home()))
        return Meters(
            at=time.time(),
            cpu_utilization=self._processor(),
            memory_gib=(memory - machine.free_memory()) / GIB,
            memory_total_gib=memory / GIB,
            disk_free_gib=disk.free / GIB,
            disk_total_gib=disk.total / GIB,
            gpus={one: read_gpu(one) for one in (machine.gpus() if devices is None else devices)},
        )

    def _processor(self) -> float | None:
        busy, passed = _processor_seconds()
        before, (self._busy, self._passed) = (self._busy, self._passed), (busy, passed)
        if passed <= before[1]:  # read again within a tick of the kernel's clock
            return None
        return min(1.0, max(0.0, (busy - before[0]) / (passed - before[1])))


def _processor_seconds() -> tuple[float, float]:
    """Seconds that the cores which this process may use were busy, and that passed on them."""
    cores = psutil.cpu_times(percpu=True)
    mine = [cores[i] for i in os.sched_getaffinity(0) if i < len(cores)]
    passed = sum(sum(core[:8]) for core in mine)  # guests are in `user` already
    return passed - sum(core.idle + core.iowait for core in mine), passed


def read_gpu(device: str) -> Gpu:
    """The meters of a GPU of `machine.gpus`."""
    import pynvml

    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(device))
    except (pynvml.NVMLError, ValueError):
        return Gpu("GPU")

    def meter(read: Callable[[Any], Any], scale: float = 1) -> float | None:
        try:
            return float(read(handle)) / scale
        except pynvml.NVMLError:  # as a part of a card, or an older one, has not all of them
            return None

    return Gpu(
        name=str(_or_none(pynvml.nvmlDeviceGetName, handle) or "GPU"),
        utilization=meter(lambda h: pynvml.nvmlDeviceGetUtilizationRates(h).gpu, 100),
        memory_gib=meter(lambda h: pynvml.nvmlDeviceGetMemoryInfo(h).used, GIB),
        total_gib=meter(lambda h: pynvml.nvmlDeviceGetMemoryInfo(h).total, GIB),
        power_watts=meter(pynvml.nvmlDeviceGetPowerUsage, 1000),
        temperature_celsius=meter(
            lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)
        ),
        energy_joules=meter(pynvml.nvmlDeviceGetTotalEnergyConsumption, 1000),
    )


def _or_none(read: Callable[[Any], Any], handle: Any) -> Any:
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        return read(handle)
    return None


def memory_bytes() -> int:
    """Bytes of memory of this machine, or of the container that bounds it."""
    total = int(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):  # "max" where nothing bounds it
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def gpu_facts(found: Meters) -> dict[str, list[tuple[str, str]]]:
    """{`GPU`, or `GPU 0` of several: names and values of the meters that it has}."""
    many = len(found.gpus) > 1
    return {f"GPU {n}" if many else "GPU": list(_facts(gpu)) for n, gpu in found.gpus.items()}


def _facts(gpu: Gpu) -> Iterator[tuple[str, str]]:
    if gpu.utilization is not None:
        yield "utilization", f"{gpu.utilization:.0%}"
    if gpu.memory_gib is not None and gpu.total_gib is not None:
        yield "memory", _part(gpu.memory_gib, gpu.total_gib)
    if gpu.power_watts is not None:
        yield "power", number(gpu.power_watts, ",.0f", "W")
    if gpu.temperature_celsius is not None:
        yield "temperature", f"{gpu.temperature_celsius:.0f} °C"


def machine_facts(found: Meters) -> list[tuple[str, str]]:
    """Names and values of the meters of the machine."""
    busy = found.cpu_utilization
    return [
        ("CPU", "–" if busy is None else f"{busy:.0%}"),
        ("RAM", _part(found.memory_gib, found.memory_total_gib)),
        ("disk free", number(found.disk_free_gib, ",.0f", "GiB")),
    ]


def _part(used: float, total: float) -> str:
    return f"{used:,.1f} of {total:,.0f} GiB"
