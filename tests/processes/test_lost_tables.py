"""A living training whose run table is deleted, emptied, or replaced by an older copy."""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil

from src import store
from src.runs import launcher
from src.store.outcome import EndReason
from src.store.tables import Status
from tests.helpers.live import command, ended, points_of, queued, row, training, wait


def _copy_to(target: Path) -> None:
    table = store.sqlite_file()
    assert table is not None
    with sqlite3.connect(table) as now, sqlite3.connect(target) as copy:
        now.backup(copy)
    now.close()
    copy.close()


def test_a_training_goes_on_and_keeps_its_row_whatever_becomes_of_the_table(
    home: Path, small: dict[str, Any]
) -> None:
    table = store.sqlite_file()
    assert table is not None
    with store.reading() as session:
        store.list_runs(session)
    _copy_to(without := home / "without.db")
    run_id = queued(small | {"evaluation.eval_steps": 50})
    _copy_to(waiting := home / "waiting.db")
    launcher.fill_slots()
    began = wait(run_id, training)
    trainer = psutil.Process(began.trainer_pid)
    for older in ("missing", "empty", without, waiting):
        trainer.suspend()  # it neither writes nor ends meanwhile
        step = row(run_id).step or 0
        for ending in ("-wal", "-shm"):
            table.with_name(table.name + ending).unlink(missing_ok=True)
        if isinstance(older, Path):
            os.replace(older, table)
        elif older == "empty":
            table.write_bytes(b"")
        else:
            table.unlink()
        assert command("runs").stdout.count(run_id)
        again = row(run_id)
        assert (again.token, again.attempt) == (began.token, 1), older
        trainer.resume()
        wait(run_id, lambda run, seen=step: (run.step or 0) > seen)
        wait(run_id, lambda run: run.trainer_pid == trainer.pid)
        assert trainer.is_running() and Status(row(run_id).status).active
    with store.writing() as session:  # as its sweep ends a run, which completes it
        store.request_stop(session, run_id, reason="enough")
    run = wait(run_id, ended)
    assert (run.status, run.end_reason) == (Status.COMPLETED, EndReason.PRUNED)
    assert (run.attempt, run.token) == (1, began.token)
    in_table, logged = points_of(run_id)
    assert in_table == logged and len(logged) > 20
    with store.reading() as session:
        assert store.list_evaluations(session, run_id)
    end = time.monotonic() + 60
    while trainer.is_running() and time.monotonic() < end:
        time.sleep(0.1)
    with store.reading() as session:
        assert len(store.list_runs(session)) == 1
