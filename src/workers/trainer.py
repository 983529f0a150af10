"""The process that trains: `python -m src.workers.trainer RUN ATTEMPT`, or with `--pack` many runs
at once. Started by a supervisor; with `--standby` before there is a run.

It writes metrics, checkpoints and its result files, never a status.
"""

import errno
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from src import paths, store
from src.config import RunConfig, stored_config
from src.files import disk_error
from src.runs import base_checks, pack_file, spawn, termination
from src.runs.environment import ignore_output_errors, leave
from src.runs.locks import FileLock, holder
from src.runs.logs import append_to_log
from src.runs.machine import slot_lock
from src.runs.result_file import EXIT_DISK_FULL, write_result
from src.runs.timeouts import TIMEOUTS
from src.store.outcome import EndReason, Outcome
from src.store.tables import Run, Status
from src.training.results import FailedTraining, enter_in_summary, write_results
from src.training.utils import TrainingResult, loading
from src.workers.standby import Order, wait_for_order

if TYPE_CHECKING:
    from src.training.packed.run import End, RunSpec
    from src.workers.trackers.base import Tracker

POLL_SECONDS = 0.05  # of a pack without runs, for others


class Attempt:
    """One attempt of one run in this process, from its lock to its result file."""

    def __init__(self, run: Run, config: RunConfig, lock: FileLock):
        from src.workers.reporter import RunReporter
        from src.workers.trackers import start_tracker

        self.run, self.config, self.lock = run, config, lock
        self.output_dir = paths.output_dir(run.id)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        say = partial(append_to_log, run.id)
        self.tracker = start_tracker(config, run.id, self.output_dir, say)
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
            "cache_dir": paths.cache_dir(),
        }

    def concluded(self, result: TrainingResult) -> tuple[TrainingResult, EndReason]:
        """A result as it is told, and the reason of the end."""
        if result.stopped and (why := self.reporter.stop_reason):
            return replace(result, stopped=False, reason=why), EndReason.PRUNED
        if result.stopped and self.was_terminated:
            why = f"{termination.asked_by()} ended its trainer after step {result.step}"
            return replace(result, reason=why), EndReason.TERMINATED
        return result, end_reason_of_result(result)

    def write_outcome(self, result: TrainingResult | Exception, outcome: Outcome) -> int:
        """Write result.json, after which the process may be ended; returns the exit code."""
        from src.workers.reporter import LostOwnership

        try:
            if isinstance(result, LostOwnership):
                return 1
            write_result(self.run.id, self.run.attempt, outcome)
        except OSError as error:
            print(f"cannot write the result: {error}", file=sys.stderr)
            return EXIT_DISK_FULL if end_reason_of(error) == EndReason.DISK_FULL else 1
        return 1 if isinstance(result, Exception) else 0

    @property
    def was_terminated(self) -> bool:
        """True if a signal ends this attempt, not somebody who asked it to stop."""
        return termination.asked_by() is not None and not self.reporter.stop_was_asked

    def failure(self, error: Exception) -> Outcome:
        """The outcome of a training that ended with this error."""
        end_reason, reason = end_reason_of(error), reason_of(error)
        if end_reason == EndReason.ERROR and (name := termination.asked_by()):
            # Its data-loader workers, say, were ended too.
            ended = EndReason.TERMINATED if self.was_terminated else EndReason.STOPPED
            return Outcome(ended, f"{name} ended its trainer: {reason}")
        if end_reason != EndReason.ERROR:
            reason = f"{end_reason}: {reason}"
        reporter = self.reporter
        return Outcome(end_reason, reason, phase=reporter.doing, scoring=reporter.scoring)

    def write_results(self, outcome: TrainingResult | FailedTraining) -> dict[str, Any]:
        """Write the result files of the run; returns its entry in the summary."""
        return write_results(
            outcome,
            run_id=self.run.id,
            output_dir=self.output_dir,
            metrics_file=paths.final_metrics(self.run.id),
            config=self.config.model_dump(),
        )


def end_all(
    ended: Sequence[tuple[Attempt, TrainingResult | Exception]], waits_for: Sequence["Tracker"]
) -> int:
    """Write the results and the result.json of attempts that end together; returns the exit code.

    The process may be ended as soon as the last is written, so wait a little for these trackers
    first.
    """
    from src.workers.reporter import close_all
    from src.workers.trackers.base import End, close

    concluded = _with_results_written(ended)
    for own, result, outcome in concluded:
        scores = result.metrics if isinstance(result, TrainingResult) else {}
        own.tracker.end(End({**outcome.to_document(), **scores}, outcome.best_step))
    if waits_for:
        close(waits_for)
    close_all([own.reporter for own, _, _ in concluded])
    return max(own.write_outcome(result, outcome) for own, result, outcome in concluded)


def _with_results_written(
    ended: Sequence[tuple[Attempt, TrainingResult | Exception]],
) -> list[tuple[Attempt, TrainingResult | Exception, Outcome]]:
    """Write the result files of attempts and enter them in the summary, where the disk takes them;
    each with its result and its outcome. A disk that takes no result is why its run failed."""
    from src.workers.reporter import LostOwnership

    found: list[tuple[Attempt, TrainingResult | Exception, Outcome]] = []
    failures: list[tuple[Attempt, Exception]] = []
    entries: dict[str, dict[str, Any]] = {}
    for own, result in ended:
        if isinstance(result, Exception):
            failures.append((own, result))
            continue
        result, reason = own.concluded(result)
        outcome = Outcome(reason, result.reason, result.step, result.best_step)
        try:
            if reason != EndReason.TERMINATED:
                entries[own.run.id] = own.write_results(result)
            found.append((own, result, outcome))
        except OSError as error:
            failures.append((own, error))
    try:
        if entries:
            enter_in_summary(paths.summary_file(), list(entries.values()))
    except OSError as error:
        failures += [(own, error) for own, _, _ in found if own.run.id in entries]
        found = [one for one in found if one[0].run.id not in entries]
    failed = []
    for own, why in failures:
        own.reporter.say("".join(traceback.format_exception(why)))
        outcome = own.failure(why)
        found.append((own, why, outcome))
        if not isinstance(why, LostOwnership) and outcome.status == Status.FAILED:
            with suppress(OSError):  # the disk may be what failed
                failed.append(own.write_results(FailedTraining(outcome.reason)))
    with suppress(OSError):
        if failed:
            enter_in_summary(paths.summary_file(), failed)
    return found


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
        base_checks.have_converted(own.config)  # by another process: Unsloth is imported first
        with loading():
            from src.training.train import load_libraries, train

            engine = load_libraries(own.config)
        result: TrainingResult | Exception = train(**own.arguments(), engine=engine)
    # The process's outermost frame: the reason goes to the row, the traceback to the log.
    except Exception as error:
        result = error
    code = end_all([(own, result)], [own.tracker])
    # Not where a signal ended all processes: the machine shuts down.
    if holder(paths.supervisor_lock(run_id)) is None and not termination.asked_by():
        spawn.start_detached(spawn.Worker.RECONCILE)  # nobody else would write the outcome
    return code


class Members:
    """The runs of this token's pack in this process, those too that its supervisor adds."""

    def __init__(self) -> None:
        self.codes = [0]
        self._training: dict[int, Attempt] = {}  # by the id of its RunSpec
        self._trackers: list[Tracker] = []
        self._changing = threading.Lock()  # runs begin on one thread, and end on another one
        self._known: set[pack_file.Member] = set()
        self._slot = 0

    @property
    def training(self) -> list[Attempt]:
        with self._changing:
            return list(self._training.values())

    def more(self) -> "RunSpec | None":
        """The next run that waits in the pack file."""
        from src.training.packed.run import RunSpec

        for member in self._unknown():
            self._known.add(member)
            if own := begin(*member):
                own.reporter.phase("waiting for its first step")
                spec = RunSpec(**own.arguments())
                self._slot = own.run.slot or 0
                with self._changing:
                    self._trackers.append(own.tracker)
                    self._training[id(spec)] = own
                return spec
        return None

    def wait(self) -> bool:
        """Wait until the supervisor, having written all ends, adds the queue's next runs, for which
        another process would load all this again, or ends this one. False where it is gone."""
        supervisor = holder(lock := slot_lock(self._slot))
        while supervisor is not None and holder(lock) == supervisor and not termination.asked_by():
            if self._unknown():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def ended(self, ends: Sequence["End"]) -> None:
        """Tell how these runs ended."""
        with self._changing:
            own = [(self._training.pop(id(spec)), outcome) for spec, outcome in ends]
            # The others go on training meanwhile: only the last ones wait, for all.
            waits_for = [] if self._training else list(self._trackers)
        self.codes.append(end_all(own, waits_for))
        for attempt, _ in own:
            attempt.lock.release()  # its next attempt may be in this very process

    def end_rest(self, error: Exception) -> None:
        """Tell that an error ended the pack with all that are still in it."""
        if rest := [(own, error) for own in self.training]:
            self.codes.append(end_all(rest, self._trackers))

    def _unknown(self) -> list[pack_file.Member]:
        members = pack_file.read_members(os.environ["SPELLTUNE_TOKEN"])
        return [member for member in members if member not in self._known]


def main_of_a_pack() -> int:
    """Train the members of this token's pack."""
    with loading():
        from src.training.packed.engine import train_pack
        from src.training.packed.files import prepare_writing
        from src.training.threads import start_warm_up
        from src.workers.reporter import CALLS

        start_warm_up()
        CALLS.prepare(partial(prepare_writing, paths.cache_dir()))
    members, call = Members(), CALLS.call
    specs = list(iter(members.more, None))
    first = [own.run.id for own in members.training]
    try:
        if specs:
            train_pack(specs, more=members.more, ended=members.ended, wait=members.wait, call=call)
    # What ends the pack ends all that are still in it.
    except Exception as error:
        members.end_rest(error)
    alone = all(holder(paths.supervisor_lock(run_id)) is None for run_id in first)
    if alone and not termination.asked_by():
        spawn.start_detached(spawn.Worker.RECONCILE)
    return max(members.codes)


def end_reason_of_result(result: TrainingResult) -> EndReason:
    """The reason of a training that ended with a result."""
    if result.stopped:
        return EndReason.STOPPED
    return EndReason.EARLY_STOPPED if result.early_stopped else EndReason.COMPLETED


def end_reason_of(error: BaseException) -> EndReason:
    """The reason of a training that ended with this error."""
    # By name: the classes are torch's and the engines', which this process may not have imported.
    name, text = type(error).__name__, str(error)
    # torch raises an error of its own for a full disk, without an errno.
    if disk_error(error) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
        return EndReason.DISK_FULL
    if name == "OutOfMemoryError" or "CUDA out of memory" in text or "_ALLOC_FAILED" in text:
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
    termination.handle_signals()
    order = wait_for_order() if sys.argv[1:] == ["--standby"] else Order(sys.argv[1:], None)
    if order.arguments == ["--pack"]:
        leave(main_of_a_pack())
    run_id, attempt = order.arguments
    leave(main(run_id, int(attempt), order.lock))
