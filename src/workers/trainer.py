"""The process that trains: `python -m src.workers.trainer RUN ATTEMPT`, or with `--pack` many runs
at once. Started by a supervisor.

It writes metrics, checkpoints and its result files, never a status.
"""

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from src import paths, store
from src.config import RunConfig, stored_config
from src.runs import spawn
from src.runs.environment import ignore_output_errors
from src.runs.locks import FileLock, holder
from src.runs.result_file import EXIT_DISK_FULL, write_result
from src.store.tables import Run
from src.training.results import write_results
from src.training.utils import TrainingResult, loading

if TYPE_CHECKING:
    from src.workers.trackers.base import Tracker


class Attempt:
    """One attempt of one run in this process, from its lock to its result file."""

    def __init__(self, run: Run, config: RunConfig, lock: FileLock):
        from src.workers.reporter import RunReporter, append_to_log
        from src.workers.trackers import start_tracker

        self.run, self.config, self.lock = run, config, lock
        self.output_dir = paths.output_dir(run.id)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.tracker = start_tracker(
            config, run.id, self.output_dir, partial(append_to_log, run.id)
        )
        self.reporter = RunReporter(run, self.tracker)

    def arguments(self) -> dict[str, Any]:
        """What both engines take."""
        from src.training.checkpointing import step_dir

        checkpoints, step = paths.checkpoints_dir(self.run.id), self.run.resume_step
        return {
            "config": self.config,
            "reporter": self.reporter,
            "output_dir": self.output_dir,
            "checkpoints_dir": checkpoints,
            "resume_from": None if step is None else step_dir(checkpoints, step),
        }

    def end(self, outcome: Any, waits_for: Sequence["Tracker"]) -> int:
        """Write how it ended, a TrainingResult or an error, and give the exit code. The process may
        be ended as soon as it is written, so these trackers have a little time before."""
        from src.workers.reporter import LostOwnership
        from src.workers.trackers.base import End, close

        result: dict[str, Any] = {}
        try:
            if isinstance(outcome, TrainingResult):
                if outcome.stopped and (why := self.reporter.stop_reason):
                    outcome = replace(outcome, stopped=False, reason=why)
                write_results(
                    outcome,
                    run_id=self.run.id,
                    output_dir=self.output_dir,
                    metrics_file=paths.final_metrics(self.run.id),
                    summary_file=paths.summary_file(),
                    config=self.config.model_dump(),
                )
                result = {
                    "status": "STOPPED" if outcome.stopped else "COMPLETED",
                    "reason": outcome.reason,
                    "step": outcome.step,
                    "best_step": outcome.best_step,
                }
        except OSError as error:
            outcome = error
        if isinstance(outcome, Exception):
            self.reporter.say("".join(traceback.format_exception(outcome)))
            kind = kind_of(outcome)
            reason = f"{kind}: {reason_of(outcome)}" if kind else reason_of(outcome)
            doing = self.reporter.doing
            result = {"status": "FAILED", "reason": reason, "kind": kind, "phase": doing}
        scores = outcome.metrics if isinstance(outcome, TrainingResult) else {}
        self.tracker.end(End({**result, **scores}, result.get("best_step")))
        if waits_for:
            close(waits_for)
        self.reporter.close()
        try:
            if isinstance(outcome, LostOwnership):
                return 1
            write_result(self.run.id, self.run.attempt, result)
        except OSError as error:
            print(f"cannot write the result: {error}", file=sys.stderr)
            return EXIT_DISK_FULL if kind_of(error) == "disk_full" else 1
        return 1 if result["status"] == "FAILED" else 0


def begin(run_id: str, attempt: int) -> Attempt | None:
    """Take the run's lock; None where it is not this process's to train."""
    # Before the heavy imports: whoever looks must find the lock held from the first moment on.
    lock = FileLock(paths.trainer_lock(run_id))
    if not lock.acquire():
        print(f"{run_id} is being trained by another process; leaving", file=sys.stderr)
        return None
    with store.reading() as session:
        run = store.find(session, run_id)
        run.attempt, run.token = attempt, os.environ["SPELLTUNE_TOKEN"]
        session.expunge(run)
        if not store.owns(session, run):
            print(f"attempt {attempt} of {run_id} is not this process's; leaving", file=sys.stderr)
            lock.release()
            return None
    return Attempt(run, stored_config(run.config), lock)


def main(run_id: str, attempt: int) -> int:
    if (own := begin(run_id, attempt)) is None:
        return 1
    own.reporter.phase("loading libraries")
    try:
        with loading():
            from src.training.train import load_libraries, train

            engine = load_libraries(own.config)
        outcome: Any = train(**own.arguments(), engine=engine)
    # The process's outermost frame: the reason goes to the row, the traceback to the log.
    except Exception as error:
        outcome = error
    code = own.end(outcome, [own.tracker])
    if holder(paths.supervisor_lock(run_id)) is None:
        spawn.start_detached(spawn.Worker.RECONCILE)  # nobody else would write the verdict
    return code


def main_of_a_pack() -> int:
    """Train the members of this token's pack, those too that its supervisor adds meanwhile."""
    with loading():
        from src.training.packed.engine import load_libraries, train_pack
        from src.training.packed.run import Outcome, Trial

        load_libraries()

    members: dict[int, Attempt] = {}
    trackers: list[Tracker] = []
    read = 0

    def more() -> Trial | None:
        nonlocal read
        lines = paths.pack_file(os.environ["SPELLTUNE_TOKEN"]).read_text().splitlines()
        while read < len(lines):
            read += 1
            if own := begin(*json.loads(lines[read - 1])):
                own.reporter.phase("waiting for its first step")
                trackers.append(own.tracker)
                trial = Trial(**own.arguments())
                members[id(trial)] = own
                return trial
        return None

    codes = [0]

    def ended(trial: Trial, outcome: Outcome) -> None:
        own = members.pop(id(trial))
        # The others go on training meanwhile: only the last one waits, for all.
        codes.append(own.end(outcome, [] if members else trackers))
        own.lock.release()  # its next attempt may be in this very process

    trials = []
    while (trial := more()) is not None:
        trials.append(trial)
    last = [own.run.id for own in members.values()]
    try:
        if trials:
            train_pack(trials, more=more, ended=ended)
    # What ends the pack ends all that are still in it.
    except Exception as error:
        while members:
            _, own = members.popitem()
            codes.append(own.end(error, [] if members else trackers))
    if all(holder(paths.supervisor_lock(run_id)) is None for run_id in last):
        spawn.start_detached(spawn.Worker.RECONCILE)
    return max(codes)


def kind_of(error: BaseException) -> str | None:
    """disk_full, cuda_oom, oom or diverged, for what a supervisor or a reader treats apart."""
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
        return "disk_full"
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return "cuda_oom"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "oom"
    return "diverged" if type(error).__name__ == "Diverged" else None


def reason_of(error: Exception) -> str:
    """One sentence: the error's own where it was written for people, else with its kind."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    os.umask(0o077)
    ignore_output_errors()
    packed = sys.argv[1:] == ["--pack"]
    code = main_of_a_pack() if packed else main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Leave at once: a tracker's thread that hangs must not keep the GPU.
    os._exit(code)
