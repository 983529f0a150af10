"""Watches whether the machine is idle: `python -m src.workers.idle`; then it runs the command of
`when_idle`, once, after a countdown that a person can stop.

Lives while that setting is there. No torch.
"""

import os
import subprocess
import sys
import time

from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.config.machine import WhenIdle
from src.format import duration
from src.runs import idle, lease, notifications, reconciler
from src.runs.environment import ignore_output_errors
from src.runs.idle import Stage, State
from src.runs.locks import FileLock, LocksUnavailable
from src.runs.machine import boot_id
from src.runs.timeouts import TIMEOUTS
from src.store.tables import NoticeKind


def main() -> int:
    os.umask(0o077)
    ignore_output_errors()
    lock = FileLock(paths.idle_lock())
    if not lock.acquire():
        return 0  # another one is at it
    watcher = Watcher()
    while (kept := idle.settings()) is not None and not lease.other_host():
        try:
            reconciler.reconcile()  # where there is no panel and no supervisor any more
            watcher.look(kept)
        except (SQLAlchemyError, OSError, LocksUnavailable) as error:
            # What cannot be looked at is not idle.
            watcher.be_busy(f"it cannot be told: {error}")
        time.sleep(min(TIMEOUTS.reconcile, TIMEOUTS.countdown / 4))
    lock.release()
    return 0


class Watcher:
    """The stages of an idle machine, on the monotonic clock: the wall clock may be set."""

    def __init__(self) -> None:
        before = idle.read()
        # One that died after the command ran must not run it again.
        ran = before is not None and before.stage == Stage.RAN
        self.stage = Stage.RAN if ran else Stage.BUSY
        self.began_at = time.monotonic()
        self.kept_on_at = idle.kept_on_at()

    def look(self, kept: WhenIdle) -> None:
        """Look once at what is going on, and do what follows."""
        # In the countdown a page does not count: its reader sees the button that stops it.
        why = idle.busy(pages=self.stage != Stage.COUNTDOWN)
        if self.kept_on_at != (at := idle.kept_on_at()):
            self.kept_on_at, why = at, "somebody keeps it on"
        if why is not None:
            return self.be_busy(why)
        passed = time.monotonic() - self.began_at
        match self.stage:
            case Stage.BUSY:
                self.move_to(Stage.IDLE, kept)
            case Stage.IDLE if passed >= kept.after_minutes * 60:
                self.move_to(Stage.COUNTDOWN, kept)
                text = (
                    f"nothing was going on for {duration(kept.after_minutes * 60)}: "
                    f"`{kept.command}` runs in {duration(TIMEOUTS.countdown)}, unless somebody "
                    "keeps the machine on"
                )
                leave(NoticeKind.IDLE, text)
            case Stage.COUNTDOWN if passed >= TIMEOUTS.countdown:
                self.run(kept)

    def be_busy(self, why: str) -> None:
        if self.stage != Stage.BUSY:
            self.move_to(Stage.BUSY, None, why=why)

    def move_to(
        self, stage: Stage, kept: WhenIdle | None, *, why: str | None = None,
        problem: str | None = None,
    ) -> None:  # fmt: skip
        """Begin a stage, and write it down."""
        now = time.time()
        self.stage, self.began_at = stage, time.monotonic()
        runs_at = now + TIMEOUTS.countdown if stage == Stage.COUNTDOWN else None
        command = kept.command if kept else None
        idle.write(State(stage, now, why, runs_at, problem, boot_id(), command))

    def run(self, kept: WhenIdle) -> None:
        """Run the command. First it is written down that it ran: it may end this machine."""
        self.move_to(Stage.RAN, kept)
        if (problem := run_command(kept.command or "")) is not None:
            self.move_to(Stage.RAN, kept, problem=problem)
            leave(NoticeKind.IDLE_FAILED, f"`{kept.command}` {problem}")


def leave(kind: NoticeKind, text: str) -> None:
    """Leave a notice, and have it told."""
    with store.writing() as session:
        store.leave(session, kind, None, text)
    notifications.tell()


def run_command(command: str) -> str | None:
    """Run a command of the person's in a shell; what went wrong, None if nothing did."""
    log = paths.idle_log()
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], cwd=paths.home(), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        code = process.wait(TIMEOUTS.command)
    except subprocess.TimeoutExpired:
        return f"still ran after {duration(TIMEOUTS.command)}"
    return f"ended with exit code {code}; see {log}" if code else None


if __name__ == "__main__":
    sys.exit(main())
