"""Runs that cannot start: each comes to its end with a reason, and the queue goes on."""

import json
import os
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
from src.runs import launcher, spawn
from src.store.tables import Run, Status
from tests.helpers.live import FEW, ended, row, wait


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
