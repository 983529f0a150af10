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
from src.files import bytes_of
from src.runs import (
    attempts,
    launcher,
    notifications,
    pack_file,
    restore,
    snapshots,
    spawn,
    standby,
)
from src.runs.environment import ignore_output_errors, slot_environment
from src.runs.locks import FileLock
from src.runs.logs import cut_log, last_error, write_into
from src.runs.machine import boot_id, host, memory_kills, slot_lock
from src.runs.processes import kill_by_token, new_token, signal_trainer, trainer_lives
from src.runs.reconciler import keep_reconciling
from src.runs.result_file import forget_result, outcome_of_exit, read_result, record_failure
from src.runs.timeouts import TIMEOUTS
from src.store.outcome import EndReason, Outcome
from src.store.tables import ACTIVE, Run, Status
from src.training import checkpointing
from src.training.packed.eligibility import pack_key
from src.workers.sampler import Sampler
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
    notifications.tell()
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
        self.keys: dict[pack_file.Member, tuple[Any, ...] | None] = {}  # pack_key of queued runs
        self.trainer: subprocess.Popen[bytes] | None = None
        self.log_run, self.log_start = "", 0  # where the trainer's own output begins
        self.any_ended = False  # a run of this trainer came to its end
        self.memory_kills = memory_kills(os.getpid())
        self.sampler = Sampler(slot)

    @property
    def me(self) -> dict[str, Any]:
        return {"supervisor_pid": os.getpid(), "boot_id": boot_id(), "host": host()}

    def start(self, run_id: str) -> None:
        """Claim a run and those that can share its process, and start the trainer."""
        if not (claimed := self.claim([run_id])):
            if self.waiting:
                self.waiting.end()
            return
        (first,) = claimed
        config = stored_config(first.run.config)
        if config.engine == "packed":
            self.pack = pack_key(config)
            self.join(claimed)
            self.claim_more(config.pack_size - 1)
        forget_result(run_id)
        self.log_run, self.log_start = run_id, bytes_of(paths.log_file(run_id))
        what = ["--pack"] if self.pack else [run_id, str(first.run.attempt)]
        self.trainer = self.start_trainer(what, paths.log_file(run_id))
        self.update(self.runs, trainer_pid=self.trainer.pid, seconds=TIMEOUTS.write)

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

    def claim(self, run_ids: Sequence[str]) -> list[SupervisedRun]:
        """Claim queued runs, together; those for which another supervisor was faster are left
        out."""
        locks = {run_id: FileLock(paths.supervisor_lock(run_id)) for run_id in run_ids}
        locks = {run_id: lock for run_id, lock in locks.items() if lock.acquire()}

        def take(session: store.Session) -> list[Run]:
            columns = self.me | {"slot": self.slot, "token": self.token}
            runs = store.runs_of(session, list(locks))
            mine = [run for run in runs if store.claim(session, run, **columns)]
            for run in mine:
                session.refresh(run)
            session.expunge_all()
            return mine

        runs = store.write_with_retry(take, seconds=TIMEOUTS.write) if locks else []
        claimed = [SupervisedRun(run, locks.pop(run.id)) for run in runs]
        for lock in locks.values():
            lock.release()
        for run in runs:
            if run.resume_step is None and run.attempt > 1:
                # It starts from scratch: checkpoints here are of an earlier attempt.
                folder, name = paths.checkpoints_dir(run.id), f"attempt-{run.attempt - 1}"
                checkpointing.set_aside(folder, after=-1, name=name)
        self.take_charge(claimed)
        return claimed

    def take_charge(self, claimed: Sequence[SupervisedRun]) -> None:
        """Supervise these runs from now on."""
        # The next reader of a lost table must find the token of a living process.
        snapshots.write_runs([one.run.id for one in claimed], seconds=TIMEOUTS.write)
        self.runs += claimed

    def adopt(self, run_id: str) -> None:
        """Take over the trainer of a run that lost its supervisor, with all its runs."""

        def read(session: store.Session) -> list[Run]:
            self.token = store.find(session, run_id).token or ""
            active = store.list_runs(session, statuses=ACTIVE)
            session.expunge_all()
            return [run for run in active if run.token == self.token]

        adopted = []
        for run in store.read_with_retry(read, seconds=TIMEOUTS.write):
            lock = FileLock(paths.supervisor_lock(run.id))
            if lock.acquire() and self.write_columns(run, **self.me, failed_starts=None):
                adopted.append(SupervisedRun(run, lock))
        self.take_charge(adopted)
        self.members = pack_file.read_members(self.token)
        if self.members and self.runs:
            self.pack = pack_key(stored_config(self.runs[0].run.config))

    def join(self, claimed: Sequence[SupervisedRun]) -> None:
        """Add runs to the pack file, from which the trainer reads its members."""
        for supervised in claimed:
            forget_result(supervised.run.id)
            self.members.append((supervised.run.id, supervised.run.attempt))
        pack_file.write_members(self.token, self.members)

    def can_join(self, run: Run) -> bool:
        """True if a queued run can share the process."""
        key = run.id, run.attempt  # only a next attempt has other settings
        if key not in self.keys:
            readable = launcher.settings_problem(run) is None
            self.keys[key] = pack_key(stored_config(run.config)) if readable else None
        return self.keys[key] == self.pack

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
                if not launcher.is_given(run, now) and self.can_join(run)
            ]
        # Together: the trainer has the room for all of them, and makes it once.
        if ready and (claimed := self.claim(ready[:room])):
            self.join(claimed)
            if self.trainer is not None:
                self.update(claimed, trainer_pid=self.trainer.pid, seconds=TIMEOUTS.write)

    def supervise(self) -> None:
        """Follow the trainer until it exits, then write the outcome of every run."""
        if not self.runs:
            return  # another supervisor was faster
        over = threading.Event()
        # In a thread, as it may take longer than the interval of the heartbeat.
        threading.Thread(target=keep_reconciling, args=(over,), daemon=True).start()
        self.sampler.start()
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
                    self.update(self.runs, heartbeat_at=time.time(), **own)
                    self.write_usage()
                    if self.pack is not None and not paths.pack_file(self.token).exists():
                        pack_file.write_members(self.token, self.members)
                    for supervised in self.runs:
                        cut_log(supervised.run.id)
                self.follow(now)
                if self.pack is not None:
                    self.end_members()
                    self.claim_more(size - len(self.runs))
        # Data-loader workers and other children of the trainer must not outlive it.
        kill_by_token(self.token)
        self.end(self.outcomes())
        pack_file.forget_members(self.token)
        self.sampler.stop()
        over.set()

    def end_members(self) -> None:
        """Write the outcomes of those members of a pack that have ended."""
        results = self.results()
        self.end([(one, own) for one in self.runs if (own := results[one.run.id]) is not None])

    def results(self) -> dict[str, Outcome | None]:
        """The outcome of each run that has ended, from its file; None for the others."""
        found = {w.run.id: read_result(w.run.id, w.run.attempt) for w in self.runs}
        self.any_ended = self.any_ended or any(found.values())
        return found

    def outcomes(self) -> list[tuple[SupervisedRun, Outcome | None]]:
        """How each run ended, now that the trainer is gone; None if it never read the run."""
        results = self.results()
        oom_killed = memory_kills(os.getpid()) > self.memory_kills
        error = self.last_error() if self.log_run else None
        return [
            (
                supervised,
                results[supervised.run.id]
                or outcome_of_exit(
                    self.trainer.returncode if self.trainer is not None else None,
                    asked_to_stop=supervised.stop_seen_at is not None,
                    packed=self.pack is not None,
                    oom_killed=oom_killed,
                    error=error,
                ),
            )
            for supervised in self.runs
        ]

    def end(self, ended: Sequence[tuple[SupervisedRun, Outcome | None]]) -> None:
        """Write outcomes, together, and queue the next attempt of runs that settings can heal.

        None puts a run back into the queue, once: where its trainer died again before it read any
        run, it is FAILED.
        """
        if not ended:
            return
        self.write_usage()
        # A run that came too late to a pack that trained others to their ends did not fail.
        starts = {w.run.id: None if self.any_ended else (w.run.failed_starts or 0) + 1
                  for w, _ in ended}  # fmt: skip
        final = [
            (
                supervised.run,
                self.failure_to_start()
                if outcome is None and (starts[supervised.run.id] or 0) >= store.MAX_FAILED_STARTS
                else outcome,
            )
            for supervised, outcome in ended
        ]
        newest = {run.id: attempts.newest_verified_step(run) for run, own in final if failed(own)}

        def write(session: store.Session) -> tuple[list[str], list[str]]:
            mine, healed = [], []
            for run, outcome in final:
                if self.write_end(session, run, outcome, starts[run.id]):
                    mine.append(run.id)
                    if (
                        outcome is not None
                        and failed(outcome)
                        and attempts.heal(session, run, outcome, newest[run.id])
                    ):
                        healed.append(run.id)
            return mine, healed

        mine, healed = store.write_with_retry(write, seconds=TIMEOUTS.write)
        snapshots.sync_from_files(mine)
        for run, outcome in final:
            # A trainer that wrote its result has entered the failure itself.
            told = run.id not in mine or read_result(run.id, run.attempt) is not None
            if failed(outcome) and run.id not in healed and not told:
                record_failure(run.id)
        for supervised, _ in ended:
            self.runs.remove(supervised)
            supervised.lock.release()

    def write_usage(self) -> None:
        """Write the meters of the slot, and the share of its time and energy that each run took."""
        with log_write_errors():  # nothing else waits for it, nor the cut of logs on a full disk
            self.sampler.write(self.token, [supervised.run.id for supervised in self.runs])

    @staticmethod
    def write_end(
        session: store.Session, run: Run, outcome: Outcome | None, starts: int | None
    ) -> bool:
        """Write the end of a run, or put it back into the queue; False if it has another owner."""
        if outcome is not None:
            return store.end(session, run, outcome)
        if not store.stop_requested(session, run.id) and store.release(
            session, run, failed_starts=starts
        ):
            return True
        gone = Outcome(EndReason.LOST, "its trainer is gone without a result")
        return store.end(session, run, gone)

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
            rows = store.progress_of(session, [w.run.id for w in self.runs])
        began, stopping = [], []
        for supervised in self.runs:
            if (row := rows.get(supervised.run.id)) is None:
                continue
            status, step, asked_at = row
            if status == Status.STARTING and step is not None:
                began.append(supervised)
            if asked_at is not None and supervised.stop_seen_at is None:
                supervised.stop_seen_at = now
                if status != Status.STOPPING:  # as an adopted run may be
                    stopping.append(supervised)
        self.change(began, Status.RUNNING, leave=[Status.STARTING], failed_starts=None)
        self.change(stopping, Status.STOPPING, leave=[Status.STARTING, Status.RUNNING])
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
        self,
        changed: Sequence[SupervisedRun],
        to: Status,
        *,
        leave: Sequence[Status],
        **columns: Any,
    ) -> None:
        """Change the status of runs; abandon those that have another owner."""
        if not changed:
            return
        with store.writing() as session:
            lost = [
                w
                for w in changed
                if not store.transition(session, w.run, to, leave=leave, **columns)
            ]
        for supervised in lost:
            self.abandon(supervised)

    def update(
        self, supervised_runs: Sequence[SupervisedRun], *, seconds: float = 0, **columns: Any
    ) -> None:
        """Update columns of runs; abandon those that have another owner."""

        def write(session: store.Session) -> list[SupervisedRun]:
            return [
                w for w in supervised_runs if not store.update_attempt(session, w.run, **columns)
            ]

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


def failed(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.status == Status.FAILED


if __name__ == "__main__":
    sys.exit(main())
