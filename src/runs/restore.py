"""Builds the run table again from the files beside it: a damaged, a lost or an older one."""

import itertools
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.files import link_or_copy, read_text
from src.runs import snapshots
from src.runs.locks import FileLock
from src.runs.timeouts import TIMEOUTS
from src.store.damage import MARKER_SUFFIX
from src.store.migrations import values_of_schema_8, values_of_schema_10
from src.store.outcome import EndReason
from src.store.tables import Event, Run, Status, Sweep, SweepStatus
from src.training import checkpointing


def restore_database() -> Path | None:
    """Build the run table again from the files of the runs where it is damaged (it is set aside),
    missing or empty; bring it up to date where an older copy was put in its place.

    The path of the table; None where another process was faster or it is whole. A process that is
    restoring it is waited for.
    """
    database = store.sqlite_file()
    if database is None or not (_is_broken(database) or _is_older(database)):
        return None
    lock = FileLock(paths.locks_dir() / "restore.lock")
    deadline = time.monotonic() + TIMEOUTS.start
    while not lock.acquire():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    try:
        if _is_broken(database):
            return _rebuild(database)
        return _bring_up_to_date(database) if _is_older(database) else None
    finally:
        lock.release()


def _is_broken(database: Path) -> bool:
    return store.damage_marker() is not None or store.is_lost(database)


def _is_older(database: Path) -> bool:
    """True if there are snapshots of a later state than that of the table."""
    newest = snapshots.newest_number()
    if newest == 0 or not database.exists():
        return False
    try:
        with store.reading() as session:
            return store.snapshot_number(session) < newest
    except SQLAlchemyError:
        return False  # locked, or damaged, which is found where it is read


def _rebuild(database: Path) -> Path | None:
    """Set a damaged file aside and build a new one; None if it is whole."""
    if not store.is_damaged(database):
        if (notice := store.damage_marker()) is not None:
            notice.unlink(missing_ok=True)
        return None
    aside = _free_name(database)
    for left in database.parent.glob(f"{database.name}.restoring*"):
        left.unlink(missing_ok=True)
    # A new name each time: a process makes the tables of a database when it first opens it.
    fresh = database.with_name(f"{database.name}.restoring-{secrets.token_hex(4)}")
    _read_back(store.url_of(fresh))
    if there := database.exists() and database.stat().st_size > 0:
        link_or_copy(database, aside)
    for ending in ("-wal", "-shm"):
        part = database.with_name(database.name + ending)
        if part.exists():
            os.replace(part, aside.with_name(aside.name + ending))
    # The new file takes the name in one step: nobody ever finds none.
    os.replace(fresh, database)
    database.with_name(f"{database.name}{MARKER_SUFFIX}").unlink(missing_ok=True)
    what = f"damaged; it is set aside as {aside}" if there else "missing or empty; it"
    print(f"warning: the run table was {what} and was restored", file=sys.stderr)
    return database


def _free_name(database: Path) -> Path:
    """Where a damaged file is set aside; two may be within one second."""
    stem = f"{database.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(p for name in names if not (p := database.with_name(name)).exists())


def _bring_up_to_date(database: Path) -> Path:
    """Merge into an older table what the snapshots know of later."""
    with store.reading() as session:
        known = store.snapshot_number(session)
    runs = _read_back(None, after=known)
    with store.writing() as session:
        # What waits in it and has no files was deleted since, or is of before there were any.
        store.hold_all_but(session, runs)
    print(
        "warning: the run table was older than the files of its runs and was brought up to date",
        file=sys.stderr,
    )
    return database


def _read_back(url: URL | None, *, after: int = -1) -> set[str]:
    """Read the snapshots with a number above `after` into a table; the ids of all runs that have
    one."""
    newest = max(after, snapshots.newest_number())
    for file in sorted({_plain(f) for f in paths.results().glob("sweeps/*.json*")}):
        _restore_sweep(file, url, after)
    files = sorted({_plain(f) for f in paths.results().glob("runs/*/run.json*")})
    for file in files:
        _restore_run(file, url, after)
    with store.writing(url) as session:  # makes the tables, where no file could be read
        store.set_snapshot_number(session, newest)
    return {file.parent.name for file in files}


def _plain(file: Path) -> Path:
    """The name of a snapshot without the ending of one that could not be renewed."""
    return file.with_name(f"{file.name.partition('.json')[0]}.json")


def _restore_sweep(file: Path, url: URL | None, after: int) -> None:
    there = snapshots.found(file)
    if there is None:
        return
    try:
        row = json.loads(read_text(there))
        if row.pop("number", 0) <= after:
            return
        ending = there.name.removeprefix(file.name)
        if ending in snapshots.ENDED and row["status"] in (SweepStatus.ACTIVE, SweepStatus.PAUSED):
            row["status"] = ending[1:].upper()
        sweep = Sweep(**row | values_of_schema_10(row))
        with store.writing(url) as session:
            session.merge(sweep)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SQLAlchemyError) as error:
        print(f"warning: cannot read {there}: {error}", file=sys.stderr)


def _restore_run(file: Path, url: URL | None, after: int) -> None:
    there = snapshots.found(file)
    if there is None:
        return
    try:
        document: dict[str, Any] = json.loads(read_text(there))
        if document.get("number", 0) <= after:
            return
        row = document["run"]
        if "end_reason" not in row:  # written before schema 8
            row |= values_of_schema_8(row)
        run = Run(**row | _wished(row, there.name.removeprefix(file.name)))
        events = [Event(**event) for event in document["events"]]
        with store.writing(url) as session:
            store.put_back(session, run, events)
    except (OSError, ValueError, KeyError, TypeError, SQLAlchemyError) as error:
        print(f"warning: cannot read {there}: {error}", file=sys.stderr)
        return
    with store.writing(url) as session:
        for attempt, points in sorted(snapshots.read_metrics_log(run.id).items()):
            store.record_metrics(session, run.id, attempt, points)
        for step in checkpointing.steps(paths.checkpoints_dir(run.id)):
            snapshots.record_checkpoint(session, run.id, step)
        snapshots.record_evaluations(session, run.id, run.attempt)


def _wished(row: dict[str, Any], ending: str) -> dict[str, Any]:
    """Columns of a run whose snapshot could not be renewed when somebody stopped or held it."""
    now, waits = time.time(), row["status"] == Status.QUEUED
    if ending == snapshots.STOPPED and waits:
        reason = "cancelled before it started"
        columns = {"status": Status.CANCELLED, "end_reason": EndReason.CANCELLED}
        return columns | {"ended_at": now, "reason": reason}
    if ending == snapshots.STOPPED and row["status"] != Status.COMPLETED:
        return {"stop_requested_at": row.get("stop_requested_at") or now}
    if ending == snapshots.HELD and waits:
        return {"held_at": now, "reason": store.HELD_REASON}
    return {}
