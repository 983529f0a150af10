"""How an attempt ended, in files: result.json, by which a trainer tells its supervisor or the
reconciler, and the entry of a failed run in the summary of all experiments."""

import errno
import json
import signal
import sys
import time

from src import paths, store
from src.files import read_text, write_atomic
from src.runs import snapshots
from src.runs.termination import SIGNALS
from src.store.outcome import EndReason, Outcome
from src.store.tables import Run, Status
from src.training.results import FailedTraining, enter_in_summary, write_results

# Exit code of a trainer that found no space even for this file.
EXIT_DISK_FULL = errno.ENOSPC

# Statuses that a trainer may report.
REPORTED = (Status.COMPLETED, Status.STOPPED, Status.FAILED, Status.INTERRUPTED)


def write_result(run_id: str, attempt: int, outcome: Outcome) -> None:
    """Write the result file of an attempt."""
    document = {"attempt": attempt, "ended_at": time.time(), **outcome.to_document()}
    write_atomic(paths.result_file(run_id), json.dumps(document, indent=2) + "\n")


def read_result(run_id: str, attempt: int) -> Outcome | None:
    """The outcome of this attempt; None if the file is missing, invalid or of another attempt."""
    try:
        document = json.loads(read_text(paths.result_file(run_id)))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("attempt") != attempt:
        return None
    try:
        outcome = Outcome.from_document(document)
    except (KeyError, ValueError):
        return None
    return outcome if outcome.status in REPORTED else None


def outcome_of_exit(
    code: int | None,
    *,
    asked_to_stop: bool,
    packed: bool,
    oom_killed: bool,
    error: str | None = None,
) -> Outcome | None:
    """How a run ended whose trainer left no result.json for it; None if the trainer never read it.

    `code` is the trainer's exit code, None for an adopted one; `error` the last error in its log.
    """
    if asked_to_stop:
        return Outcome(EndReason.STOPPED, "stopped by force: it did not end in time")
    if code is None:
        return Outcome(EndReason.LOST, "the trainer died without a result")
    if code == -signal.SIGKILL and oom_killed:
        reason = "oom: the machine ran out of memory and killed the trainer"
        return Outcome(EndReason.OOM_KILLED, reason)
    if code == EXIT_DISK_FULL:
        return Outcome(EndReason.DISK_FULL, "disk_full: no space left on the disk")
    if packed and code in (0, 1):
        return None  # the trainer exited before it read this run from the pack file
    if -code in SIGNALS:
        reason = f"{signal.Signals(-code).name} ended its trainer before it trained a step"
        return Outcome(EndReason.TERMINATED, reason)
    how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    if packed:
        return Outcome(EndReason.LOST, f"the process of its pack ended with {how}")
    if code < 0:
        return Outcome(EndReason.KILLED, f"{how} ended the trainer")
    why = error or "see the log"
    return Outcome(EndReason.ERROR, f"the trainer ended with {how} and no result: {why}")


def forget_result(run_id: str) -> None:
    """Remove the result file of an earlier attempt."""
    paths.result_file(run_id).unlink(missing_ok=True)


def record_failure(run_id: str) -> None:
    """Enter a run that ended without scores in the summary of all experiments, with its reason. A
    full disk is no reason to fail. Nothing is entered of a run that was deleted meanwhile."""
    with snapshots.writing_files():
        with store.reading() as session:
            found = store.runs_of(session, [run_id])
        for run in found:
            _enter(run)


def _enter(run: Run) -> None:
    try:
        entry = write_results(
            FailedTraining(run.reason),
            run_id=run.id,
            output_dir=paths.output_dir(run.id),
            metrics_file=paths.final_metrics(run.id),
            config=run.config,
        )
        enter_in_summary(paths.summary_file(), [entry])
    except OSError as error:
        print(f"warning: cannot enter {run.id} in the summary: {error}", file=sys.stderr)
