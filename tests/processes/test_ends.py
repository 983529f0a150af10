"""Runs whose processes are ended from outside: each gets its end, and whoever waits is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from src import store
from src.cli.output import DID_NOT_COMPLETE
from src.config import load_config
from src.paths import ROOT
from src.runs import attempts, launcher
from src.store.outcome import EndReason
from src.store.tables import Run, Status
from tests.helpers.live import alive, command, ended, row, sets, training, wait


def test_whoever_waits_for_a_run_is_told_of_any_end(data: Path, small: dict[str, Any]) -> None:
    """With --wait alone: no panel and no supervisor looks after the run once its own are dead."""
    settings = {name: value for name, value in small.items() if name != "data.path"}
    launch = [sys.executable, "-m", "src.cli", "launch", "--wait", "--set=name=waited"]
    waiter = subprocess.Popen([*launch, *sets(data, settings)], cwd=ROOT)
    run = wait_for("waited")
    # SIGTERM leaves a checkpoint of the last step, though none was due.
    os.kill(run.trainer_pid, signal.SIGTERM)
    done = wait(run.id, ended)
    assert (done.status, done.end_reason) == (Status.INTERRUPTED, EndReason.TERMINATED)
    assert attempts.newest_verified_step(done) == done.step
    assert waiter.wait(60) == DID_NOT_COMPLETE

    resume = [sys.executable, "-m", "src.cli", "resume", run.id, "--wait"]
    waiter = subprocess.Popen(resume, cwd=ROOT)
    run = wait(run.id, lambda now: training(now) and now.attempt == 2)
    for pid in (run.supervisor_pid, run.trainer_pid):
        os.kill(pid or 0, signal.SIGKILL)
    assert waiter.wait(120) == DID_NOT_COMPLETE
    assert row(run.id).status == Status.INTERRUPTED


def wait_for(name: str) -> Any:
    """The run of this name, once it trains."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with store.reading() as session:
            found = [run for run in store.list_runs(session) if run.name == name]
        if found:
            return wait(found[0].id, training)
        time.sleep(0.2)
    raise AssertionError("it was not launched")


def test_a_supervisor_that_hangs_is_replaced(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds its locks, but writes no heartbeat: else its run would be RUNNING for ever."""
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"lease": 5, "heartbeat": 1}))
    run_id = launcher.launch(load_config(overrides=small))
    run = wait(run_id, training)
    os.kill(run.supervisor_pid or 0, signal.SIGSTOP)

    def replaced(now: Run) -> bool:
        command("reconcile")
        return now.supervisor_pid != run.supervisor_pid

    other = wait(run_id, replaced)
    assert not alive(run.supervisor_pid)
    assert (other.status, other.trainer_pid) == (Status.RUNNING, run.trainer_pid)
    launcher.stop(run_id)
    assert wait(run_id, ended).status == Status.STOPPED
