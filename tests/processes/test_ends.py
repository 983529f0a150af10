"""Runs whose processes are ended from outside: each gets its end, and whoever waits is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from src import store
from src.cli.output import DID_NOT_COMPLETE
from src.paths import ROOT
from src.runs import attempts
from src.store.outcome import EndReason
from src.store.tables import Status
from tests.helpers.live import ended, row, sets, training, wait


def test_whoever_waits_for_a_run_is_told_of_any_end(data: Path, small: dict[str, Any]) -> None:
    """With --wait alone: no panel and no supervisor looks after the run once its own are dead."""
    settings = {name: value for name, value in small.items() if name != "data.path"}
    command = [sys.executable, "-m", "src.cli", "launch", "--wait", "--set=name=waited"]
    waiter = subprocess.Popen([*command, *sets(data, settings)], cwd=ROOT)
    run = wait_for("waited")
    # SIGTERM leaves a checkpoint of the last step, though none was due.
    os.kill(run.trainer_pid, signal.SIGTERM)
    done = wait(run.id, ended)
    assert (done.status, done.end_reason) == (Status.INTERRUPTED, EndReason.TERMINATED)
    assert attempts.newest_verified_step(done) == done.step
    assert waiter.wait(60) == DID_NOT_COMPLETE

    command = [sys.executable, "-m", "src.cli", "resume", run.id, "--wait"]
    waiter = subprocess.Popen(command, cwd=ROOT)
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
