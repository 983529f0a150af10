"""The trainer's way to the run table: writes what training reports, reads whether to stop.

Metrics go to a JSON-lines file at once and to the database in batches (workers/table_writer.py),
so a locked or full disk never stops a training; what could not be written waits and is tried again.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import paths
from src.analysis.predictions import write as write_predictions
from src.runs import termination
from src.runs.logs import AppendedFile
from src.store.tables import Run
from src.training.background import call_here
from src.workers.call_pool import CallPool
from src.workers.table_writer import RunEntries, TableWriter
from src.workers.trackers.base import Tracker

if TYPE_CHECKING:
    import pyarrow as pa

CALLS, TABLE = CallPool(), TableWriter()  # of all runs of this process
WORTH_SENDING = 50  # predictions: fewer are described in the time of a call


def close_all(reporters: Sequence["RunReporter"]) -> None:
    """Close the reporters of runs that end together: write what is left, for at most ten
    seconds."""
    TABLE.close([one.entries for one in reporters])
    for one in reporters:
        one.log.close()
        one.metrics_log.close()


class LostOwnership(RuntimeError):
    """Another attempt owns this run now, so this process must not write any more."""


class RunReporter:
    """A `src.training.utils.Reporter` for one attempt of one run."""

    def __init__(self, run: Run, tracker: Tracker):
        self.run, self.tracker = run, tracker
        self.run_id, self.attempt = run.id, run.attempt
        self.entries = RunEntries(run, self._not_taken)
        self._used: dict[str, Any] = {}
        self._step = 0
        self.doing, self.scoring = "", False  # as told last
        paths.metrics_log(run.id).parent.mkdir(parents=True, exist_ok=True)
        self.log = AppendedFile(paths.log_file(run.id))
        self.metrics_log = AppendedFile(paths.metrics_log(run.id))
        TABLE.open(self.entries)

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
            self.entries.add("metric", step, name, number, now)
        try:
            self.metrics_log.append(lines)
        except OSError as error:
            self._warn(f"cannot append to the metrics log: {error}")
        # At its end a run reports its best step again: progress must not go backwards.
        self._step = max(self._step, step)
        self.entries.set(step=self._step)
        self.say(f"step {step}: " + " ".join(f"{k} {v:.4g}" for k, v in values.items()))
        self.tracker.log(step, values)

    def evaluation(self, step: int, split: str, predictions: "pa.Table") -> None:
        file = paths.predictions_file(self.run_id, step, split)
        try:
            call = CALLS.call if len(predictions) >= WORTH_SENDING else call_here
            call(write_predictions, predictions, file)
        except OSError as error:
            self._warn(f"cannot keep the predictions of step {step}: {error}")
            return
        correct = sum(predictions["correct"].to_pylist())
        self.entries.add("evaluation", step, split, file, len(predictions), correct)

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        self.entries.add("checkpoint", step, path, is_best)
        if is_best:
            self.entries.set(best_step=step)

    def checkpoint_removed(self, step: int) -> None:
        self.entries.add("checkpoint_removed", step)

    def used(self, values: Mapping[str, Any]) -> None:
        self._used.update(values)
        self.entries.set(used=dict(self._used))
        if spent := values.get("trainer_seconds"):
            shares = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
            self.say(f"seconds of the thread that trains, so far: {shares}")

    def warning(self, step: int, text: str) -> None:
        self._warn(text)
        self.entries.add("warning", step, text)

    def phase(self, text: str, *, scoring: bool = False) -> None:
        self.doing, self.scoring = text, scoring
        self.entries.set(phase=text)

    def stop_requested(self) -> bool:
        if self.entries.lost_ownership:
            raise LostOwnership(f"{self.run_id} belongs to another attempt now")
        return termination.poll() or self.entries.stop_asked

    @property
    def stop_was_asked(self) -> bool:
        """True if a person or its sweep asked this run to stop."""
        return self.entries.stop_asked

    @property
    def stop_reason(self) -> str | None:
        """Why it was asked to stop, where that completes the run."""
        return self.entries.stop_reason

    def _not_taken(self, why: str) -> None:
        """Tell that the run table takes no writes, and make the metrics log outlive a power
        failure: it is all there is meanwhile, while a commit does."""
        self._warn(why)
        try:
            with open(paths.metrics_log(self.run_id), "rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            self._warn(f"cannot sync the metrics log: {error}")

    def say(self, text: str) -> None:
        with suppress(OSError):  # such as a full disk
            self.log.append(f"{text}\n")

    def _warn(self, text: str) -> None:
        self.say(f"warning: {text}")
