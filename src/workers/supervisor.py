"""Supervises one trainer: `python -m src.workers.supervisor RUN --slot N`. Never loads torch.

Takes the slot, claims the run and, with the packed engine, the runs that can share its process;
starts the trainer in a process group of its own, passes on stops, by force if need be, and writes
how each run ended. The only writer of a claimed run's status. With `--standby` in the place of RUN
it starts the trainer first, and waits with it for a run.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.config import stored_config
from src.runs import attempts, launcher, pack_file, restore, snapshots, spawn, standby
from src.runs.environment import ignore_output_errors, slot_environment
from src.runs.locks import FileLock
from src.runs.logs import cut_log, last_error, write_into
from src.runs.machine import boot_id, host, memory_kills, slot_lock
from src.runs.processes import kill_by_token, new_token, signal_trainer, trainer_lives
from src.runs.reconciler import keep_reconciling
from src.runs.result_file import EXIT_DISK_FULL, forget_result, read_result, record_failure
from src.runs.timeouts import TIMEOUTS
from src.store.outcome import EndReason, Outcome
from src.store.tables import ACTIVE, Run, Status
from src.training import checkpointing
from src.training.packed.eligibility import pack_key
from src.workers.standby import WaitingTrainer, wait_for_run


def main() -> int:
    parser = ArgumentParser(prog="python -m src.workers.supervisor")
    parser.add_argument("run", nargs="?")
    parser.add_argument("--slot", type=int, required=True)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--adopt", action="store_true", help="take over a living trainer")
    how.add_argument("--standby", action="store_true", help="wait for a run with a loaded trainer")
    arguments = parser.parse_args()
    os.umask(0o077)
    ignore_output_errors()
    if arguments.standby:
        if (taken := wait_for_run(arguments.slot)) is None:
            return 0
        if taken.slot is None:
            give_back_slot(taken.run_id)
            return 0
        slot = taken.slot
        supervisor = Supervisor(arguments.slot, taken.trainer)
        supervisor.start(taken.run_id)
    else:
        if (free := acquire_slot(arguments.slot)) is None:
            # Someone else was faster; the queue is filled again when a slot gets free.
            give_back_slot(arguments.run)
            return 0
        slot = free
        supervisor = Supervisor(arguments.slot)
        if arguments.adopt:
            supervisor.adopt(arguments.run)
        else:
            standby.end(arguments.slot)  # its memory is this run's
            supervisor.start(arguments.run)
    supervisor.supervise()
    slot.release()
    launcher.fill_slots()
    return 0


def acquire_slot(slot: int) -> FileLock | None:
    """The lock of a slot; None while another process keeps it."""
    lock = FileLock(slot_lock(slot))
    # Its holder may be a supervisor that came too late to adopt a trainer, and is about to exit.
    deadline = time.monotonic() + TIMEOUTS.heartbeat
    while not lock.acquire():
        if time.monotonic() > deadline:
            return None
        time.sleep(TIMEOUTS.poll)
    return lock


def give_back_slot(run_id: str) -> None:
    """Give back the slot of a run, as another process uses it. That is no failed start, nor is it
    one of a run that was to be adopted."""

    def write(session: store.Session) -> None:
        run = store.find(session, run_id)
        store.release_slot(session, run)
        store.update_attempt(session, run, failed_starts=None)

    store.write_with_retry(write, seconds=TIMEOUTS.write)


class SupervisedRun:
    """One attempt of one run, and how far its stop has got."""

    def __init__(self, run: Run, lock: FileLock):
        self.run, self.lock = run, lock
        # On the monotonic clock: the wall clock may be set while a run lives.
        self.stop_seen_at: float | None = None
        self.terminated_at: float | None = None
        # The next reader of a lost table must find the token of a living process.
        snapshots.write_run(run.id, seconds=TIMEOUTS.write)


class Supervisor:
    """One trainer process from its start (or adoption) to the outcomes of the runs that it trains:
    one, or several with the packed engine."""

    def __init__(self, slot: int, waiting: WaitingTrainer | None = None):
        self.slot = slot
        self.runs: list[SupervisedRun] = []
        self.waiting = waiting  # a trainer that has no run yet
        self.token = waiting.token if waiting else new_token()
        self.pack: tuple[Any, ...] | None = None  # pack_key of its members
        self.members: list[pack_file.Member] = []  # all that joined the pack
        self.trainer: subprocess.Popen[bytes] | None = None
        self.log_run, self.log_start = "", 0  # where the trainer's own output begins
        self.any_ended = False  # a run of this trainer came to its end
        self.memory_kills = memory_kills(os.getpid())

    @property
    def me(self) -> dict[str, Any]:
        return {"supervisor_pid": os.getpid(), "boot_id": boot_id(), "host": host()}

    def start(self, run_id: str) -> None:
        """Claim a run and those that can share its process, and start the trainer."""
        if not (first := self.claim(run_id)):
            if self.waiting:
                self.waiting.end()
            return
        config = stored_config(first.run.config)
        if config.engine == "packed":
            self.pack = pack_key(config)
            self.join(first)
            self.claim_more(config.pack_size - 1)
        forget_result(run_id)
        self.log_run, self.log_start = run_id, size_of(paths.log_file(run_id))
        what = ["--pack"] if self.pack else [run_id, str(first.run.attempt)]
        self.trainer = self.start_trainer(what, paths.log_file(run_id))
        self.update(trainer_pid=self.trainer.pid, seconds=TIMEOUTS.write)

    def start_trainer(self, what: list[str], log: Path) -> "subprocess.Popen[bytes]":
        """Give the run to the trainer that waits for it, or start one."""
        if self.waiting is not None:
            write_into(log)
            if self.waiting.start(what, log):
                print(f"trained by the standby trainer of slot {self.slot}", flush=True)
                return self.waiting.process
        return spawn.start_detached(
            spawn.Worker.TRAINER,
            *what,
            log=log,
            SPELLTUNE_TOKEN=self.token,
            **slot_environment(self.slot),
        )

    def claim(self, run_id: str) -> SupervisedRun | None:
        """Claim a queued run. None if another supervisor was faster."""
        lock = FileLock(paths.supervisor_lock(run_id))
        if not lock.acquire():
            return None

        def take(session: store.Session) -> Run | None:
            run = store.find(session, run_id)
            columns = self.me | {"slot": self.slot, "token": self.token}
            mine = store.claim(session, run, **columns)
            session.refresh(run)
            session.expunge(run)
            return run if mine else None

        if not (run := store.write_with_retry(take, seconds=TIMEOUTS.write)):
            lock.release()
            return None
        if run.resume_step is None and run.attempt > 1:
            # It starts from scratch: checkpoints here are of an earlier attempt.
            folder, name = paths.checkpoints_dir(run.id), f"attempt-{run.attempt - 1}"
            checkpointing.set_aside(folder, after=-1, name=name)
        self.runs.append(SupervisedRun(run, lock))
        return self.runs[-1]

    def adopt(self, run_id: str) -> None:
        """Take over the trainer of a run that lost its supervisor, with all its runs."""

        def read(session: store.Session) -> list[Run]:
            self.token = store.find(session, run_id).token or ""
            active = store.list_runs(session, statuses=ACTIVE)
            session.expunge_all()
            return [run for run in active if run.token == self.token]

        for run in store.read_with_retry(read, seconds=TIMEOUTS.write):
            lock = FileLock(paths.supervisor_lock(run.id))
            if lock.acquire() and self.write_columns(run, **self.me, failed_starts=None):
                self.runs.append(SupervisedRun(run, lock))
        self.members = pack_file.read_members(self.token)
        if self.members and self.runs:
            self.pack = pack_key(stored_config(self.runs[0].run.config))

    def join(self, supervised: SupervisedRun) -> None:
        """Add a run to the pack file, from which the trainer reads its members."""
        forget_result(supervised.run.id)
        self.members.append((supervised.run.id, supervised.run.attempt))
        pack_file.write_members(self.token, self.members)

    def claim_more(self, room: int) -> None:
        """Claim up to `room` queued runs that can share the process."""
        if self.pack is None or room < 1:
            return
        now = time.time()
        with store.reading() as session:
            ready = [
                run.id
                for run in launcher.startable(session)
                # A run with a slot of its own is about to start there.
                if not launcher.is_given(run, now)
                and launcher.settings_problem(run) is None
                and pack_key(stored_config(run.config)) == self.pack
            ]
        for run_id in ready[:room]:
            if supervised := self.claim(run_id):
                self.join(supervised)
                if self.trainer is not None:
                    self.write_columns(supervised.run, trainer_pid=self.trainer.pid)

    def supervise(self) -> None:
        """Follow the trainer until it exits, then write the outcome of every run."""
        if not self.runs:
            return  # another supervisor was faster
        over = threading.Event()
        # In a thread, as it may take longer than the interval of the heartbeat.
        threading.Thread(target=keep_reconciling, args=(over,), daemon=True).start()
        last_heartbeat = -TIMEOUTS.heartbeat
        size = stored_config(self.runs[0].run.config).pack_size
        while self.runs and self.alive():
            time.sleep(TIMEOUTS.poll)
            now = time.monotonic()
            with log_write_errors():
                if now - last_heartbeat >= TIMEOUTS.heartbeat:
                    last_heartbeat = now
                    # A table that was built again has the run as it was before its trainer.
                    own = {} if self.trainer is None else {"trainer_pid": self.trainer.pid}
                    self.update(heartbeat_at=time.time(), **own)
                    if self.pack is not None and not paths.pack_file(self.token).exists():
                        pack_file.write_members(self.token, self.members)
                self.follow(now)
                for supervised in self.runs:
                    cut_log(supervised.run.id)
                if self.pack is not None:
                    self.end_members()
                    self.claim_more(size - len(self.runs))
        # Data-loader workers and other children of the trainer must not outlive it.
        kill_by_token(self.token)
        for supervised in list(self.runs):
            self.end(supervised, self.outcome(supervised))
        pack_file.forget_members(self.token)
        over.set()

    def end_members(self) -> None:
        """Write the outcomes of those members of a pack that have ended."""
        for supervised in list(self.runs):
            if outcome := read_result(supervised.run.id, supervised.run.attempt):
                self.any_ended = True
                self.end(supervised, outcome)

    def outcome(self, supervised: SupervisedRun) -> Outcome | None:
        """How a run ended whose trainer is gone; None if the trainer never read it."""
        results = {w.run.id: read_result(w.run.id, w.run.attempt) for w in self.runs}
        self.any_ended = self.any_ended or any(results.values())
        return results[supervised.run.id] or outcome_of_exit(
            self.trainer.returncode if self.trainer is not None else None,
            asked_to_stop=supervised.stop_seen_at is not None,
            packed=self.pack is not None,
            oom_killed=memory_kills(os.getpid()) > self.memory_kills,
            error=self.last_error() if self.log_run else None,
        )

    def end(self, supervised: SupervisedRun, outcome: Outcome | None) -> None:
        """Write an outcome, and queue the next attempt if settings can heal it.

        None puts the run back into the queue, once: where its trainer died again before it read any
        run, it is FAILED.
        """
        run = supervised.run
        # A run that came too late to a pack that trained others to their ends did not fail.
        starts = None if self.any_ended else (run.failed_starts or 0) + 1
        if outcome is None and (starts or 0) >= store.MAX_FAILED_STARTS:
            outcome = self.failure_to_start()
        failed = outcome is not None and outcome.status == Status.FAILED
        newest = attempts.newest_verified_step(run) if failed else None

        def write(session: store.Session) -> tuple[bool, bool]:
            if outcome is None:
                if not store.stop_requested(session, run.id):
                    released = store.release(session, run, failed_starts=starts)
                    if released:
                        return True, False
                gone = Outcome(EndReason.LOST, "its trainer is gone without a result")
                return store.end(session, run, gone), False
            mine = store.end(session, run, outcome)
            healed = mine and failed and attempts.heal(session, run, outcome, newest)
            return mine, healed

        mine, healed = store.write_with_retry(write, seconds=TIMEOUTS.write)
        if mine:
            snapshots.sync_from_files(run.id)
            # A trainer that wrote its result has entered the failure itself.
            if failed and not healed and read_result(run.id, run.attempt) is None:
                record_failure(run.id)
        self.runs.remove(supervised)
        supervised.lock.release()

    def failure_to_start(self) -> Outcome:
        """The outcome of a run whose trainer died before it read it, as often as allowed."""
        error = self.last_error() or "see the log"
        times = store.MAX_FAILED_STARTS
        reason = f"its trainer died before it read the run, {times} times: {error}"
        return Outcome(EndReason.ERROR, reason)

    def last_error(self) -> str | None:
        """The last error in the trainer's own output."""
        return last_error(paths.log_file(self.log_run), since=self.log_start)

    def alive(self) -> bool:
        """True while the trainer lives."""
        if self.trainer is not None:
            return self.trainer.poll() is None
        return any(trainer_lives(supervised.run) for supervised in self.runs)

    def follow(self, now: float) -> None:
        """Move runs on to RUNNING and STOPPING; end a trainer by force that does not stop."""
        with store.reading() as session:
            rows = {run.id: run for run in store.runs_of(session, [w.run.id for w in self.runs])}
        for supervised in self.runs:
            row = rows.get(supervised.run.id)
            if row is None:
                continue
            if row.status == Status.STARTING and row.step is not None:
                leave = [Status.STARTING]
                self.change(supervised, Status.RUNNING, leave=leave, failed_starts=None)
            if row.stop_requested_at is not None and supervised.stop_seen_at is None:
                supervised.stop_seen_at = now
                if row.status != Status.STOPPING:  # as an adopted run may be
                    leave = [Status.STARTING, Status.RUNNING]
                    self.change(supervised, Status.STOPPING, leave=leave)
        # A signal ends the whole process, so it waits until all its runs were asked to stop.
        asked = [w.stop_seen_at for w in self.runs]
        if not asked or None in asked:
            return
        last = self.runs[0]
        if last.terminated_at is None and now - max(t for t in asked if t) > TIMEOUTS.stop:
            last.terminated_at = now
            self.signal_trainer(signal.SIGTERM)
        if last.terminated_at and now - last.terminated_at > TIMEOUTS.terminate:
            self.signal_trainer(signal.SIGKILL)

    def signal_trainer(self, number: signal.Signals) -> None:
        """Signal the process group that the trainer leads."""
        for supervised in self.runs:
            if signal_trainer(supervised.run, number):
                return

    def change(
        self, supervised: SupervisedRun, to: Status, *, leave: Sequence[Status], **columns: Any
    ) -> None:
        """Change a run's status, or abandon it if it has another owner."""
        with store.writing() as session:
            mine = store.transition(session, supervised.run, to, leave=leave, **columns)
        if not mine:
            self.abandon(supervised)

    def update(self, *, seconds: float = 0, **columns: Any) -> None:
        """Update columns of all runs; abandon those that have another owner."""

        def write(session: store.Session) -> list[SupervisedRun]:
            return [w for w in self.runs if not store.update_attempt(session, w.run, **columns)]

        lost = store.write_with_retry(write, seconds=seconds)
        for supervised in lost:
            self.abandon(supervised)

    def write_columns(self, run: Run, **columns: Any) -> bool:
        """Update columns of one run; False if it has another owner."""
        return store.write_with_retry(
            lambda session: store.update_attempt(session, run, **columns), seconds=TIMEOUTS.write
        )

    def abandon(self, supervised: SupervisedRun) -> None:
        """Stop supervising a run that has another owner; exit without any run left."""
        restore.restore_database()  # where an older copy of the table was put back
        with store.reading() as session:
            if store.owns(session, supervised.run):
                return
        print(f"{supervised.run.id} has another supervisor now; leaving it", file=sys.stderr)
        self.runs.remove(supervised)
        supervised.lock.release()
        if not self.runs:
            sys.exit(1)


@contextlib.contextmanager
def log_write_errors() -> Iterator[None]:
    """Log a failed write and go on: a locked table or a full disk must not end supervision."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)


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
    if code == -signal.SIGTERM:
        reason = "SIGTERM ended its trainer before it trained a step"
        return Outcome(EndReason.TERMINATED, reason)
    how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    if packed:
        return Outcome(EndReason.LOST, f"the process of its pack ended with {how}")
    if code < 0:
        return Outcome(EndReason.KILLED, f"{how} ended the trainer")
    why = error or "see the log"
    return Outcome(EndReason.ERROR, f"the trainer ended with {how} and no result: {why}")


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
