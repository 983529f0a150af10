"""The process that trains: `python -m src.workers.trainer RUN ATTEMPT`, or with `--pack` many runs
at once. Started by a supervisor; with `--standby` before there is a run.

It writes metrics, checkpoints and its result files, never a status.
"""

import errno
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from src import paths, store
from src.config import RunConfig, stored_config
from src.runs import pack_file, spawn, termination
from src.runs.environment import ignore_output_errors, leave
from src.runs.locks import FileLock, holder
from src.runs.logs import append_to_log
from src.runs.result_file import EXIT_DISK_FULL, write_result
from src.runs.timeouts import TIMEOUTS
from src.store.outcome import EndReason, Outcome
from src.store.tables import Run, Status
from src.training.results import FailedTraining, write_results
from src.training.utils import TrainingResult, loading
from src.workers.standby import Order, wait_for_order

if TYPE_CHECKING:
    from src.workers.trackers.base import Tracker


class Attempt:
    """One attempt of one run in this process, from its lock to its result file."""

    def __init__(self, run: Run, config: RunConfig, lock: FileLock):
        from src.workers.reporter import RunReporter
        from src.workers.trackers import start_tracker

        self.run, self.config, self.lock = run, config, lock
        self.output_dir = paths.output_dir(run.id)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.tracker = start_tracker(
            config, run.id, self.output_dir, partial(append_to_log, run.id)
        )
        self.reporter = RunReporter(run, self.tracker)

    def arguments(self) -> dict[str, Any]:
        """The arguments that both engines take."""
        from src.training.checkpointing import step_dir

        checkpoints, step = paths.checkpoints_dir(self.run.id), self.run.resume_step
        return {
            "config": self.config,
            "reporter": self.reporter,
            "output_dir": self.output_dir,
            "checkpoints_dir": checkpoints,
            "resume_from": None if step is None else step_dir(checkpoints, step),
        }

    def end(self, result: TrainingResult | Exception, waits_for: Sequence["Tracker"]) -> int:
        """Write result.json and return the exit code.

        The process may be ended as soon as it is written, so wait a little for these trackers
        first.
        """
        from src.workers.reporter import LostOwnership
        from src.workers.trackers.base import End, close

        ended: Outcome | None = None
        try:
            if isinstance(result, TrainingResult):
                end_reason = end_reason_of_result(result)
                if result.stopped and (why := self.reporter.stop_reason):
                    result = replace(result, stopped=False, reason=why)
                    end_reason = EndReason.PRUNED
                if result.stopped and self.was_terminated:
                    end_reason = EndReason.TERMINATED
                    why = f"SIGTERM ended its trainer after step {result.step}"
                    result = replace(result, reason=why)
                else:
                    self._write_results(result)
                ended = Outcome(end_reason, result.reason, result.step, result.best_step)
        except OSError as error:
            result = error
        if isinstance(result, Exception):
            self.reporter.say("".join(traceback.format_exception(result)))
            ended = self.failure(result)
            if not isinstance(result, LostOwnership) and ended.status == Status.FAILED:
                with suppress(OSError):  # the disk may be what failed
                    self._write_results(FailedTraining(ended.reason))
        assert ended is not None
        scores = result.metrics if isinstance(result, TrainingResult) else {}
        self.tracker.end(End({**ended.to_document(), **scores}, ended.best_step))
        if waits_for:
            close(waits_for)
        self.reporter.close()
        try:
            if isinstance(result, LostOwnership):
                return 1
            write_result(self.run.id, self.run.attempt, ended)
        except OSError as error:
            print(f"cannot write the result: {error}", file=sys.stderr)
            return EXIT_DISK_FULL if end_reason_of(error) == EndReason.DISK_FULL else 1
        return 1 if isinstance(result, Exception) else 0

    @property
    def was_terminated(self) -> bool:
        """True if SIGTERM ends this attempt, not somebody who asked it to stop."""
        return termination.was_asked() and not self.reporter.stop_was_asked

    def failure(self, error: Exception) -> Outcome:
        """The outcome of a training that ended with this error."""
        end_reason, reason = end_reason_of(error), reason_of(error)
        if end_reason == EndReason.ERROR and termination.was_asked():
            # Its data-loader workers, say, were ended too.
            ended = EndReason.TERMINATED if self.was_terminated else EndReason.STOPPED
            return Outcome(ended, f"SIGTERM ended its trainer: {reason}")
        if end_reason != EndReason.ERROR:
            reason = f"{end_reason}: {reason}"
        reporter = self.reporter
        return Outcome(end_reason, reason, phase=reporter.doing, scoring=reporter.scoring)

    def _write_results(self, outcome: TrainingResult | FailedTraining) -> None:
        write_results(
            outcome,
            run_id=self.run.id,
            output_dir=self.output_dir,
            metrics_file=paths.final_metrics(self.run.id),
            summary_file=paths.summary_file(),
            config=self.config.model_dump(),
        )


def begin(run_id: str, attempt: int, lock: FileLock | None = None) -> Attempt | None:
    """Take the run's lock, or the one that is held already. None if another process trains it or
    owns the attempt."""
    # Before the heavy imports: a probe must find the lock held from the first moment on.
    own = lock or FileLock(paths.trainer_lock(run_id))
    if lock is None and not own.acquire():
        print(f"{run_id} is being trained by another process; leaving", file=sys.stderr)
        return None

    def read(session: store.Session) -> tuple[Run, bool]:
        run = store.find(session, run_id)
        run.attempt, run.token = attempt, os.environ["SPELLTUNE_TOKEN"]
        session.expunge(run)
        return run, store.owns(session, run)

    run, owned = store.read_with_retry(read, seconds=TIMEOUTS.write)
    if not owned:
        print(f"attempt {attempt} of {run_id} is not this process's; leaving", file=sys.stderr)
        own.release()
        return None
    return Attempt(run, stored_config(run.config), own)


def main(run_id: str, attempt: int, lock: FileLock | None = None) -> int:
    if (own := begin(run_id, attempt, lock)) is None:
        return 1
    own.reporter.phase("loading libraries")
    try:
        with loading():
            from src.training.train import load_libraries, train

            engine = load_libraries(own.config)
        result: TrainingResult | Exception = train(**own.arguments(), engine=engine)
    # The process's outermost frame: the reason goes to the row, the traceback to the log.
    except Exception as error:
        result = error
    code = own.end(result, [own.tracker])
    # Not where SIGTERM ended all processes: the machine shuts down.
    if holder(paths.supervisor_lock(run_id)) is None and not termination.was_asked():
        spawn.start_detached(spawn.Worker.RECONCILE)  # nobody else would write the outcome
    return code


def main_of_a_pack() -> int:
    """Train the members of this token's pack, those too that its supervisor adds meanwhile."""
    with loading():
        from src.training.packed.engine import load_libraries, train_pack
        from src.training.packed.run import Outcome, RunSpec

        load_libraries()

    members: dict[int, Attempt] = {}
    trackers: list[Tracker] = []
    changing = threading.Lock()  # runs begin on this thread, and end on another one
    known: set[pack_file.Member] = set()

    def more() -> RunSpec | None:
        for member in pack_file.read_members(os.environ["SPELLTUNE_TOKEN"]):
            if member in known:
                continue
            known.add(member)
            if own := begin(*member):
                own.reporter.phase("waiting for its first step")
                spec = RunSpec(**own.arguments())
                with changing:
                    trackers.append(own.tracker)
                    members[id(spec)] = own
                return spec
        return None

    codes = [0]

    def ended(spec: RunSpec, outcome: Outcome) -> None:
        with changing:
            own = members.pop(id(spec))
            # The others go on training meanwhile: only the last one waits, for all.
            waits_for = [] if members else list(trackers)
        codes.append(own.end(outcome, waits_for))
        own.lock.release()  # its next attempt may be in this very process

    specs = []
    while (spec := more()) is not None:
        specs.append(spec)
    last = [own.run.id for own in members.values()]
    try:
        if specs:
            train_pack(specs, more=more, ended=ended)
    # What ends the pack ends all that are still in it.
    except Exception as error:
        while members:
            _, own = members.popitem()
            codes.append(own.end(error, [] if members else trackers))
    unsupervised = all(holder(paths.supervisor_lock(run_id)) is None for run_id in last)
    if unsupervised and not termination.was_asked():
        spawn.start_detached(spawn.Worker.RECONCILE)
    return max(codes)


def end_reason_of_result(result: TrainingResult) -> EndReason:
    """The reason of a training that ended with a result."""
    if result.stopped:
        return EndReason.STOPPED
    return EndReason.EARLY_STOPPED if result.early_stopped else EndReason.COMPLETED


def end_reason_of(error: BaseException) -> EndReason:
    """The reason of a training that ended with this error."""
    # By name: the classes are torch's and the engines', which this process may not have imported.
    name, text = type(error).__name__, str(error)
    # torch and safetensors raise their own errors for a full disk, without an errno.
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
        return EndReason.DISK_FULL
    if name == "OutOfMemoryError" or "CUDA out of memory" in text:
        return EndReason.CUDA_OUT_OF_MEMORY
    # torch's allocator of host memory raises a bare RuntimeError.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return EndReason.OUT_OF_MEMORY
    return EndReason.DIVERGED if name == "Diverged" else EndReason.ERROR


def reason_of(error: Exception) -> str:
    """One sentence: the error's own where it was written for people, else with its kind."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    os.umask(0o077)
    ignore_output_errors()
    termination.handle_sigterm()
    order = wait_for_order() if sys.argv[1:] == ["--standby"] else Order(sys.argv[1:], None)
    if order.arguments == ["--pack"]:
        leave(main_of_a_pack())
    run_id, attempt = order.arguments
    leave(main(run_id, int(attempt), order.lock))
