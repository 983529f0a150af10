"""Standby trainers: a run that one takes trains as any other, and where one is gone, hangs or was
started for something else, it is as if there had never been one."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from src import paths, store
from src.config import load_config
from src.runs import estimate, launcher, readiness, reconciler, standby
from src.runs.locks import holder
from src.runs.machine import slot_lock
from src.runs.timeouts import Timeouts
from src.store.tables import Run, Status
from tests.helpers.live import (
    FEW,
    MANY,
    Panel,
    alive,
    command,
    ended,
    left_over,
    queued,
    row,
    sets,
    training,
    wait,
)

pytestmark = pytest.mark.real_start

TOOK = "trained by the standby trainer of slot 0"


@pytest.fixture
def packed(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a short packed run; the newest run of the home has them."""
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"standby": 30}))
    for module in (standby, readiness):
        monkeypatch.setattr(module, "TIMEOUTS", Timeouts(standby=30))
    settings = small | FEW | {"engine": "packed", "lora.dropout": 0.0}
    launcher.stop(queued(settings))
    return settings


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def waiting() -> tuple[psutil.Process, psutil.Process]:
    """Supervisor and trainer of a standby trainer, which is started."""
    standby.keep_ready()
    there = until(lambda: (found := standby.read(0)) and not found.failed and found)
    assert holder(standby.lock_file(0)) == there.pid
    supervisor = psutil.Process(there.pid)
    return supervisor, until(supervisor.children)[0]


def log_of(run_id: str) -> str:
    return paths.log_file(run_id).read_text()


def adapter_of(run_id: str) -> bytes:
    return (paths.output_dir(run_id) / "final" / "adapter_model.safetensors").read_bytes()


def given(settings: dict[str, Any]) -> tuple[str, dict[str, Any], int]:
    """A queued run as `launcher.fill_slots` hands it over."""
    run = row(queued(settings))
    return run.id, run.config, 0


def test_a_run_is_trained_by_the_process_that_waits_to_the_same_bits(
    home: Path, packed: dict[str, Any]
) -> None:
    supervisor, trainer = waiting()
    warm = launcher.launch(load_config(overrides=packed))
    run = wait(warm, ended)
    assert (run.status, run.attempt) == (Status.COMPLETED, 1)
    assert (run.supervisor_pid, run.trainer_pid) == (supervisor.pid, trainer.pid)
    assert log_of(warm).count(TOOK) == 1
    assert not left_over(home, 60)
    cold = launcher.launch(load_config(overrides=packed))
    other = wait(cold, ended)
    assert other.status == Status.COMPLETED
    assert TOOK not in log_of(cold)
    assert adapter_of(warm) == adapter_of(cold)
    assert set(run.used or {}) == set(other.used or {})


def kill_supervisor(supervisor: psutil.Process, trainer: psutil.Process) -> None:
    supervisor.kill()


def stop_both_and_kill_supervisor(supervisor: psutil.Process, trainer: psutil.Process) -> None:
    trainer.suspend()  # it cannot see that its supervisor is gone
    supervisor.kill()


def stop_supervisor(supervisor: psutil.Process, trainer: psutil.Process) -> None:
    supervisor.suspend()


def lose_locks(supervisor: psutil.Process, trainer: psutil.Process) -> None:
    shutil.rmtree(paths.locks_dir())


def lose_pipe(supervisor: psutil.Process, trainer: psutil.Process) -> None:
    standby.orders_file(0).unlink()


def of_another_home(supervisor: psutil.Process, trainer: psutil.Process) -> None:
    (paths.results() / ".home-id").write_text("another")


def change_environment(supervisor: psutil.Process, trainer: psutil.Process) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.mark.parametrize(
    "happens",
    [
        kill_supervisor,
        stop_both_and_kill_supervisor,
        stop_supervisor,
        lose_locks,
        pytest.param(lose_pipe, marks=pytest.mark.slow),
        pytest.param(of_another_home, marks=pytest.mark.slow),
        change_environment,
    ],
)
def test_a_run_is_refused_by_one_that_cannot_train_it_and_no_process_is_left(
    home: Path,
    packed: dict[str, Any],
    happens: Callable[[psutil.Process, psutil.Process], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(standby, "TIMEOUTS", Timeouts(standby=1))
    supervisor, trainer = waiting()
    happens(supervisor, trainer)
    assert not standby.hand_over(*given(packed))
    assert not left_over(home, 60)
    assert holder(slot_lock(0)) is None
    assert not standby.orders_file(0).exists() and standby.read(0) is None


def test_a_run_of_other_libraries_ends_it(home: Path, packed: dict[str, Any]) -> None:
    waiting()
    assert not standby.hand_over(*given(packed | {"engine": "trl"}))
    assert not left_over(home, 60)


def test_a_run_that_wants_none_takes_none(home: Path, packed: dict[str, Any]) -> None:
    waiting()
    assert not standby.hand_over(*given(packed | {"supervision.standby_minutes": 0}))
    assert not left_over(home, 60)


def test_a_slot_in_use_is_left_to_its_user(packed: dict[str, Any], busy: None) -> None:
    # What is handed over while another process has the slot must start nothing.
    standby.keep_ready()
    assert standby.read(0) is None


@pytest.mark.parametrize(
    "number", [signal.SIGSTOP, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_trainer_that_does_not_answer_is_replaced_by_its_supervisor(
    home: Path, packed: dict[str, Any], number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"standby": 3}))
    # Sent with the supervisor suspended, so that it has not seen it when the order comes.
    supervisor, trainer = waiting()
    supervisor.suspend()
    trainer.send_signal(number)
    run_id, _, _ = given(packed)
    assert standby._tell(0, {"run": run_id})
    supervisor.resume()
    run = wait(run_id, ended)
    assert (run.status, run.attempt, run.supervisor_pid) == (
        Status.COMPLETED, 1, supervisor.pid
    )  # fmt: skip
    assert run.trainer_pid != trainer.pid and not alive(trainer.pid)
    assert TOOK not in log_of(run_id)
    assert not left_over(home, 60)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["supervisor", "trainer"])
def test_once_it_has_a_run_it_is_supervised_as_any_other(
    packed: dict[str, Any], victim: str
) -> None:
    processes = dict(zip(("supervisor", "trainer"), waiting(), strict=True))
    run_id = launcher.launch(load_config(overrides=packed | MANY))
    run = wait(run_id, training)
    assert run.trainer_pid == processes["trainer"].pid
    processes[victim].kill()
    if victim == "trainer":
        run = wait(run_id, ended)
        assert "signal 9 (SIGKILL)" in (run.reason or "")
        return
    until(lambda: reconciler.reconcile() or row(run_id).supervisor_pid != run.supervisor_pid)
    assert row(run_id).trainer_pid == run.trainer_pid
    launcher.stop(run_id)
    assert wait(run_id, ended).status == Status.STOPPED


@pytest.mark.slow
def test_a_panel_has_one_wait_and_the_next_after_the_run_of_a_command(
    home: Path, packed: dict[str, Any], data: Path
) -> None:
    panel = Panel()
    panel.ready()
    first = until(lambda: standby.read(0))
    command("launch", *sets(data, packed), "--wait")
    with store.reading() as session:
        (run, *_) = store.list_runs(session)
    assert (run.status, run.supervisor_pid) == (Status.COMPLETED, first.pid)
    until(lambda: (found := standby.read(0)) and found.pid != first.pid)
    panel.signal(signal.SIGKILL)


def test_a_command_has_the_libraries_load_while_it_checks_and_leaves_none_behind(
    home: Path, packed: dict[str, Any], data: Path
) -> None:
    command("launch", *sets(data, packed), "--wait")
    with store.reading() as session:
        (run, *_) = store.list_runs(session)
    assert run.status == Status.COMPLETED and TOOK in log_of(run.id)
    missing = packed | {"data.path": home / "no-such-file"}
    refused = command("launch", *sets(data, missing), check=False)
    assert refused.returncode != 0 and "no-such-file" in refused.stderr
    assert not left_over(home, 60)


@pytest.mark.slow
def test_the_runs_of_a_sweep_wait_for_no_imports(packed: dict[str, Any], data: Path) -> None:
    settings = packed | {"engine": "trl", "training.max_steps": 300}
    ids = [queued(settings | {"training.seed": seed}) for seed in (1, 2)]
    launcher.fill_slots()
    wait(ids[0], training)
    supervisor, _ = waiting()  # as the driver of a sweep has it, each second
    assert wait(ids[1], ended).supervisor_pid == supervisor.pid
    assert TOOK in log_of(ids[1]) and TOOK not in log_of(ids[0])


@pytest.mark.slow
def test_a_trl_run_trains_to_the_same_bits(packed: dict[str, Any]) -> None:
    settings = packed | {"engine": "trl"}
    launcher.stop(queued(settings))
    waiting()
    runs = [wait(launcher.launch(load_config(overrides=settings)), ended) for _ in ("warm", "cold")]
    assert [TOOK in log_of(run.id) for run in runs] == [True, False]
    assert adapter_of(runs[0].id) == adapter_of(runs[1].id)


def test_it_ends_by_itself_without_use_and_with_little_memory(
    home: Path, packed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher.stop(queued(packed | {"supervision.standby_minutes": 0.02}))
    standby.keep_ready()
    until(lambda: holder(standby.lock_file(0)))
    assert not left_over(home, 120)
    assert standby.read(0) is None  # it did not fail
    monkeypatch.setattr(readiness, "free_memory", lambda: 2**30)
    standby.keep_ready()
    assert not left_over(home, 1)
    assert standby.state() == {
        "slot 0": "none: 1.0 GiB of memory are free, and it is started from 3 on"
    }


def test_who_measures_has_its_memory(home: Path, packed: dict[str, Any]) -> None:
    waiting()
    slot, lock = estimate._acquire_slot()
    assert slot == 0 and not left_over(home, 0)
    standby.keep_ready()  # not while something is measured
    assert not left_over(home, 1)
    lock.release()


def test_one_that_cannot_load_its_libraries_is_not_started_again_and_again(
    home: Path, packed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = home / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    standby.keep_ready()
    there = until(lambda: (found := standby.read(0)) and found.failed and found)
    assert there.failed.startswith("with exit code 1; see ")
    assert "libcudart.so.13" in standby.log_file(0).read_text()
    assert not left_over(home, 60)
    standby.keep_ready()
    assert not left_over(home, 1)
    (broken / "torch.py").unlink()
    monkeypatch.delenv("PYTHONPATH")
    waiting()  # now it may be another story


def test_a_sweep_has_the_libraries_load_while_it_checks_and_leaves_none_where_it_is_refused(
    home: Path, packed: dict[str, Any], data: Path
) -> None:
    file = home / "sweep.yaml"

    def launch(settings: dict[str, Any], space: dict[str, Any]) -> Any:
        document = {
            "name": "two", "method": "grid", "budget": "2 trials", "space": space,
            "base": {"overrides": settings | {"data.path": str(data)}},
        }  # fmt: skip
        file.write_text(yaml.safe_dump(document))
        return command("sweep", "launch", str(file), check=False)

    refused = launch(packed, {"lora.target_modules": [["nothing"], ["no"]]})
    assert refused.returncode != 0 and "may name c_attn" in refused.stderr
    assert not left_over(home, 60)

    def trained() -> list[Run]:
        with store.reading() as session:
            return list(store.list_runs(session, statuses=[Status.COMPLETED]))

    assert launch(packed, {"training.learning_rate": [1e-3, 1e-2]}).returncode == 0
    until(lambda: len(trained()) == 2)
    assert any(TOOK in log_of(run.id) for run in trained())
