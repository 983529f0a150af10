"""Writes what the runs of a process report to the run table, and reads whether they are to stop

One thread and one transaction for all of them: SQLite takes one writer at a time, and each commit
waits for the disk, so with a writer for each run the members of a pack would wait for each other.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from src import store
from src.runs import lease, restore
from src.store.tables import EventKind, Run

INTERVAL_SECONDS = 1.0
PATIENCE_SECONDS = 3.0
RETRY_SECONDS = 0.2  # between the last tries of a run that ends
CLOSING_SECONDS = 10.0

Entry = tuple[str, tuple[Any, ...]]  # what is recorded, and the arguments of its `store.record_...`
Part = tuple["RunEntries", list[Entry], dict[str, Any]]  # entries and columns of a run


class RunEntries:
    """Entries of one attempt of a run that wait for the table, and its stop as the table has it."""

    def __init__(self, run: Run, failed: Callable[[str], None]):
        self.run = run
        self.failed = failed  # told why the table does not take what waits
        self.stop_asked = False  # by a person or its sweep
        self.stop_reason: str | None = None  # why, where that completes the run
        self.lost_ownership = False  # another attempt owns the run now
        self.closing = False
        self.closed = threading.Event()  # all is written, or nothing may be any more
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._columns: dict[str, Any] = {}  # of the run's row

    def add(self, kind: str, *arguments: Any) -> None:
        with self._lock:
            self._entries.append((kind, arguments))

    def set(self, **columns: Any) -> None:
        with self._lock:
            self._columns |= columns

    def take(self) -> Part:
        """All that waits, which is then the caller's."""
        with self._lock:
            taken = self, self._entries, self._columns
            self._entries, self._columns = [], {}
        return taken

    def give_back(self, entries: list[Entry], columns: dict[str, Any]) -> None:
        """Have what was taken wait again, before what came since."""
        with self._lock:
            self._entries = entries + self._entries
            self._columns = columns | self._columns


class TableWriter:
    """The thread that writes the entries of all runs of this process, each second."""

    def __init__(self) -> None:
        self._open: list[RunEntries] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def open(self, entries: RunEntries) -> None:
        """Write these entries from now on."""
        with self._changed:
            self._open.append(entries)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="run table", daemon=True)
                self._thread.start()

    def close(self, ended: Sequence[RunEntries]) -> None:
        """Write what these runs have left, together, for at most ten seconds."""
        with self._changed:
            for one in ended:
                one.closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSING_SECONDS
        for one in ended:
            one.closed.wait(max(0.0, deadline - time.monotonic()))

    def _loop(self) -> None:
        # While it waits nothing of the log is made safe.
        store.busy_timeout_seconds.set(PATIENCE_SECONDS)
        due = time.monotonic() + INTERVAL_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open)
                self._changed.wait_for(self._any_closes, max(0.0, due - time.monotonic()))
                all_due = time.monotonic() >= due
                chosen = [one for one in self._open if all_due or one.closing]
            if all_due:
                due = time.monotonic() + INTERVAL_SECONDS
            # Also where its supervisor is gone. A lease that cannot be renewed now may be the next
            # time, and no error may end this thread: nothing would be written any more.
            with suppress(lease.HomeInUse, SQLAlchemyError, OSError):
                lease.take()
            # A run whose writing began before it was closed has another round.
            closing = [one for one in chosen if one.closing]
            written = self._write_or_keep([one.take() for one in chosen])
            with self._changed:
                for one in chosen:
                    if one.lost_ownership or (written and one in closing):
                        one.closed.set()
                self._open = [one for one in self._open if not one.closed.is_set()]
            if not written and closing:
                time.sleep(RETRY_SECONDS)

    def _any_closes(self) -> bool:
        return any(one.closing for one in self._open)

    def _write_or_keep(self, parts: list[Part]) -> bool:
        """Write these parts. False where the table did not take them: they wait again."""
        try:
            if parts := self._write(parts):
                restore.restore_database()  # where an older copy of the table was put back
                for run, _, _ in self._write(parts):
                    run.lost_ownership = True
        except (SQLAlchemyError, OSError) as error:
            if len(parts) > 1 and not isinstance(
                error, store.DatabaseUnavailable | OperationalError
            ):
                # One of them is at fault, and the others are not to wait for it.
                written = [self._write_or_keep([part]) for part in parts]
                return all(written)
            for run, entries, columns in parts:
                run.give_back(entries, columns)
                run.failed(
                    f"the run table did not take {len(entries)} entries, trying again: {error}"
                )
            return False
        return True

    def _write(self, parts: list[Part]) -> list[Part]:
        """Write the parts of runs that their attempt still owns, in one transaction; returns the
        others."""
        new = any(entries or columns for _, entries, columns in parts)
        with store.writing() if new else store.reading() as session:
            wishes = store.stop_wishes(session, [run.run for run, _, _ in parts])
            own: list[Part] = []
            lost: list[Part] = []
            for part in parts:
                (own if (part[0].run.id, part[0].run.attempt) in wishes else lost).append(part)
            for one, _, _ in own:
                if not one.stop_asked and wishes[one.run.id, one.run.attempt]:
                    one.stop_reason = store.stop_reason(session, one.run.id)
                    one.stop_asked = True
            store.record_points(
                session,
                {
                    (one.run.id, one.run.attempt): [a for kind, a in entries if kind == "metric"]
                    for one, entries, _ in own
                },
            )
            for one, entries, columns in own:
                for kind, arguments in entries:
                    _record(session, one.run, kind, arguments)
                if columns:
                    store.update_attempt(session, one.run, **columns)
        return lost


def _record(session: store.Session, run: Run, kind: str, arguments: tuple[Any, ...]) -> None:
    """Record an entry that is no metric."""
    if kind == "evaluation":
        step, split, file, rows, correct = arguments
        store.record_evaluation(
            session, run.id, run.attempt, step, split, file, rows=rows, correct=correct
        )
    elif kind == "checkpoint":
        step, path, is_best = arguments
        store.record_checkpoint(session, run.id, run.attempt, step, path, is_best=is_best)
    elif kind == "checkpoint_removed":
        store.remove_checkpoint(session, run.id, *arguments)
    elif kind == "warning":
        step, warned = arguments
        store.record_event(session, run.id, run.attempt, EventKind.WARNING, warned, step=step)
