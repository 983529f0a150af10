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
from dataclasses import dataclass

from src import paths
from src.runs import launcher, store
from src.runs.processes import FileLock, boot_id, child_environment, holder
from src.runs.reconciler import kill_marked, read_result
from src.runs.table import ACTIVE, Run, Status


@dataclass(frozen=True)
class Timeouts:
    """Every waiting time of supervision, in seconds."""

    poll: float = 0.2
    heartbeat: float = 3.0
    stop: float = 60.0  # from a stop to SIGTERM: the trainer may be writing a checkpoint
    terminate: float = 20.0  # from SIGTERM to SIGKILL


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
    with store.writing() as session:
        run = store.find(session, arguments.run)
        me = {"supervisor_pid": os.getpid(), "boot_id": boot_id()}
        if arguments.adopt:
            mine = store.transition(session, run, None, leave=ACTIVE, **me)
        else:
            columns = me | {"slot": arguments.slot, "token": secrets.token_hex(16)}
            mine = store.claim(session, run, **columns)
        session.refresh(run)
    if mine:
        Supervision(run, Timeouts(), adopted=arguments.adopt).supervise()
    slot.release()
    launcher.fill_slots()
    return 0


class Supervision:
    """One attempt of one run, from its trainer's start (or adoption) to the verdict."""

    def __init__(self, run: Run, timeouts: Timeouts, *, adopted: bool):
        self.run, self.timeouts = run, timeouts
        self.trainer = None if adopted else self.start_trainer()
        # Waiting times are on the monotonic clock: the wall clock may be set while a run lives.
        self.stop_seen_at: float | None = None
        self.terminated_at: float | None = None

    def supervise(self) -> None:
        beat = -self.timeouts.heartbeat
        while self.alive():
            time.sleep(self.timeouts.poll)
            now = time.monotonic()
            if now - beat >= self.timeouts.heartbeat:
                beat = now
                self.update(None, heartbeat_at=time.time())
            self.follow(now)
        # Data-loader workers and other children of the trainer must not outlive it.
        kill_marked(self.run.token)
        verdict = read_result(self.run.id, self.run.attempt) or self.verdict_without_result()
        with store.writing() as session:
            store.end(session, self.run, verdict)

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
        if self.terminated_at is None and now - self.stop_seen_at > self.timeouts.stop:
            self.terminated_at = now
            self.signal_trainer(signal.SIGTERM)
        if self.terminated_at and now - self.terminated_at > self.timeouts.terminate:
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
        if code < 0:
            name = signal.Signals(-code).name
            return {"status": Status.FAILED, "reason": f"signal {-code} ({name}) ended the trainer"}
        reason = f"the trainer ended with exit code {code} and no result; see the log"
        return {"status": Status.FAILED, "reason": reason}

    def update(self, to: Status | None, **columns: object) -> None:
        with store.writing() as session:
            if not store.transition(session, self.run, to, leave=ACTIVE, **columns):
                sys.exit(f"{self.run.id} is not this supervisor's any more; leaving")


if __name__ == "__main__":
    sys.exit(main())
