"""Looks after one run: `python -m src.runs.supervisor RUN --slot N`. Standard library and the
store, no torch.

Takes the slot, claims the row, starts the trainer in a process group of its own, passes on a stop
with growing force, and writes the verdict. The only writer of a claimed run's status.
"""

import contextlib
import json
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
from src.runs.processes import FileLock, boot_id, child_environment
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
    arguments = parser.parse_args()
    slot = FileLock(launcher.slot_lock(arguments.slot))
    own = FileLock(paths.locks_dir() / f"{arguments.run}.supervisor.lock")
    if not slot.acquire() or not own.acquire():
        return 0  # someone else was faster; the queue is filled again when a slot gets free
    token = secrets.token_hex(16)
    with store.writing() as session:
        run = store.claim(
            session,
            arguments.run,
            slot=arguments.slot,
            token=token,
            supervisor_pid=os.getpid(),
            boot_id=boot_id(),
        )
    if run is not None:
        Supervision(run, token, Timeouts()).supervise()
    slot.release()
    launcher.fill_slots()
    return 0


class Supervision:
    """One attempt of one run, from its trainer's start to the verdict."""

    def __init__(self, run: Run, token: str, timeouts: Timeouts):
        self.run_id, self.attempt, self.slot, self.token, self.timeouts = (
            run.id,
            run.attempt,
            run.slot,
            token,
            timeouts,
        )
        self.stop_seen_at: float | None = None  # on the monotonic clock, as every waiting time here
        self.terminated_at: float | None = None

    def supervise(self) -> None:
        result_file = paths.output_dir(self.run_id) / "result.json"
        result_file.unlink(missing_ok=True)
        trainer = self.start_trainer()
        self.update(None, trainer_pid=trainer.pid)
        beat = 0.0
        while trainer.poll() is None:
            time.sleep(self.timeouts.poll)
            now = time.monotonic()
            if now - beat >= self.timeouts.heartbeat:
                beat = now
                self.update(None, heartbeat_at=time.time())
            self.follow(trainer, now)
        # Data-loader workers and other children of the trainer must not outlive it.
        signal_group(trainer.pid, signal.SIGKILL)
        status, reason, columns = self.verdict(trainer.returncode)
        self.update(status, reason=reason, ended_at=time.time(), phase=None, **columns)

    def start_trainer(self) -> "subprocess.Popen[bytes]":
        gpus = list(launcher.gpus())
        extra = {"SPELLTUNE_TOKEN": self.token, "PYTHONUNBUFFERED": "1"}
        if gpus:
            extra["CUDA_VISIBLE_DEVICES"] = gpus[self.slot or 0]
        # Trainers that share cores are several times slower with more threads than cores.
        extra["SPELLTUNE_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // max(1, len(gpus))))
        return subprocess.Popen(
            [sys.executable, "-m", "src.runs.trainer", self.run_id, str(self.attempt)],
            cwd=paths.ROOT,
            env=child_environment(**extra),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def follow(self, trainer: "subprocess.Popen[bytes]", now: float) -> None:
        """Bring the row along (RUNNING, STOPPING) and press a stop with growing force."""
        with store.reading() as session:
            run = store.find(session, self.run_id)
        if run.status == Status.STARTING and run.step is not None:
            self.update(Status.RUNNING)
        if run.stop_requested_at is None:
            return
        if self.stop_seen_at is None:
            self.stop_seen_at = now
            self.update(Status.STOPPING)
        if self.terminated_at is None and now - self.stop_seen_at > self.timeouts.stop:
            self.terminated_at = now
            signal_group(trainer.pid, signal.SIGTERM)
        if self.terminated_at is not None and now - self.terminated_at > self.timeouts.terminate:
            signal_group(trainer.pid, signal.SIGKILL)

    def verdict(self, returncode: int) -> tuple[Status, str | None, dict[str, int]]:
        """(status, reason, other columns) by the result file, or by how the trainer died without
        one."""
        try:
            result = json.loads((paths.output_dir(self.run_id) / "result.json").read_text())
        except (OSError, ValueError):
            result = {}
        if result.get("attempt") == self.attempt:
            columns = {
                key: result[key] for key in ("step", "best_step") if result.get(key) is not None
            }
            return Status(result["status"]), result["reason"], columns
        if self.stop_seen_at is not None:
            return Status.STOPPED, "stopped by force: it did not end by itself in time", {}
        if returncode < 0:
            return (
                Status.FAILED,
                f"signal {-returncode} ({signal.Signals(-returncode).name}) ended the trainer",
                {},
            )
        return (
            Status.FAILED,
            f"the trainer ended with exit code {returncode} and no result; see the log",
            {},
        )

    def update(self, to: Status | None, **columns: object) -> None:
        with store.writing() as session:
            if not store.transition(
                session,
                self.run_id,
                to,
                leave=ACTIVE,
                attempt=self.attempt,
                token=self.token,
                **columns,
            ):
                sys.exit(f"{self.run_id} is not this supervisor's any more; leaving")


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that the trainer leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


if __name__ == "__main__":
    sys.exit(main())
