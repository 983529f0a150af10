"""Run tables of every earlier schema, and one that is lost: opened, or built again from files."""

import errno
import json
import os
import shutil
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from src import paths, store
from src.config import load_config
from src.files import link_or_copy
from src.runs import deletion, launcher, reconciler, restore, snapshots
from src.runs.processes import new_token
from src.store.tables import Run, SweepStatus
from tests.helpers.store import checkpoint

pytestmark = pytest.mark.usefixtures("home")

SCHEMAS = sorted((Path(__file__).parent / "schemas").glob("*.sql"), key=lambda file: file.stem)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda file: str(file.stem))
def test_a_run_table_of_every_earlier_schema_opens(schema: Path, tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as old:
        old.executescript(schema.read_text())
        old.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        versions = range(1, int(schema.stem.rstrip("ab")) + 1)
        old.executemany("INSERT INTO schema_version VALUES (?)", [(n,) for n in versions])
        old.execute(
            "INSERT INTO run (id, name, status, config, used, attempt, max_steps, created_at) "
            "VALUES ('a', 'a', 'COMPLETED', '{}', '{}', 1, 5, 1.0)"
        )
        if "CREATE TABLE sweep" in schema.read_text():
            columns = [row[1] for row in old.execute("PRAGMA table_info(sweep)")]
            where = ", folder" if "folder" in columns else ""
            old.execute(
                f"INSERT INTO sweep (id, name, file, path, status, seed, spent_seconds, created_at"
                f"{where}) VALUES ('s', 's', '', '/x/s.yaml', 'COMPLETED', 1, 0, 1.0"
                f"{', ' + repr('/x') if where else ''})"
            )
    old.close()
    with store.writing(store.url_of(file)) as session:
        run = store.find(session, "a")
        assert (run.status, run.resume_step, run.failed_starts) == ("COMPLETED", None, None)
        assert [s.folder for s in store.list_sweeps(session)] in ([], ["/x"])
        assert store.list_events(session, "a") == store.list_checkpoints(session, "a") == []
        store.record_metrics(session, "a", 1, [(1, "train/loss", 0.5, 1.0)])
        assert store.enqueue(session, load_config()).status == "QUEUED"


def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)


def _missing(file: Path) -> None:
    file.unlink()


def _zero_bytes(file: Path) -> None:
    file.write_bytes(b"")


def _no_tables(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as empty:
        empty.execute("CREATE TABLE other (n INTEGER)")
    empty.close()


@pytest.mark.parametrize("lose", [_missing, _zero_bytes, _no_tables])
def test_a_lost_run_table_is_built_again_before_anything_else(
    lose: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_processes(monkeypatch)
    with store.writing() as session:
        ended = [store.enqueue(session, load_config(overrides={"name": n})).id for n in "abc"]
        living = store.enqueue(session, load_config())
        store.claim(session, living, token=(token := new_token()), slot=0)
        living_id = living.id
    cancelled, held, queued = ended
    launcher.stop(cancelled)
    launcher.hold([held], held=True)
    for run_id in (queued, living_id):
        snapshots.write_run(run_id)
    checkpoint(queued, 5)
    before = {}
    with store.reading() as session:
        before = {run.id: run.model_dump() for run in store.list_runs(session)}
    file = store.sqlite_file()
    assert file is not None
    for ending in ("-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    assert callable(lose)
    lose(file)
    # A process that writes meanwhile waits, and never makes a new table.
    with (
        pytest.raises(Exception, match="missing or empty|no such table"),
        store.writing() as session,
    ):
        store.list_runs(session)
    assert restore.restore_database() == file
    with store.reading() as session:
        after = {run.id: run.model_dump() for run in store.list_runs(session)}
        assert after == before
        assert [c.step for c in store.list_checkpoints(session, queued)] == [5]
        assert [run.id for run in store.queue(session)] == [queued]
        assert store.find(session, living_id).token == token
    assert restore.restore_database() is None


def test_a_new_home_gets_a_new_run_table() -> None:
    file = store.sqlite_file()
    assert file is not None and not store.is_lost(file)
    with store.reading() as session:
        assert store.list_runs(session) == []


def test_a_snapshot_that_cannot_be_read_costs_only_its_own_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _no_processes(monkeypatch)
    with store.writing() as session:
        ids = [store.enqueue(session, load_config(overrides={"name": n})).id for n in "abcd"]
    for run_id in ids:
        snapshots.write_run(run_id)
    cut, empty, old, whole = (paths.output_dir(i) / "run.json" for i in ids)
    cut.write_text(whole.read_text()[:200])
    empty.write_text('{"run": {}, "events": []}')
    document = json.loads(old.read_text())
    for name in ("stop_reason", "sweep_id", "number", "end_reason", "resume_step", "tags"):
        del document["run"][name]
    old.write_text(json.dumps(document))
    file = paths.sweep_file("s")
    file.parent.mkdir(parents=True)
    row = {"id": "s", "name": "s", "file": "", "path": "/x/s.yaml", "seed": 1, "created_at": 1.0}
    file.write_text(json.dumps(row | {"status": SweepStatus.COMPLETED, "spent_seconds": 0.0}))
    table = store.sqlite_file()
    assert table is not None
    table.unlink()
    reconciler.reconcile()
    with store.reading() as session:
        assert {run.id for run in store.list_runs(session)} == {ids[2], ids[3]}
        assert store.find_sweep(session, "s").folder == "/x"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.ENOTSUP, errno.EXDEV])
def test_a_disk_without_hard_links_has_copies(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("whole")
    link_or_copy(source, target)
    assert target.read_text() == "whole" and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(FileExistsError):
        link_or_copy(source, target)


def test_a_damaged_run_table_is_restored_on_a_disk_without_hard_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _no_processes(monkeypatch)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    run_id = launcher.launch(load_config())
    table = store.sqlite_file()
    assert table is not None
    table.write_bytes(b"not a database at all" * 400)
    monkeypatch.setattr(os, "link", refuse)
    reconciler.reconcile()
    with store.reading() as session:
        assert store.find(session, run_id).status == "QUEUED"
    assert list(table.parent.glob("spelltune.db.damaged-*"))


def test_an_older_copy_of_the_table_learns_what_the_snapshots_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _no_processes(monkeypatch)
    table = store.sqlite_file()
    assert table is not None
    first, second, unknown = (launcher.launch(load_config()) for _ in "abc")
    older = table.with_name("older.db")
    with sqlite3.connect(table) as now, sqlite3.connect(older) as copy:
        now.backup(copy)
    now.close()
    copy.close()
    with store.writing() as session:
        store.claim(session, store.find(session, first), token="t", slot=0)
        store.record_metrics(session, first, 1, [(1, "train/loss", 0.5, 1.0)])
    snapshots.write_run(first)
    new = launcher.launch(load_config())
    launcher.stop(second)
    launcher.stop(unknown)
    deletion.delete(_row(unknown))  # the copy does not know of it
    assert restore.restore_database() is None
    with store.reading() as session:
        before = {run.id: run.model_dump() for run in store.list_runs(session)}
    for ending in ("-wal", "-shm"):
        table.with_name(table.name + ending).unlink(missing_ok=True)
    os.replace(older, table)
    assert restore.restore_database() == table
    with store.reading() as session:
        after = {run.id: run.model_dump() for run in store.list_runs(session)}
    gone = after.pop(unknown)
    assert gone["held_at"] is not None  # nothing starts what was deleted
    assert after == before and new in after
    assert restore.restore_database() is None


def _row(run_id: str) -> Run:
    with store.reading() as session:
        return store.find(session, run_id)


def test_of_several_copies_to_one_name_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    together = threading.Barrier(4)
    real = shutil.copyfile

    def copy(source: str, target: str) -> None:
        with suppress(threading.BrokenBarrierError):  # no other one gets as far
            together.wait(0.5)
        real(source, target)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", copy)
    folder = tmp_path / "copies"
    folder.mkdir()
    target, won = folder / "target", []

    def place(name: str) -> None:
        (folder / name).write_text(name)
        with suppress(FileExistsError):
            link_or_copy(folder / name, target)
            won.append(name)

    threads = [threading.Thread(target=place, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [target.read_text()] == won
    assert sorted(f.name for f in folder.iterdir()) == ["a", "b", "c", "d", "target"]
    # What a process left that died does not keep others from it for ever.
    left = folder / ".second.copying"
    left.touch()
    os.utime(left, (1, 1))
    link_or_copy(folder / "a", folder / "second")
    assert (folder / "second").read_text() == "a" and not left.exists()


def test_two_damaged_tables_within_one_second_are_both_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _no_processes(monkeypatch)
    run_id = launcher.launch(load_config(overrides={"tracking.mode": "off"}))
    monkeypatch.setattr(restore.time, "strftime", lambda _: "20260102-030405")
    table = store.sqlite_file()
    assert table is not None
    for _ in range(2):
        table.write_bytes(b"not a database" * 100)
        # Where another thread reads the table, it may be found damaged a moment later, or there.
        while table.read_bytes().startswith(b"not a database"):
            with suppress(Exception), store.reading() as session:
                store.list_runs(session)
            restore.restore_database()
    with store.reading() as session:
        assert [run.id for run in store.list_runs(session)] == [run_id]
    aside = {file.name for file in table.parent.glob("*.damaged-2*")}
    assert aside == {f"{table.name}.damaged-20260102-030405{end}" for end in ("", "-2")}
