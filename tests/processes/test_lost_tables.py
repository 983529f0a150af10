"""A training whose run table is deleted, emptied, replaced by an older copy, or kept locked."""

import os
import sqlite3
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from src import store
from src.config import load_config
from src.runs import launcher
from src.store import database, sqlite
from src.store.outcome import EndReason
from src.store.tables import Status
from src.workers import trainer
from src.workers.reporter import close_all
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
    process = psutil.Process(began.trainer_pid)
    for older in ("missing", "empty", without, waiting):
        process.suspend()  # it neither writes nor ends meanwhile
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
        process.resume()
        wait(run_id, lambda run, seen=step: (run.step or 0) > seen)
        wait(run_id, lambda run: run.trainer_pid == process.pid)
        assert process.is_running() and Status(row(run_id).status).active
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
    while process.is_running() and time.monotonic() < end:
        time.sleep(0.1)
    with store.reading() as session:
        assert len(store.list_runs(session)) == 1


def test_a_trainer_waits_for_a_table_in_delete_mode_that_another_process_keeps_locked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "why_not_wal", lambda: "as on a network disk")
    with store.writing() as session:
        run = store.enqueue(session, load_config(overrides={"tracking.mode": "off"}))
        store.claim(session, run, token="t", slot=0)
        run_id = run.id
    table = store.sqlite_file()
    assert table is not None
    other = sqlite.sqlite_driver.connect(table, isolation_level=None, check_same_thread=False)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    other.execute("BEGIN EXCLUSIVE")
    refused = threading.Event()
    real = database.time.sleep

    def sleep(seconds: float) -> None:
        refused.set()  # the busy timeout is over, and it is tried again
        real(0.05)

    monkeypatch.setattr(database, "time", SimpleNamespace(
        sleep=sleep, monotonic=time.monotonic, time=time.time))  # fmt: skip

    def let_go() -> None:
        refused.wait(60)
        other.execute("COMMIT")
        other.close()

    letting_go = threading.Thread(target=let_go)
    letting_go.start()
    monkeypatch.setenv("SPELLTUNE_TOKEN", "t")
    waits = store.busy_timeout_seconds.set(0.1)
    try:
        own = trainer.begin(run_id, 1)
    finally:
        store.busy_timeout_seconds.reset(waits)
        letting_go.join()
    assert own is not None and refused.is_set()
    close_all([own.reporter])
    own.lock.release()
