"""The files beside the run table tell the same story: what the table lost is read back from them.

`results/runs/RUN/run.json` holds the run's row, the metrics log its points, the checkpoint and
prediction folders the rest; `results/sweeps/SWEEP.json` holds the row of a sweep.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.files import link_or_copy, read_text, write_atomic
from src.runs.locks import FileLock
from src.runs.timeouts import TIMEOUTS
from src.store.damage import MARKER_SUFFIX
from src.store.migrations import values_of_schema_8, values_of_schema_10
from src.store.tables import Event, Run, Sweep
from src.training import checkpointing


def write_run(run_id: str, *, seconds: float = 0) -> None:
    """Write a run's row and events to its run.json. A full disk is no reason to fail; while the
    table is locked it waits for up to `seconds`."""

    def read(session: store.Session) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        events = store.list_events(session, run_id)
        row = store.find(session, run_id).model_dump()
        return row, [event.model_dump(exclude={"id"}) for event in events]

    row, events = store.read_with_retry(read, seconds=seconds)
    try:
        write_atomic(_file(run_id), json.dumps({"run": row, "events": events}, indent=2) + "\n")
    except OSError as error:
        print(f"warning: cannot write {_file(run_id)}: {error}", file=sys.stderr)


def _file(run_id: str) -> Path:
    return paths.output_dir(run_id) / "run.json"


def write_sweep(sweep_id: str) -> None:
    """Write a sweep's row to its file. A full disk is no reason to fail."""
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id).model_dump()
    file = paths.sweep_file(sweep_id)
    try:
        write_atomic(file, json.dumps(row, indent=2) + "\n")
    except OSError as error:
        print(f"warning: cannot write {file}: {error}", file=sys.stderr)


def sync_from_files(run_id: str) -> None:
    """Bring the rows of a run that has no processes in line with its files: the disk is the truth.

    Half-written checkpoints go, points that only the metrics log has come in, rows of checkpoints
    are those of the folders.
    """
    folder = paths.checkpoints_dir(run_id)
    checkpointing.sweep(folder)
    points = read_metrics_log(run_id)
    with store.reading() as session:
        missing = store.points_missing(session, run_id, points)
        known = {c.step for c in store.list_checkpoints(session, run_id)}
    there = set(checkpointing.steps(folder))
    if missing or known != there:
        with store.writing() as session:
            for attempt, rows in missing.items():
                store.record_metrics(session, run_id, attempt, rows)
            for step in known - there:
                store.remove_checkpoint(session, run_id, step)
            for step in sorted(there - known):
                _record_checkpoint(session, run_id, step)
    write_run(run_id)


def read_metrics_log(run_id: str) -> dict[int, list[tuple[int, str, float, float]]]:
    """{attempt: points (step, name, value, at)} of the metrics log; a line cut by a crash is left
    out."""
    found: dict[int, list[tuple[int, str, float, float]]] = {}
    for line in _lines(paths.metrics_log(run_id)):
        try:
            point = json.loads(line)
            value = float("nan") if point["value"] is None else point["value"]
            row = (point["step"], point["name"], value, point["at"])
            found.setdefault(point["attempt"], []).append(row)
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file, errors="replace").split("\n")
    except FileNotFoundError:
        return []


def _record_checkpoint(session: store.Session, run_id: str, step: int) -> None:
    folder = checkpointing.step_dir(paths.checkpoints_dir(run_id), step)
    try:
        best = json.loads(read_text(folder / checkpointing.MANIFEST))["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # not complete: never shown
    attempt = store.find(session, run_id).attempt
    store.record_checkpoint(session, run_id, attempt, step, folder, is_best=best == step)


# --- a damaged database ---------------------------------------------------------------------------


def restore_database() -> Path | None:
    """Set a damaged SQLite file aside and build the run table again from the files of the runs,
    also where it is missing or empty.

    The path of the new table; None where another process was faster or it is whole. A process that
    is restoring it is waited for.
    """
    database, notice = store.sqlite_file(), store.damage_marker()
    if database is None or (notice is None and not store.is_lost(database)):
        return None
    lock = FileLock(paths.locks_dir() / "restore.lock")
    deadline = time.monotonic() + TIMEOUTS.start
    while not lock.acquire():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    try:
        if not store.is_damaged(database):
            if notice is not None:
                notice.unlink(missing_ok=True)
            return None
        aside = database.with_name(f"{database.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        fresh = database.with_name(f"{database.name}.restoring")
        fresh.unlink(missing_ok=True)
        url = store.url_of(fresh)
        for file in sorted(paths.results().glob("sweeps/*.json")):
            _restore_sweep(file, url)
        for file in sorted(paths.results().glob("runs/*/run.json")):
            _restore_run(file, url)
        with store.writing(url):
            pass  # makes the tables, where no file could be read
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
    finally:
        lock.release()


def _restore_sweep(file: Path, url: URL) -> None:
    try:
        row = json.loads(read_text(file))
        sweep = Sweep(**row | values_of_schema_10(row))
        with store.writing(url) as session:
            session.add(sweep)
    except (OSError, ValueError, TypeError, AttributeError, SQLAlchemyError) as error:
        print(f"warning: cannot read {file}: {error}", file=sys.stderr)


def _restore_run(file: Path, url: URL) -> None:
    import pandas as pd  # takes longer to load than all else here, and a table is seldom lost

    try:
        document: dict[str, Any] = json.loads(read_text(file))
        row = document["run"]
        if "end_reason" not in row:  # written before schema 8
            row |= values_of_schema_8(row)
        run = Run(**row)
        events = [Event(**event) for event in document["events"]]
        with store.writing(url) as session:
            session.add(run)
            session.flush()
            session.add_all(events)
    except (OSError, ValueError, KeyError, TypeError, SQLAlchemyError) as error:
        print(f"warning: cannot read {file}: {error}", file=sys.stderr)
        return
    with store.writing(url) as session:
        for attempt, points in sorted(read_metrics_log(run.id).items()):
            store.record_metrics(session, run.id, attempt, points)
        for step in checkpointing.steps(paths.checkpoints_dir(run.id)):
            _record_checkpoint(session, run.id, step)
        for predictions in paths.predictions_dir(run.id).glob("step-*.parquet"):
            _, at, *split = predictions.stem.split("-")
            try:
                correct = pd.read_parquet(predictions, columns=["correct"])["correct"]
            except (OSError, ValueError, KeyError) as error:
                print(f"warning: cannot read {predictions}: {error}", file=sys.stderr)
                continue
            store.record_evaluation(
                session, run.id, run.attempt, int(at), split[0] if split else "validation",
                predictions, rows=len(correct), correct=int(correct.sum()),
            )  # fmt: skip
