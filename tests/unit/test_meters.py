"""Meters: of this machine, and of a GPU that a library plays to the real NVML binding."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from src import paths
from src.format import GIB
from src.runs.meters import Gpu, Meters, Reader
from src.workers.sampler import KEPT, EnergyMeter, Sampler, _interval
from tests.helpers.nvml import FULL, FakeNvml


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> FakeNvml:
    return FakeNvml(tmp_path_factory.mktemp("nvml"))


READ = """
import json, time
from src.runs.meters import Reader
reader = Reader()
reader.read()
best = 1.0
for _ in range(20):
    began = time.perf_counter()
    found = reader.read()
    best = min(best, time.perf_counter() - began)
print(json.dumps(found.document() | {"seconds": best}))
"""


def read(nvml: FakeNvml, **environment: str) -> dict[str, Any]:
    told = subprocess.run(
        [sys.executable, "-c", READ], cwd=paths.ROOT, capture_output=True, text=True, check=True,
        env=os.environ | nvml.environment | environment,
    )  # fmt: skip
    return dict(json.loads(told.stdout))


def test_this_machine_is_read_as_the_kernel_tells_it(home: Path) -> None:
    reader = Reader()
    found = reader.read()
    total = psutil.virtual_memory().total / GIB
    assert 0 < found.memory_gib < found.memory_total_gib <= total
    disk = shutil.disk_usage(home)
    assert found.disk_total_gib == disk.total / GIB
    assert found.disk_free_gib == pytest.approx(disk.free / GIB, abs=5)
    # A core that works for a while is seen to.
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
    busy = reader.read().cpu_utilization
    assert busy is not None and 0.5 / len(os.sched_getaffinity(0)) < busy <= 1


def test_a_gpu_is_read_by_nvml(nvml: FakeNvml, home: Path) -> None:
    nvml.show(FULL | {"energy": 7_000_000})
    found = read(nvml)
    assert found["gpus"] == {
        "0": {
            "name": "NVIDIA Test",
            "utilization": 0.87,
            "memory_gib": 30.0,
            "total_gib": 150.0,
            "power_watts": 400.0,
            "temperature_celsius": 61.0,
            "energy_joules": 7000.0,
        }
    }
    print(f"a reading took {found['seconds'] * 1000:.2f} ms")


def test_a_meter_that_a_card_does_not_have_is_none_and_the_others_are_read(
    nvml: FakeNvml, home: Path
) -> None:
    nvml.show({name: FULL[name] for name in ("count", "memory_total", "memory_used")})
    (gpu,) = read(nvml)["gpus"].values()
    assert gpu["memory_gib"] == 30.0
    assert {gpu[n] for n in ("utilization", "power_watts", "temperature_celsius")} == {None}
    nvml.show(FULL | {"count": 2})
    assert list(read(nvml, CUDA_VISIBLE_DEVICES="1")["gpus"]) == ["1"]
    assert read(nvml, CUDA_VISIBLE_DEVICES="")["gpus"] == {}


def test_energy_is_the_integral_of_the_power() -> None:
    meter = EnergyMeter()
    assert meter.joules(0) is None
    for now, watts in ((0, 100), (10, 300), (20, 300)):
        meter.take(now, Gpu("", power_watts=watts))
    assert meter.joules(20) == 10 * 200 + 10 * 300
    assert meter.joules(22) == 5000 + 2 * 300  # at the last power until there is a next one
    none = EnergyMeter()
    none.take(0, Gpu(""))
    assert none.joules(5) is None


def test_energy_is_the_counters_difference_where_a_card_has_one() -> None:
    meter = EnergyMeter()
    for now, counted in ((0, 5000), (10, 6500), (20, 200), (30, 700)):  # its driver was loaded anew
        meter.take(now, Gpu("", power_watts=1, energy_joules=counted))
    assert meter.joules(30) == 1500 + 500


def sampler(monkeypatch: pytest.MonkeyPatch) -> tuple[Sampler, list[float]]:
    now = [0.0]
    monkeypatch.setattr("src.workers.sampler.time.monotonic", lambda: now[0])
    return Sampler(0), now


def meters(at: float, watts: float | None) -> Meters:
    return Meters(at, 0.5, 4, 16, 50, 100, {"0": Gpu("", power_watts=watts)})


def test_what_a_slot_took_is_counted_once_and_kept_until_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, now = sampler(monkeypatch)
    one.slots = 2  # half of the machine's time is the other slot's
    one.take(meters(100, 360), 0)
    now[0] = 10
    one.take(meters(110, 360), 10)
    first = one.usage()
    assert (first.machine_seconds, first.joules, len(first.samples)) == (5, 3600, 2)
    assert one.usage() == first  # the table did not take it
    one.written(first)
    now[0] = 20
    one.take(meters(120, 360), 20)
    second = one.usage()
    assert (second.machine_seconds, second.joules, len(second.samples)) == (5, 3600, 1)


def test_samples_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [_interval(age) for age in (0, 60, 300, 1e6)] == [2, 2, 5, 10]
    one, _ = sampler(monkeypatch)
    for number in range(KEPT + 5):
        one.take(meters(number, None), number)
    assert len(one.usage().samples) == KEPT and one.usage().joules is None
    assert one.usage().samples[-1].at == KEPT + 4


HANG = """
import time
from src.workers.sampler import Sampler
one = Sampler(0)
with open(__import__("os").environ["FAKE_NVML"], "a") as file:
    file.write("hangs 1\\n")
one.start()
time.sleep(0.2)
print(one.usage().machine_seconds >= 0.2)
"""


def test_a_driver_that_hangs_keeps_nobody_waiting(nvml: FakeNvml, home: Path) -> None:
    nvml.show(FULL)
    told = subprocess.run(
        [sys.executable, "-c", HANG], cwd=paths.ROOT, capture_output=True, text=True, timeout=60,
        env=os.environ | nvml.environment,
    )  # fmt: skip
    nvml.show(FULL)
    assert told.stdout == "True\n" and told.returncode == 0, told.stderr
