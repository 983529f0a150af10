"""Runs that cannot start: each comes to its end with a reason, and the queue goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, update

from src import paths, store
from src.config import load_config
from src.paths import ROOT
from src.runs import launcher, reconciler, spawn
from src.store.tables import Run, Status, SweepStatus
from src.sweeps import control
from src.training.packed.eligibility import pack_key
from src.workers.supervisor import Supervisor
from src.workers.sweep_driver import SweepDriver
from tests.helpers.live import FEW, MANY, alive, command, ended, launch, row, training, wait
from tests.helpers.pages import html, show
from tests.helpers.sweeps import cli, sweep_row, trials_of, until, written

pytestmark = pytest.mark.real_start


@pytest.fixture
def packed(small: dict[str, Any]) -> dict[str, Any]:
    return small | FEW | {"engine": "packed", "lora.dropout": 0.0}


def test_a_trainer_that_dies_before_it_reads_its_runs_fails_them_and_the_queue_goes_on(
    home: Path, packed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = home / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    configs = [load_config(overrides=packed | {"training.seed": seed}) for seed in (1, 2)]
    ids = launcher.launch_all(configs)
    for run_id in ids:
        run = wait(run_id, ended)
        assert (run.status, run.attempt) == (Status.FAILED, 1)
        assert "ImportError: libcudart.so.13: cannot open" in (run.reason or "")
        log = paths.log_file(ids[0]).read_text()
    assert log.count("ImportError: libcudart") == 2
    (broken / "torch.py").unlink()
    sound = launcher.launch(load_config(overrides=packed))
    assert wait(sound, ended).status == Status.COMPLETED


def test_a_supervisor_that_never_starts_fails_its_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "command", lambda worker, *rest: [
        sys.executable, "-c", "raise ImportError('no such module')"
    ])  # fmt: skip
    run_id = launcher.launch(load_config())
    for _ in range(2):
        while "no such module" not in paths.log_file(run_id).read_text():
            time.sleep(0.05)
        with store.writing() as session:  # as it is once its time to claim the run is over
            session.execute(update(Run).where(col(Run.id) == run_id).values(slot_given_at=0))
        launcher.fill_slots()
    run = row(run_id)
    assert run.status == Status.FAILED
    assert "ImportError: no such module" in (run.reason or "")
    assert json.loads((paths.output_dir(run_id) / "run.json").read_text())["run"]["status"] == (
        Status.FAILED
    )


def test_supervisors_that_die_before_they_adopt_a_trainer_are_counted(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = launch(data, **MANY)
    run = wait(run_id, training)
    assert run.supervisor_pid and run.trainer_pid
    os.kill(run.trainer_pid, signal.SIGSTOP)  # it will not read the stop
    os.kill(run.supervisor_pid, signal.SIGKILL)
    started: list[Any] = []
    monkeypatch.setattr(spawn, "command", lambda *what: started.append(what) or [
        sys.executable, "-c", "raise ImportError('no such module')"
    ])  # fmt: skip
    while row(run_id).reason is None:
        reconciler.reconcile()
        time.sleep(0.05)
    told = row(run_id)
    assert (told.status, told.failed_starts) == (Status.RUNNING, 2)
    assert "its supervisor died" in told.reason and "no such module" in told.reason
    assert json.loads(command("show", run_id, "--json").stdout)["reason"] == told.reason
    reconciler.reconcile()
    assert len(started) == 2 and alive(run.trainer_pid)

    launcher.stop(run_id)
    reconciler.reconcile()
    assert alive(run.trainer_pid)
    with store.writing() as session:  # as it is once its time to stop by itself is over
        session.execute(update(Run).where(col(Run.id) == run_id).values(stop_requested_at=1))
    reconciler.reconcile()
    assert row(run_id).status == Status.STOPPED and not alive(run.trainer_pid)


@pytest.mark.slow
def test_a_table_that_is_locked_for_long_at_the_start_only_delays_it(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"start": 0.5}))
    with store.writing() as session:
        run_id = store.enqueue(session, load_config(overrides=small | FEW)).id
    given = threading.Event()

    def lock() -> None:
        with store.writing():
            given.set()
            time.sleep(18)  # longer than SQLite waits by itself

    holding = threading.Thread(target=lock)
    holding.start()
    given.wait()
    command = [sys.executable, "-m", "src.workers.supervisor", run_id, "--slot", "0"]
    supervisor = subprocess.Popen(command, cwd=ROOT, env=os.environ)
    holding.join()
    assert wait(run_id, ended).status == Status.COMPLETED
    assert supervisor.wait(60) == 0


def test_a_driver_that_dies_at_its_start_fails_its_sweep_until_somebody_resumes_it(
    home: Path, small: dict[str, Any], busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = home / "broken"
    broken.mkdir()
    (broken / "optuna.py").write_text("raise ImportError('libsampler.so: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    sweep_id = control.launch(written(home, small, at_once=1))
    end = time.monotonic() + 300
    while sweep_row(sweep_id).failed_at is None and time.monotonic() < end:
        reconciler.reconcile()
        time.sleep(0.1)
    error = "ImportError: libsampler.so: cannot open"
    told = sweep_row(sweep_id)
    assert (told.status, told.told_status) == (SweepStatus.PAUSED, "FAILED")
    assert told.reason == f"its driver did not start, 2 times: {error}"
    # It stays so: no reader starts it again.
    reconciler.reconcile()
    assert paths.sweep_log(sweep_id).read_text().count(error) == 2
    assert not launcher.driver_lives(sweep_id)
    assert json.loads(paths.sweep_file(sweep_id).read_text())["failed_at"] == told.failed_at
    assert cli("sweep", "list").stdout.startswith(f"FAILED    {sweep_id}")
    shown = cli("sweep", "show", sweep_id).stdout
    assert f"{sweep_id}  FAILED  " in shown and "spelltune sweep resume" in shown
    assert cli("sweep", "add", "six", "1 trials").exit_code == 2  # a grid has no such budget
    page = html(show("sweeps", sweep=sweep_id))
    assert 'class="badge failed"' in page and "libsampler.so" in page

    (broken / "optuna.py").unlink()
    assert cli("sweep", "resume", sweep_id).stdout.startswith("ACTIVE")
    until(sweep_id, lambda trials: len(trials) == 1)
    while sweep_row(sweep_id).driver_started_at is not None:  # its first round is over in a moment
        assert time.monotonic() < end + 300
        time.sleep(0.05)
    resumed = sweep_row(sweep_id)
    assert (resumed.failed_at, resumed.failed_starts, resumed.reason) == (None, None, None)
    control.cancel(sweep_id)


@pytest.mark.parametrize("section", [{"rank_of_the_future": 1}, 5])
def test_a_trial_whose_settings_cannot_be_read_fails_and_its_sweep_goes_on(
    home: Path, small: dict[str, Any], busy: None, section: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = control.launch(written(home, small, space={"lora.r": [2, 4]}, retries=1))
    driver = SweepDriver(sweep_id)
    assert driver.look_after_trials()
    odd, even = trials_of(sweep_id)
    with store.writing() as session:
        config = store.find(session, odd.id).config | {"lora": section}
        session.execute(update(Run).where(col(Run.id) == odd.id).values(config=config))
    launcher.stop(even.id)
    # As on a machine with a free slot, on which no process starts.
    monkeypatch.setattr(launcher, "holder", lambda path: None)
    monkeypatch.setattr(launcher, "start_supervisor", lambda *arguments: None)
    for _ in range(3):  # its first start, its retry, and the end of the sweep
        launcher.fill_slots()
        goes_on = driver.look_after_trials()
    odd = row(odd.id)
    assert not goes_on and odd.attempt == 2
    assert odd.status == Status.FAILED
    assert (odd.reason or "").startswith("its settings, as they are stored, cannot be read: lora")
    assert sweep_row(sweep_id).status == SweepStatus.COMPLETED
    assert cli("sweep", "show", sweep_id).exit_code == cli("show", odd.id).exit_code == 0
    show("monitor", run=odd.id)
    show("sweeps", sweep=sweep_id)


def test_a_run_whose_settings_cannot_be_read_ends_no_pack(
    home: Path, packed: dict[str, Any], busy: None
) -> None:
    with store.writing() as session:
        first, odd = (store.enqueue(session, load_config(overrides=packed)).id for _ in "ab")
        config = store.find(session, odd).config | {"lora": {"rank_of_the_future": 1}}
        session.execute(update(Run).where(col(Run.id) == odd).values(config=config))
    supervisor = Supervisor(0)
    (claimed,) = supervisor.claim([first])
    supervisor.pack = pack_key(load_config(overrides=packed))
    supervisor.claim_more(8)
    assert [one.run.id for one in supervisor.runs] == [first]
    claimed.lock.release()
