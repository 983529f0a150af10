"""Looks after one run: `python -m src.runs.supervisor RUN --slot N`. Standard library and the
store, no torch.

Takes the slot, claims the row, starts the trainer in a process group of its own, passes on a stop
with growing force, and writes the verdict. The only writer of a claimed run's status.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser

from sqlalchemy.exc import SQLAlchemyError

from src import paths
from src.runs import launcher, lineage, recovery, store
from src.runs.processes import (
    FileLock,
    boot_id,
    child_environment,
    holder,
    host,
    memory_kills,
    print_even_on_a_full_disk,
)
from src.runs.reconciler import kill_marked, read_result
from src.runs.table import ACTIVE, Run, Status
from src.runs.timeouts import TIMEOUTS
from src.runs.trainer import DISK_FULL

LOG_BYTES = 32 * 2**20


def main() -> int:
    parser = ArgumentParser(prog="python -m src.runs.supervisor")
    parser.add_argument("run")
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--adopt", action="store_true", help="take over a living trainer")
    arguments = parser.parse_args()
    slot = FileLock(launcher.slot_lock(arguments.slot))
    own = FileLock(paths.supervisor_lock(arguments.run))
    if not slot.acquire() or not own.acquire():
        return 0  # someone else was faster; the queue is filled again when a slot gets free
    os.umask(0o077)
    print_even_on_a_full_disk()
    me = {"supervisor_pid": os.getpid(), "boot_id": boot_id(), "host": host()}

    def take(session: store.Session) -> Run | None:
        run = store.find(session, arguments.run)
        if arguments.adopt:
            mine = store.transition(session, run, None, leave=ACTIVE, **me)
        else:
            columns = me | {"slot": arguments.slot, "token": secrets.token_hex(16)}
            mine = store.claim(session, run, **columns)
        session.refresh(run)
        return run if mine else None

    if run := store.insist(take, seconds=TIMEOUTS.start):
        Supervision(run, adopted=arguments.adopt).supervise()
    slot.release()
    own.release()
    launcher.fill_slots()
    return 0


class Supervision:
    """One attempt of one run, from its trainer's start (or adoption) to the verdict."""

    def __init__(self, run: Run, *, adopted: bool):
        self.run = run
        # Waiting times are on the monotonic clock: the wall clock may be set while a run lives.
        self.stop_seen_at: float | None = None
        self.terminated_at: float | None = None
        self.memory_kills = memory_kills(os.getpid())
        recovery.remember(run.id)
        self.trainer = None if adopted else self.start_trainer()

    def supervise(self) -> None:
        beat = -TIMEOUTS.heartbeat
        while self.alive():
            time.sleep(TIMEOUTS.poll)
            now = time.monotonic()
            try:
                if now - beat >= TIMEOUTS.heartbeat:
                    beat = now
                    self.update(None, heartbeat_at=time.time())
                self.follow(now)
                cut_log(self.run.id)
            except (SQLAlchemyError, OSError) as error:
                # A locked table or a full disk is no reason to leave a training alone.
                print(f"warning: {error}", file=sys.stderr, flush=True)
        # Data-loader workers and other children of the trainer must not outlive it.
        kill_marked(self.run.token)
        verdict = read_result(self.run.id, self.run.attempt) or self.verdict_without_result()
        newest = lineage.newest_verified(self.run) if verdict["status"] == Status.FAILED else None

        def end(session: store.Session) -> bool:
            mine = store.end(session, self.run, verdict)
            if mine and verdict["status"] == Status.FAILED:
                lineage.heal(session, self.run, verdict, newest)
            return mine

        if store.insist(end, seconds=TIMEOUTS.write):
            recovery.settle(self.run.id)

    def start_trainer(self) -> "subprocess.Popen[bytes]":
        (paths.output_dir(self.run.id) / "result.json").unlink(missing_ok=True)
        gpus = list(launcher.gpus())
        extra = {"SPELLTUNE_TOKEN": self.run.token or "", "PYTHONUNBUFFERED": "1"}
        if gpus:
            extra["CUDA_VISIBLE_DEVICES"] = gpus[self.run.slot or 0]
        # Threads that spin while they wait take the cores from the panel and from other trainers:
        # two trainers on two cores are over ten times slower with them.
        extra["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
        cores = len(os.sched_getaffinity(0))
        extra["SPELLTUNE_THREADS"] = str(max(1, cores // launcher.slot_count()))
        trainer = subprocess.Popen(
            [sys.executable, "-m", "src.runs.trainer", self.run.id, str(self.run.attempt)],
            cwd=paths.ROOT,
            env=child_environment(**extra),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.update(None, trainer_pid=trainer.pid)
        return trainer

    def alive(self) -> bool:
        if self.trainer is not None:
            return self.trainer.poll() is None
        return holder(paths.trainer_lock(self.run.id)) is not None

    def follow(self, now: float) -> None:
        """Bring the row along (RUNNING, STOPPING) and press a stop with growing force."""
        with store.reading() as session:
            run = store.find(session, self.run.id)
        if run.status == Status.STARTING and run.step is not None:
            self.update(Status.RUNNING)
        if run.stop_requested_at is None:
            return
        if self.stop_seen_at is None:
            self.stop_seen_at = now
            self.update(Status.STOPPING)
        if self.terminated_at is None and now - self.stop_seen_at > TIMEOUTS.stop:
            self.terminated_at = now
            self.signal_trainer(signal.SIGTERM)
        if self.terminated_at and now - self.terminated_at > TIMEOUTS.terminate:
            self.signal_trainer(signal.SIGKILL)

    def signal_trainer(self, number: signal.Signals) -> None:
        """Signal the process group that the trainer leads."""
        # Only the holder of the trainer's lock is the trainer; a pid alone may be a stranger's.
        if pid := holder(paths.trainer_lock(self.run.id)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    def verdict_without_result(self) -> dict[str, object]:
        """How a trainer that left no result file died."""
        code = self.trainer.returncode if self.trainer is not None else None
        if self.stop_seen_at is not None:
            return {"status": Status.STOPPED, "reason": "stopped by force: it did not end in time"}
        if code is None:
            return {"status": Status.INTERRUPTED, "reason": "the trainer died without a result"}
        if code == -signal.SIGKILL and memory_kills(os.getpid()) > self.memory_kills:
            reason = "oom: the machine ran out of memory and killed the trainer"
            return {"status": Status.FAILED, "reason": reason}
        if code == DISK_FULL:
            reason = "disk_full: no space left on the disk"
            return {"status": Status.FAILED, "reason": reason}
        if code < 0:
            name = signal.Signals(-code).name
            return {"status": Status.FAILED, "reason": f"signal {-code} ({name}) ended the trainer"}
        reason = f"the trainer ended with exit code {code} and no result; see the log"
        return {"status": Status.FAILED, "reason": reason}

    def update(self, to: Status | None, **columns: object) -> None:
        with store.writing() as session:
            mine = store.transition(session, self.run, to, leave=ACTIVE, **columns)
        if not mine:
            sys.exit(f"{self.run.id} is not this supervisor's any more; leaving")


def cut_log(run_id: str) -> None:
    """Keep the log below LOG_BYTES: its end moves to a second file, and it begins anew."""
    log = paths.log_file(run_id)
    if not log.exists() or log.stat().st_size <= LOG_BYTES:
        return
    # Its writers append, so they go on at the new end.
    with open(log, "r+b") as file:
        file.seek(-LOG_BYTES // 4, os.SEEK_END)
        paths.older_log_file(run_id).write_bytes(file.read(LOG_BYTES // 4))
        file.truncate(0)


if __name__ == "__main__":
    sys.exit(main())
