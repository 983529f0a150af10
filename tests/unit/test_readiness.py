"""When a standby trainer is wanted, for which run, and what makes one fit."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from src import files, store
from src.config import load_config, with_overrides
from src.runs import readiness, standby
from src.runs.locks import FileLock
from src.runs.machine import host
from src.runs.processes import new_token
from src.runs.timeouts import Timeouts
from src.store.tables import Status

PACKED = {"engine": "packed", "backend": "peft"}


def add(
    name: str, status: Status, slot: int | None = None, on: str | None = None, **settings: Any
) -> None:
    """A run with these settings, whose sections are parted by two underscores."""
    values = {key.replace("__", "."): value for key, value in settings.items()} | {"name": name}
    with store.writing() as session:
        run = store.enqueue(session, load_config(overrides=values), host=on or host(), slot=slot)
        run.status = status


@pytest.fixture(autouse=True)
def as_a_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUTS", Timeouts())


def wanted() -> tuple[str, bool] | None:
    found = readiness.wanted(0)
    return (found.config.name, found.beside) if found else None


def test_a_free_slot_is_made_ready_for_a_run_like_the_newest() -> None:
    assert wanted() == (load_config().name, False)
    add("old", Status.COMPLETED)
    add("new", Status.FAILED)
    assert wanted() == ("new", False)


def test_a_slot_whose_run_is_about_to_start_needs_none() -> None:
    add("next", Status.QUEUED)
    assert wanted() is None


def test_a_slot_that_somebody_measures_on_needs_none(busy: None) -> None:
    assert wanted() is None


def test_beside_a_run_the_next_one_of_the_queue_is_made_ready_for() -> None:
    add("first", Status.RUNNING, slot=0)
    assert wanted() is None
    add("other slot", Status.RUNNING, slot=1)
    add("next", Status.QUEUED)
    add("last", Status.QUEUED)
    assert wanted() == ("next", True)


def test_what_joins_the_pack_needs_no_trainer_of_its_own() -> None:
    add("first", Status.RUNNING, slot=0, **PACKED)
    add("joins", Status.QUEUED, training__seed=7, **PACKED)
    assert wanted() is None
    add("another optimizer", Status.QUEUED, optimizer__name="sgd", **PACKED)
    assert wanted() == ("another optimizer", True)


def test_a_run_or_the_defaults_of_the_machine_switch_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add("long", Status.COMPLETED, supervision__standby_minutes=30)
    assert wanted() == ("long", False)
    add("without", Status.COMPLETED, supervision__standby_minutes=0)
    assert wanted() is None
    assert standby.state() == {"slot 0": "off: supervision.standby_minutes is 0"}
    add("with", Status.COMPLETED)
    assert wanted() == ("with", False)
    off = load_config(overrides={"supervision.standby_minutes": 0})
    monkeypatch.setattr(readiness, "load_config", lambda: off)
    assert wanted() is None


def test_no_trainer_is_started_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(standby, "start_detached", lambda *a, **k: started.append(a))
    monkeypatch.setattr(readiness, "free_memory", lambda: 2 * 2**30)
    standby.keep_ready()
    assert not started
    why = "2.0 GiB of memory are free, and it is started from 3 on"
    assert standby.state() == {"slot 0": f"none: {why}"}
    monkeypatch.setattr(readiness, "free_memory", lambda: 8 * 2**30)
    monkeypatch.setattr(readiness, "free_gpu_memory", lambda slot: 2**30)
    standby.keep_ready()
    assert not started
    assert "the GPU's memory" in standby.state()["slot 0"]
    monkeypatch.setattr(readiness, "free_gpu_memory", lambda slot: None)
    standby.keep_ready()
    assert [arguments[1:] for arguments in started] == [("--standby", "--slot", "0")]


def test_runs_of_other_libraries_do_not_fit() -> None:
    config = load_config(overrides=PACKED)
    same = with_overrides(config.model_dump(), {"training.seed": 5, "lora.r": 4})
    assert readiness.libraries_of(same) == readiness.libraries_of(config)
    for changes in (
        {"engine": "trl"},
        {"engine": "auto", "lora.bias": "all"},
        {"backend": "auto"},
        {"training.precision": "bf16"},
    ):
        other = with_overrides(config.model_dump(), changes)
        assert readiness.libraries_of(other) != readiness.libraries_of(config), changes


def test_what_a_process_takes_from_outside_makes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = readiness.environment_key(0)
    assert readiness.environment_key(0) == key
    for name in ("TERM", "SHLVL", "PWD", "SSH_CLIENT", "MPLBACKEND", "SPELLTUNE_TOKEN", "RANK"):
        monkeypatch.setenv(name, "another")
        assert readiness.environment_key(0) == key, name
    for name in ("OMP_NUM_THREADS", "HF_HOME", "CUDA_VISIBLE_DEVICES", "PYTHONPATH"):
        with monkeypatch.context() as changed:
            changed.setenv(name, "another")
            assert readiness.environment_key(0) != key, name


def test_another_code_makes_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "__file__", str(tmp_path / "src" / "files.py"))
    (tmp_path / "src").mkdir()
    code = tmp_path / "src" / "one.py"
    code.write_text("a = 1\n")
    key = readiness.environment_key(0)
    os.utime(code, ns=(0, code.stat().st_mtime_ns + 1))
    assert readiness.environment_key(0) != key


def test_a_panel_keeps_one_while_it_is_used_and_after_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: list[int] = []
    monkeypatch.setattr(standby, "keep_ready", lambda: rounds.append(1))
    keeper = standby.Keeper()
    keeper.round()  # it was just opened
    keeper.round()
    assert len(rounds) == 1
    keeper.use()
    keeper.round()
    keeper.round()
    assert len(rounds) == 2
    add("run", Status.RUNNING, slot=0)
    keeper.round()
    with store.writing() as session:
        store.list_runs(session)[0].status = Status.COMPLETED
    keeper.round()  # its slot is free now
    keeper.round()
    assert len(rounds) == 3
    with store.writing() as session:  # one that begins and ends between two rounds
        store.list_runs(session)[0].ended_at = time.time()
    keeper.round()
    assert len(rounds) == 4
    monkeypatch.setattr(standby, "AFTER_A_RUN", 0)
    keeper.round()
    assert len(rounds) == 4


@pytest.mark.parametrize("took_a_run", [True, False])
def test_only_what_is_left_of_one_is_cleared_not_one_that_just_took_a_run(
    took_a_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = new_token()
    trainer = subprocess.Popen(["sleep", "600"], env=os.environ | {"SPELLTUNE_TOKEN": token})
    supervisor = FileLock(standby.lock_file(0))
    assert supervisor.acquire()
    standby.write(0, standby.Standby(1, token, "environment", []))
    real = standby.read

    def read(slot: int) -> standby.Standby | None:
        there = real(slot)
        if there is not None:  # right after that its supervisor takes the run, or dies
            if took_a_run:
                standby.forget(slot)
            supervisor.release()
        return there

    monkeypatch.setattr(standby, "read", read)
    monkeypatch.setattr(readiness, "wanted", lambda slot: None)
    try:
        standby._keep_ready(0)
        assert (trainer.poll() is None) == took_a_run
    finally:
        trainer.kill()
        trainer.wait()


def test_runs_of_other_machines_keep_none_here(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    monkeypatch.setattr(standby, "keep_ready", lambda: rounds.append(1))
    keeper = standby.Keeper()
    keeper.round()  # it was just opened
    add("elsewhere", Status.RUNNING, slot=0, on="another machine")
    keeper.round()
    keeper.round()
    with store.writing() as session:
        (run,) = store.list_runs(session)
        run.status, run.ended_at = Status.COMPLETED, time.time()
    keeper.round()
    keeper.round()
    assert len(rounds) == 1
