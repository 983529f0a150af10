"""The meters of a machine while it trains, and the energy and money of its runs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text
from sqlmodel import select

from src import paths, store
from src.config import change_machine, load_config
from src.runs import launcher
from src.store.tables import MachineSample, Status
from tests.helpers.live import FEW, command, ended, row, training, wait
from tests.helpers.nvml import FULL, FakeNvml


@pytest.mark.real_start
def test_a_pack_shares_samples_energy_and_money(
    home: Path, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two runs in one process, on a GPU that takes 400 W."""
    nvml = FakeNvml(tmp_path_factory.mktemp("nvml"))
    nvml.show(FULL | {"count": 2})
    for name, value in nvml.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"standby": 0, "heartbeat": 1}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    change_machine({"price_per_hour": "3600"})  # a unit of money a second
    files = []
    for seed in (1, 2):
        own = {"engine": "packed", "lora.dropout": 0.0, "training.seed": seed}
        files.append(home / f"{seed}.yaml")
        values = load_config(overrides=small | own).model_dump_json()
        files[-1].write_text(yaml.safe_dump(json.loads(values)))
    ids = json.loads(command("launch", *map(str, files), "--json").stdout)
    ids = [one["id"] if isinstance(one, dict) else one for one in ids]
    runs = [wait(run_id, training) for run_id in ids]
    assert runs[0].trainer_pid == runs[1].trainer_pid
    until = time.monotonic() + 120
    while time.monotonic() < until and (row(ids[0]).energy_wh or 0) <= 0:
        time.sleep(0.2)
    for run_id in ids:
        command("stop", run_id)
    one, two = (wait(run_id, ended) for run_id in ids)
    assert one.status == two.status == Status.STOPPED
    with store.reading() as session:
        samples = session.exec(select(MachineSample)).all()
        drawn = store.samples_of(session, one, points=1)
        assert store.samples_of(session, two, points=300)
    assert samples and {(s.slot, s.gpu_utilization, s.gpu_power_watts) for s in samples} == {
        (0, 0.87, 400.0)
    }
    assert all(
        s.gpu_temperature_celsius == 61 and s.memory_gib and s.disk_free_gib for s in samples
    )
    assert len(drawn) == 1 and drawn[0]["gpu_memory_gib"] == 30
    took = one.ended_at - one.started_at  # type: ignore[operator]
    for run in (one, two):
        assert run.machine_seconds and run.energy_wh
        assert run.energy_wh <= 400 * run.machine_seconds / 3600 * 1.01
    assert one.machine_seconds + two.machine_seconds <= took + 5  # type: ignore[operator]
    shown = json.loads(command("show", ids[0], "--json").stdout)
    assert shown["energy_wh"] == one.energy_wh
    assert shown["cost"] == {"amount": pytest.approx(one.machine_seconds), "currency": "USD"}
    assert "cost" in command("show", ids[0]).stdout


def test_a_run_without_a_gpu_has_money_and_no_energy(small: dict[str, Any], home: Path) -> None:
    change_machine({"price_per_hour": "3600", "currency": "EUR"})
    settings = [f"--set={name}={value}" for name, value in (small | FEW).items()]
    found = json.loads(command("launch", "--wait", "--json", *settings).stdout)
    run_id = found[0]["id"] if isinstance(found, list) else found["id"]
    run = row(run_id)
    assert run.status == Status.COMPLETED and run.energy_wh is None and run.machine_seconds
    took = run.ended_at - run.started_at  # type: ignore[operator]
    assert 0 < run.machine_seconds <= took + 1
    shown = json.loads(command("show", run_id, "--json").stdout)
    assert shown["energy_wh"] is None
    assert shown["cost"] == {"amount": pytest.approx(run.machine_seconds), "currency": "EUR"}


def test_samples_that_cannot_be_written_keep_no_run_from_its_end(
    small: dict[str, Any], home: Path
) -> None:
    with store.writing() as session:
        session.execute(text("DROP TABLE machine_sample"))
    run_id = launcher.launch(load_config(overrides=small))
    log = paths.log_file(run_id)
    wait(run_id, lambda _: log.exists() and "no such table: machine_sample" in log.read_text())
    step = wait(run_id, training).step or 0
    wait(run_id, lambda run: (run.step or 0) > step)
    launcher.stop(run_id)
    assert wait(run_id, ended).status == Status.STOPPED
