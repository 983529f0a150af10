"""The files beside the run table tell the same story, so that `restore` can read back what it lost.

`results/runs/RUN/run.json` holds the run's row, the metrics log its points, the checkpoint and
prediction folders the rest; `results/sweeps/SWEEP.json` holds the row of a sweep. Each snapshot has
a number that the table knows too: a table whose number is lower is an older copy.
"""

import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from src import paths, store
from src.files import alone, read_text, staged_name, write_atomic
from src.store.tables import Status, SweepStatus
from src.training import checkpointing

T = TypeVar("T")

# Endings of a snapshot that could not be renewed, by what a person asked for since. A full disk
# still lets a file be renamed, and a restored table must not train what somebody stopped.
STOPPED, HELD = ".stopped", ".held"
ENDED = tuple(f".{status.lower()}" for status in SweepStatus if status != SweepStatus.ACTIVE)


def write_run(run_id: str, *, seconds: float = 0) -> None:
    """`write_runs` of one run."""
    write_runs([run_id], seconds=seconds)


def write_runs(run_ids: Sequence[str], *, seconds: float = 0) -> None:
    """Write the row and events of each run to its run.json. A full disk is no reason to fail; while
    the table is locked it waits for up to `seconds`."""
    if not run_ids:
        return

    def read(session: store.Session) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        events = store.events_of(session, run_ids)
        return [
            (run.model_dump(), [one.model_dump(exclude={"id"}) for one in events.get(run.id, [])])
            for run in store.runs_of(session, run_ids)
        ]

    # The files of one state of the table have one number.
    number, is_older, found_rows = _numbered(read, seconds)
    with writing_files():
        left = _still_there([row["id"] for row, _ in found_rows])
        for row, events in found_rows:
            if row["id"] not in left:
                continue
            stopped = row["stop_requested_at"] is not None or row["status"] == Status.CANCELLED
            wish = STOPPED if stopped else HELD if row["held_at"] is not None else None
            document = {"run": row, "events": events, "number": number}
            _write(_file(row["id"]), document, wish, is_older)


def write_sweep(sweep_id: str) -> None:
    """Write a sweep's row to its file. A full disk is no reason to fail."""
    number, is_older, row = _numbered(
        lambda session: store.find_sweep(session, sweep_id).model_dump(), 0
    )
    wish = None if row["status"] == SweepStatus.ACTIVE else f".{row['status'].lower()}"
    with writing_files():
        _write(paths.sweep_file(sweep_id), row | {"number": number}, wish, is_older)


def writing_files() -> AbstractContextManager[None]:
    """The lock of whoever writes snapshots, or removes the files of runs that it has deleted."""
    return alone(paths.results() / ".snapshots.lock")


def _still_there(run_ids: Sequence[str]) -> set[str]:
    """The runs that were not deleted since they were read: their files must not come back."""
    try:
        with store.reading() as session:
            return {state.id for state in store.states_of(session, run_ids)}
    except SQLAlchemyError:
        return set(run_ids)


def _numbered(read: Callable[[store.Session], T], seconds: float) -> tuple[int, bool, T]:
    """The next number of a snapshot, True if the table is an older copy, which does not know of
    the newest one, and the result of `read` from the same state of the table."""
    try:
        return store.write_with_retry(
            lambda session: (
                (number := store.next_snapshot(session)), newest_number() >= number, read(session)
            ),
            seconds=seconds,
        )  # fmt: skip
    except (store.DatabaseUnavailable, OperationalError):
        # Without a number of its own: it is restored, but does not show that a table is older.
        return store.read_with_retry(
            lambda session: (
                (number := store.snapshot_number(session)), newest_number() > number, read(session)
            ),
            seconds=seconds,
        )  # fmt: skip


def _write(file: Path, document: dict[str, Any], wish: str | None, is_older: bool) -> None:
    """Write a snapshot, unless another process has written that of a later state. What is done to
    an older copy of the table is kept: it is what a person asked for last."""
    if not is_older and _number_of(file) > document["number"]:
        return
    text = json.dumps(document, indent=2) + "\n"
    try:
        try:
            write_atomic(file, text)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not store.free_reserve():
                raise
            write_atomic(file, text)
    except OSError as error:
        print(f"warning: cannot write {file}: {error}", file=sys.stderr)
        older = found(file)
        if wish is not None and older is not None:
            with suppress(OSError):
                os.replace(older, file.with_name(file.name + wish))
        return
    for ending in (STOPPED, HELD, *ENDED):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    with suppress(OSError):
        if document["number"] > newest_number():
            # Not synced: after a power failure the table is the same one.
            staged = staged_name(_number_file())
            staged.write_text(f"{document['number']}\n", encoding="utf-8")
            os.replace(staged, _number_file())


def found(file: Path) -> Path | None:
    """The file of a snapshot, which has another ending where it could not be renewed."""
    names = (file.name + ending for ending in ("", STOPPED, HELD, *ENDED))
    return next((there for name in names if (there := file.with_name(name)).exists()), None)


def _number_of(file: Path) -> int:
    """Number of the state that a snapshot is of; 0 without one that can be read."""
    try:
        return int(json.loads(read_text(found(file) or file))["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def newest_number() -> int:
    """Number of the newest snapshot; 0 without any."""
    try:
        return int(read_text(_number_file()))
    except (OSError, ValueError):
        return 0


def _number_file() -> Path:
    return paths.results() / ".snapshots"


def _file(run_id: str) -> Path:
    return paths.output_dir(run_id) / "run.json"


def sync_from_files(run_ids: Sequence[str]) -> None:
    """Bring the rows of runs that have no processes in line with their files: the disk is the
    truth.

    Half-written checkpoints go, points that only the metrics log has come in, rows of checkpoints
    are those of the folders.
    """
    points, there = {}, {}
    for run_id in run_ids:
        folder = paths.checkpoints_dir(run_id)
        checkpointing.sweep(folder)
        points[run_id] = read_metrics_log(run_id)
        there[run_id] = set(checkpointing.steps(folder))
    with store.reading() as session:
        missing = {one: store.points_missing(session, one, points[one]) for one in run_ids}
        known = {one: {c.step for c in store.list_checkpoints(session, one)} for one in run_ids}
    if other := [one for one in run_ids if missing[one] or known[one] != there[one]]:
        with store.writing() as session:
            # One that has just ended may be deleted meanwhile.
            for run_id in (run.id for run in store.runs_of(session, other)):
                for attempt, rows in missing[run_id].items():
                    store.record_metrics(session, run_id, attempt, rows)
                for step in known[run_id] - there[run_id]:
                    store.remove_checkpoint(session, run_id, step)
                for step in sorted(there[run_id] - known[run_id]):
                    record_checkpoint(session, run_id, step)
    write_runs(run_ids)


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


def record_checkpoint(session: store.Session, run_id: str, step: int) -> None:
    """Record the checkpoint in the folder of a step, if it is complete."""
    folder = checkpointing.step_dir(paths.checkpoints_dir(run_id), step)
    try:
        best = json.loads(read_text(folder / checkpointing.MANIFEST))["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # not complete: never shown
    attempt = store.find(session, run_id).attempt
    store.record_checkpoint(session, run_id, attempt, step, folder, is_best=best == step)


def record_evaluations(session: store.Session, run_id: str, attempt: int) -> None:
    """Record the evaluations whose predictions lie in the run's folder and which the table
    lacks."""
    known = {(one.step, one.split) for one in store.list_evaluations(session, run_id)}
    for file in paths.predictions_dir(run_id).glob("step-*.parquet"):
        step, split = paths.evaluation_of(file)
        if (step, split) in known:
            continue
        import pandas as pd  # takes longer to load than all else here, and is seldom needed

        try:
            correct = pd.read_parquet(file, columns=["correct"])["correct"]
        except (OSError, ValueError, KeyError) as error:
            print(f"warning: cannot read {file}: {error}", file=sys.stderr)
            continue
        store.record_evaluation(
            session, run_id, attempt, step, split, file,
            rows=len(correct), correct=int(correct.sum()),
        )  # fmt: skip
