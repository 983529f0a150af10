"""Faults of the run table beneath its users, with their exact outcome; the numbers are those of
the table that `make chaos` writes into docs/results.md."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from src import paths, store
from src.cli import app
from src.config import load_config
from src.paths import ROOT
from src.runs import launcher, reconciler
from src.runs.locks import holder
from src.store.tables import Run, Status
from src.workers.reporter import RunReporter, close_all
from src.workers.trackers import start_tracker
from tests.helpers.live import (
    command,
    ended,
    mounted,
    of_home,
    points_of,
    training,
    wait,
)


def test_27_a_damaged_table_is_restored_beneath_a_training(living: Run) -> None:
    file = paths.results() / "spelltune.db"
    with store.writing():  # so that nobody writes meanwhile
        content = bytearray(file.read_bytes())
        for page in range(1, len(content) // 4096):
            content[page * 4096 : page * 4096 + 512] = os.urandom(512)
        file.write_bytes(content)
    end = time.monotonic() + 300
    while not list(paths.results().glob("spelltune.db.damaged-*")) and time.monotonic() < end:
        time.sleep(0.1)  # who writes next meets it, and a living supervisor restores
    run = wait(living.id, lambda run: (run.step or 0) > (living.step or 0) + 20)
    assert (run.attempt, run.supervisor_pid) == (1, living.supervisor_pid)
    assert holder(paths.trainer_lock(run.id)) == living.trainer_pid
    assert json.loads(command("stop", run.id, "--json").stdout)["id"] == run.id
    assert wait(run.id, ended).status == Status.STOPPED
    table, logged = points_of(run.id)
    assert table == logged and len(table) > 100


@pytest.mark.parametrize("command", ["runs", "reconcile", "sweep list", "show any"])
def test_a_table_that_takes_no_writes_is_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def locked() -> list[str]:
        raise store.DatabaseUnavailable("another process keeps the run table locked; try again")

    monkeypatch.setattr(reconciler, "reconcile", locked)
    answer = CliRunner().invoke(app, command.split())
    assert answer.exit_code == 2 and "keeps the run table locked" in answer.stderr


@pytest.mark.slow
@pytest.mark.root
def test_21_a_full_disk_under_the_table_costs_no_point(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = home / "small"
    with mounted(disk, "1m"):
        monkeypatch.setenv("SPELLTUNE_DATABASE_URL", f"sqlite:///{disk}/spelltune.db")
        run_id = launcher.launch(load_config(overrides=small))
        wait(run_id, training)
        filler = disk / "filler"
        with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        log = paths.metrics_log(run_id)
        lines, size = 0, log.stat().st_size
        end = time.monotonic() + 300
        while lines < 400 and time.monotonic() < end:
            lines = len(log.read_bytes()[size:].splitlines())
            time.sleep(0.2)
        assert lines >= 400  # the training goes on, and its log
        filler.unlink()
        launcher.stop(run_id)
        done = wait(run_id, ended)
        assert done.status == Status.STOPPED
        table, logged = points_of(run_id)
        assert table == logged and len(table) > 400
        for process in of_home(home):
            process.wait(60)


@pytest.mark.timed
def test_a_power_loss_costs_five_seconds_of_points_while_the_table_is_locked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every point is in the table after a second, and a commit is on the disk."""
    synced = []
    real = os.fsync

    def fsync(file: int) -> None:
        synced.append((time.monotonic(), os.readlink(f"/proc/self/fd/{file}")))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with store.writing() as session:
        config = load_config(overrides={"tracking.mode": "off"})
        run = store.enqueue(session, config)
        assert store.claim(session, run, token="t", slot=0)
        session.refresh(run)
        session.expunge(run)
    reporter = RunReporter(run, start_tracker(config, run.id, home))
    with store.writing():
        locked = time.monotonic()
        for step in range(60):
            reporter.metrics(step, {"train/loss": 1.0})
            time.sleep(0.1)
    close_all([reporter])
    safe = [at - locked for at, file in synced if file == str(paths.metrics_log(run.id))]
    assert safe and safe[0] < 5
    table, logged = points_of(run.id)
    assert table == logged and len(table) == 60


def test_26_the_journal_shrinks_after_a_long_reader(data: Path) -> None:
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
    journal = paths.results() / "spelltune.db-wal"

    def record(first: int, steps: int) -> None:
        points = [(s, f"m{n}", 0.5, 1.0) for s in range(first, first + steps) for n in range(20)]
        with store.writing() as session:
            store.record_metrics(session, run_id, 1, points)

    with store.reading() as reader:
        store.find(reader, run_id)
        for batch in range(20):
            record(batch * 500, 500)
        grown = journal.stat().st_size
    for batch in range(20, 23):
        record(batch * 500, 500)
    assert grown > 3 * 4194304
    with store.reading() as session:  # while one is open the file stays
        store.find(session, run_id)
        record(20_000, 1)
        assert journal.stat().st_size <= 4194304 + 65536


def test_28_an_old_sqlite_keeps_its_journal_in_delete_mode(home: Path) -> None:
    code = """
import sys
sys.modules["pysqlite3"] = None
from src import store
with store.writing() as session:
    mode = session.connection().exec_driver_sql("PRAGMA journal_mode").scalar()
print(mode, "|", store.why_not_wal())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    mode, _, why = done.stdout.strip().partition(" | ")
    import sqlite3

    if sqlite3.sqlite_version_info < (3, 51, 3):
        assert mode == "delete" and "older than 3.51.3" in why
    else:
        assert (mode, why) == ("wal", "None")


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "9p", "ext4"])
def test_28_on_a_network_disk_too(home: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    disks = [
        SimpleNamespace(mountpoint=at, fstype=f) for at, f in (("/", "ext4"), (str(home), kind))
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: disks)
    store.why_not_wal.cache_clear()
    try:
        with store.writing() as session:
            mode = session.connection().exec_driver_sql("PRAGMA journal_mode").scalar()
        page = AppTest.from_file(str(ROOT / "src/panel/main.py"), default_timeout=300).run()
    finally:
        monkeypatch.undo()
        store.why_not_wal.cache_clear()
    text = "\n".join(element.proto.body for element in page.get("html"))
    assert mode == ("wal" if kind == "ext4" else "delete")
    assert ("slower DELETE mode" in text and f"network disk ({kind})" in text) == (kind != "ext4")
