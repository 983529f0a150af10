"""The trainer's way to the run table: writes what training reports, reads whether to stop.

Metrics go to a JSON-lines file at once and to the database in batches from a thread of their own,
so a locked or full disk never stops a training; what could not be written waits and is tried again.
"""

import json
import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.analysis.predictions import write as write_predictions
from src.runs import lease, restore, termination
from src.runs.logs import append_to_log
from src.store.tables import EventKind, Run
from src.workers.kinds_pool import KindsPool
from src.workers.trackers.base import Tracker

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = KindsPool()  # of all runs of this process
INTERVAL_SECONDS = 1.0
PATIENCE_SECONDS = 3.0


class LostOwnership(RuntimeError):
    """Another attempt owns this run now, so this process must not write any more."""


class RunReporter:
    """A `src.training.utils.Reporter` for one attempt of one run. `close` writes what is left."""

    def __init__(self, run: Run, tracker: Tracker):
        self.run, self.tracker = run, tracker
        self.run_id, self.attempt = run.id, run.attempt
        self._jobs: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._columns: dict[str, Any] = {}  # of the run's row, not written yet
        self._used: dict[str, Any] = {}
        self._step = 0
        self.doing, self.scoring = "", False  # as told last
        self._lock = threading.Lock()
        self._stop = self._fenced = False
        self.stop_reason: str | None = None  # why, where that completes the run
        self._closing = threading.Event()
        paths.metrics_log(run.id).parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._loop, name="reporter", daemon=True)
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        now = time.time()
        lines = ""
        for name, value in values.items():
            number = float(value)
            finite = number if math.isfinite(number) else None
            point = {
                "attempt": self.attempt,
                "step": step,
                "name": name,
                "value": finite,
                "at": now,
            }
            lines += json.dumps(point) + "\n"
            self._jobs.put(("metric", (step, name, number, now)))
        try:
            with open(paths.metrics_log(self.run_id), "a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            self._warn(f"cannot append to the metrics log: {error}")
        with self._lock:
            # At its end a run reports its best step again: progress must not go backwards.
            self._step = max(self._step, step)
            self._columns["step"] = self._step
        self.say(f"step {step}: " + " ".join(f"{k} {v:.4g}" for k, v in values.items()))
        self.tracker.log(step, values)

    def evaluation(self, step: int, split: str, predictions: "pa.Table") -> None:
        file = paths.predictions_file(self.run_id, step, split)
        try:
            write_predictions(predictions, file, KINDS.describe)
        except OSError as error:
            self._warn(f"cannot keep the predictions of step {step}: {error}")
            return
        correct = sum(predictions["correct"].to_pylist())
        self._jobs.put(("evaluation", (step, split, file, len(predictions), correct)))

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        self._jobs.put(("checkpoint", (step, path, is_best)))
        if is_best:
            with self._lock:
                self._columns["best_step"] = step

    def checkpoint_removed(self, step: int) -> None:
        self._jobs.put(("checkpoint_removed", (step,)))

    def used(self, values: Mapping[str, Any]) -> None:
        self._used.update(values)
        with self._lock:
            self._columns["used"] = dict(self._used)
        if spent := values.get("trainer_seconds"):
            shares = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
            self.say(f"seconds of the thread that trains, so far: {shares}")

    def warning(self, step: int, text: str) -> None:
        self._warn(text)
        self._jobs.put(("warning", (step, text)))

    def phase(self, text: str, *, scoring: bool = False) -> None:
        self.doing, self.scoring = text, scoring
        with self._lock:
            self._columns["phase"] = text

    def stop_requested(self) -> bool:
        if self._fenced:
            raise LostOwnership(f"{self.run_id} belongs to another attempt now")
        return termination.poll() or self._stop

    @property
    def stop_was_asked(self) -> bool:
        """True if a person or its sweep asked this run to stop."""
        return self._stop

    def close(self) -> None:
        """Write what is left, for at most ten seconds, and end the thread."""
        self._closing.set()
        self._thread.join(timeout=10)

    def _loop(self) -> None:
        pending: list[tuple[str, tuple[Any, ...]]] = []
        # While it waits nothing of the log is made safe.
        store.busy_timeout_seconds.set(PATIENCE_SECONDS)
        while True:
            last = self._closing.wait(INTERVAL_SECONDS)
            with suppress(lease.HomeInUse):
                lease.take()  # also where its supervisor is gone
            while not self._jobs.empty():
                pending.append(self._jobs.get())
            with self._lock:
                columns, self._columns = self._columns, {}
            try:
                if not self._write(pending, columns):
                    restore.restore_database()  # where an older copy of the table was put back
                    self._fenced = not self._write(pending, columns)
                pending = []
            except (SQLAlchemyError, OSError) as error:
                self._warn(
                    f"the run table did not take {len(pending)} entries, trying again: {error}"
                )
                self._sync_log()
                with self._lock:
                    self._columns = columns | self._columns
                if last:
                    time.sleep(0.2)  # its last tries follow each other at once
            if self._fenced or (last and not pending):
                return

    def _sync_log(self) -> None:
        """Make the metrics log outlive a power failure: it is all there is while the table, whose
        every commit does, takes no writes."""
        try:
            with open(paths.metrics_log(self.run_id), "rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            self._warn(f"cannot sync the metrics log: {error}")

    def _write(self, pending: list[tuple[str, tuple[Any, ...]]], columns: dict[str, Any]) -> bool:
        """Write what is pending; False, and nothing is written, if another attempt owns the run."""
        if not pending and not columns:
            with store.reading() as session:
                return self._look(session)
        with store.writing() as session:
            if not self._look(session):
                return False
            store.record_metrics(
                session, self.run_id, self.attempt, [a for kind, a in pending if kind == "metric"]
            )
            for kind, arguments in pending:
                if kind == "evaluation":
                    step, split, file, rows, correct = arguments
                    store.record_evaluation(
                        session,
                        self.run_id,
                        self.attempt,
                        step,
                        split,
                        file,
                        rows=rows,
                        correct=correct,
                    )
                elif kind == "checkpoint":
                    step, path, is_best = arguments
                    store.record_checkpoint(
                        session, self.run_id, self.attempt, step, path, is_best=is_best
                    )
                elif kind == "checkpoint_removed":
                    store.remove_checkpoint(session, self.run_id, *arguments)
                elif kind == "warning":
                    step, warned = arguments
                    store.record_event(
                        session, self.run_id, self.attempt, EventKind.WARNING, warned, step=step
                    )
            if columns:
                store.update_attempt(session, self.run, **columns)
        return True

    def _look(self, session: store.Session) -> bool:
        """Read whether to stop; False if another attempt owns the run."""
        if not self._stop and store.stop_requested(session, self.run_id):
            self.stop_reason = store.stop_reason(session, self.run_id)
            self._stop = True
        return store.owns(session, self.run)

    def say(self, text: str) -> None:
        append_to_log(self.run_id, text)

    def _warn(self, text: str) -> None:
        self.say(f"warning: {text}")
