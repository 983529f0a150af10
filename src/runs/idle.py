"""Tells whether the machine is idle and what keeps it busy, and stops the countdown to the
command of `when_idle`.

The watcher (src/workers/idle.py) writes how far it has got into a file, which pages read.
"""

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from src import paths, store
from src.config import ConfigError, load_machine
from src.config.machine import WhenIdle
from src.files import read_text, write_atomic
from src.runs import locks, processes
from src.runs.locks import holder
from src.runs.machine import active_here, boot_id, is_here
from src.runs.spawn import Worker, start_detached
from src.runs.timeouts import TIMEOUTS
from src.store.tables import SweepStatus

WORK = ("slot-", ".supervisor", ".trainer", ".export")  # locks of processes that do something
COMMAND = re.compile(r"^src\.cli$|(^|/)spelltune$")  # in a command line: what follows is a command
# Commands that wait for nothing: they may stay open while nobody looks at them.
OPEN_COMMANDS = ("panel", "mcp")


class Stage(StrEnum):
    """How far an idle machine is from running its command."""

    BUSY = "busy"
    IDLE = "idle"  # since `since`
    COUNTDOWN = "countdown"  # the command runs at `runs_at`
    RAN = "ran"  # once; it does not run again before something was going on


@dataclass(frozen=True)
class State:
    """How far the watcher has got. Times are in UTC epoch seconds."""

    stage: Stage
    since: float  # of the stage
    why: str | None = None  # what keeps it busy
    runs_at: float | None = None
    problem: str | None = None  # of the command that ran
    boot_id: str | None = None
    command: str | None = None


def write(state: State) -> None:
    write_atomic(paths.idle_file(), json.dumps(asdict(state)))


def read() -> State | None:
    """How far the watcher has got; None if there is none, or it was of an earlier start of the
    machine."""
    try:
        values: dict[str, Any] = json.loads(read_text(paths.idle_file()))
        found = State(**values | {"stage": Stage(values["stage"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if found.boot_id == boot_id() else None


def countdown() -> State | None:
    """The countdown that is going on, if there is one that nobody has stopped."""
    found = read()
    if found is None or found.stage != Stage.COUNTDOWN or _touched(paths.kept_on()) >= found.since:
        return None
    return found if holder(paths.idle_lock()) is not None else None


def settings() -> WhenIdle | None:
    """The settings by which something is to be done when the machine is idle; None for nothing."""
    try:
        kept = load_machine().when_idle
    except (ConfigError, OSError):  # said where it is mended
        return None
    return kept if kept.command else None


def keep_watching() -> None:
    """Start the watcher, if there is something to do and it does not watch already."""
    with suppress(OSError):  # a home without room or locks: whatever else is done there says so
        if settings() is not None and holder(paths.idle_lock()) is None:
            start_detached(Worker.IDLE)


def keep_on() -> None:
    """Keep the machine on: a countdown ends, and it has to be idle as long again."""
    _touch(paths.kept_on())


def page_is_seen() -> None:
    """A page of the panel is in front of a reader."""
    _touch(paths.page_seen())


def _touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    os.utime(file)


def _touched(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def kept_on_at() -> float:
    """When somebody last wanted the machine to stay on."""
    return _touched(paths.kept_on())


def busy(*, pages: bool = True) -> str | None:
    """The first thing that keeps the machine busy, in words; None if it is idle. Without `pages` a
    reader of the panel does not count."""
    with store.reading() as session:
        active = active_here(session)
        queued = bool(store.queue(session))
        sweeps = store.list_sweeps(session, statuses=[SweepStatus.ACTIVE])
    if active:
        return f"{active[0].label} trains"
    if queued:
        return "a run is queued"
    if sweep := next((sweep for sweep in sweeps if is_here(sweep.host)), None):
        return f"the sweep {sweep.name} goes on"
    held = locks.held(paths.locks_dir())
    if name := next((n for n in held if n.startswith(WORK[0]) or n.endswith(WORK[1:])), None):
        return f"a process holds {name}"
    if command := _command():
        return f"`spelltune {command}` runs"
    if pages and abs(time.time() - _touched(paths.page_seen())) < TIMEOUTS.page:
        return "a page of the panel is in front of a reader"
    return None


def _command() -> str | None:
    """A command of this program on this home that somebody waits for."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            line = process.cmdline()
            starts = [place for place, word in enumerate(line[:3]) if COMMAND.search(word)]
            words = line[starts[0] + 1 :] if starts else []
            # It was started in any folder.
            if (
                words
                and words[0] not in OPEN_COMMANDS
                and processes.is_of_home(process, unset=paths.ROOT)
            ):
                return words[0]
    return None
