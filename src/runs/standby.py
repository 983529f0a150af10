"""Standby trainers: for each slot a process that has its libraries loaded and waits for a run.

A panel or a sweep that is open has them kept (`keep_ready`), a command has one load while it checks
its launch (`loading_for`), `launcher.fill_slots` gives them their run (`hand_over`), and whoever
uses a slot without one ends it first (`end`). A run never depends on one: where it is gone, hangs
or was started in another environment, the run starts without it. Who trains is decided by the
slot's lock alone, which a standby trainer does not hold while it waits.
"""

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.config import RunConfig, load_config, stored_config
from src.files import read_text, write_atomic
from src.format import GIB
from src.runs import lease, readiness
from src.runs.locks import FileLock, holder
from src.runs.machine import active_here, host, slot_count, slot_lock
from src.runs.processes import end_hung, is_of_this_home, kill_by_token, kill_worker
from src.runs.spawn import Worker, start_detached
from src.runs.timeouts import TIMEOUTS
from src.store.tables import ACTIVE

AFTER_A_RUN = 30  # seconds in which the next standby trainer is started


@dataclass(frozen=True)
class Standby:
    """A standby trainer as its supervisor wrote it down, or why there is none."""

    pid: int  # of its supervisor
    token: str  # of its trainer
    environment: str  # see `readiness.environment_key`
    libraries: list[Any]  # see `readiness.libraries_of`
    failed: str | None = None  # why it ended by itself


def lock_file(slot: int) -> Path:
    """Lock file of a slot's standby trainer, held by its supervisor while both wait."""
    return paths.locks_dir() / f"standby-{slot}.lock"


def orders_file(slot: int) -> Path:
    """The pipe in which a slot's standby trainer is told what to do, one JSON line each time."""
    return paths.locks_dir() / f"standby-{slot}.orders"


def log_file(slot: int) -> Path:
    """Output of a slot's standby trainer until it has a run."""
    return paths.locks_dir() / f"standby-{slot}.log"


def _file(slot: int) -> Path:
    return paths.locks_dir() / f"standby-{slot}.json"


def read(slot: int) -> Standby | None:
    """A slot's standby trainer as it was written down; None without one."""
    try:
        return Standby(**json.loads(read_text(_file(slot))))
    except (OSError, ValueError, TypeError):
        return None


def write(slot: int, standby: Standby) -> None:
    """Write down a slot's standby trainer."""
    write_atomic(_file(slot), json.dumps(asdict(standby)) + "\n")


def forget(slot: int) -> None:
    """Remove what was written down of a slot's standby trainer."""
    for file in (_file(slot), orders_file(slot)):
        file.unlink(missing_ok=True)


def keep_ready() -> None:
    """Have a standby trainer wait on each slot that may soon need one, for some more minutes."""
    try:
        if not lease.other_host():
            for slot in range(slot_count()):
                _keep_ready(slot)
    # It is a convenience: whoever keeps it has runs to look after.
    except Exception as error:
        print(f"warning: no standby trainer: {error!r}", file=sys.stderr, flush=True)


def _keep_ready(slot: int) -> None:
    # The supervisor of one may hang, or be gone while its trainer is stopped.
    end_hung(lock_file(slot))
    there = read(slot)  # before the lock is looked at: another one may begin just now
    waits = holder(lock_file(slot)) is not None
    # One that took a run meanwhile let its lock go after it took back what it had written down.
    if there is not None and not waits and not there.failed and read(slot) == there:
        _clear(slot, there)
    if (ready_for := readiness.wanted(slot)) is None:
        return
    if waits:
        _tell(slot, {"keep": readiness.minutes_of(ready_for.config) * 60})
    elif not _failed_alike(slot, there, ready_for.config) and readiness.why_not(slot) is None:
        _start(slot)


def _start(slot: int, config: RunConfig | None = None) -> "subprocess.Popen[bytes]":
    """Start a standby trainer for a run with this config; without one it looks at the table."""
    log_file(slot).unlink(missing_ok=True)
    arguments = ["--standby", "--slot", str(slot)]
    with open(os.memfd_create("config"), "w+") as document:
        if config is not None:
            json.dump(config.model_dump(), document)
            document.seek(0)
        return start_detached(Worker.SUPERVISOR, *arguments, log=log_file(slot), stdin=document)


@contextlib.contextmanager
def loading_for(config: RunConfig, *, later: bool = False) -> Iterator[Callable[[], None]]:
    """Load the libraries of a run on a free slot while its launch is checked, and call what this
    gives before it is launched. What the launch does not use is ended; with `later`, whose run
    comes afterwards, only where the launch fails."""
    slot = 0
    process: subprocess.Popen[bytes] | None = None

    def wait() -> None:
        """Wait until its supervisor can be told of the run: another one starts no faster."""
        deadline = time.monotonic() + TIMEOUTS.standby
        while process is not None and process.poll() is None and time.monotonic() < deadline:
            if (there := read(slot)) is not None and there.pid == process.pid:
                return
            time.sleep(0.01)

    try:
        for slot in range(slot_count()):
            if _is_free_for(config, slot):
                process = _start(slot, config)
                break
    # Whatever it is, the run starts without it.
    except Exception as error:
        print(f"warning: no standby trainer: {error!r}", file=sys.stderr, flush=True)
    try:
        yield wait
        if later:
            process = None
    finally:
        lock = FileLock(slot_lock(slot))
        if process is not None and lock.acquire():
            try:
                process.kill()
                process.wait()
                end(slot)
            finally:
                lock.release()


def _is_free_for(config: RunConfig, slot: int) -> bool:
    """True if a run of this config would start on this slot, and no trainer waits there."""
    if readiness.is_off(config) or lease.other_host() or readiness.why_not(slot):
        return False
    asked = readiness.wanted(slot)
    return asked is not None and not asked.beside and holder(lock_file(slot)) is None


def _failed_alike(slot: int, there: Standby | None, config: RunConfig) -> bool:
    """True if the standby trainer before ended by itself just now, and the next one would too."""
    if there is None or not there.failed:
        return False
    try:
        silent = time.time() - _file(slot).stat().st_mtime
    except OSError:
        return False
    return (
        0 <= silent < readiness.minutes_of(config) * 60
        and there.environment == readiness.environment_key(slot)
        and there.libraries == readiness.libraries_of(config)
    )


def hand_over(run_id: str, document: dict[str, Any], slot: int) -> bool:
    """Give a run that has this slot, and its config as the row has it, to the standby trainer
    there.

    False where there is none that would train it as one that is started now; then none is left.
    """
    there = read(slot)
    if there is None or there.failed:
        return False
    try:
        return _hand_over(run_id, document, slot, there)
    # Whatever it is, the run starts without it.
    except Exception as error:
        print(f"warning: no standby trainer: {error!r}", file=sys.stderr, flush=True)
        return False


def _hand_over(run_id: str, document: dict[str, Any], slot: int, there: Standby) -> bool:
    config = stored_config(document)
    if (
        readiness.minutes_of(config)
        and holder(lock_file(slot)) == there.pid
        and is_of_this_home(there.token)
        and there.libraries == readiness.libraries_of(config)
        and there.environment == readiness.environment_key(slot)
        and _tell(slot, {"run": run_id})
    ):
        deadline = time.monotonic() + TIMEOUTS.standby
        while time.monotonic() < deadline:
            # It takes the lock of the slot before it lets its own go.
            waits = holder(lock_file(slot)) == there.pid
            if holder(slot_lock(slot)) is not None:
                return True
            if not waits:
                break
            time.sleep(0.005)
    lock = FileLock(slot_lock(slot))
    if not lock.acquire():
        return holder(slot_lock(slot)) == there.pid  # it was slow
    try:
        end(slot)
    finally:
        lock.release()
    return False


def _tell(slot: int, order: dict[str, Any]) -> bool:
    """Tell a standby trainer something; False if nobody listens. Never waits."""
    try:
        pipe = os.open(orders_file(slot), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        line = f"{json.dumps(order)}\n".encode()
        return os.write(pipe, line) == len(line)
    except OSError:
        return False
    finally:
        os.close(pipe)


def end(slot: int) -> None:
    """End the standby trainer of a slot and wait until its memory is free.

    The caller holds the lock of the slot, so that the trainer cannot take a run meanwhile.
    """
    there = read(slot)
    pid = holder(lock_file(slot))
    if pid is not None:
        kill_worker(pid)
    if there is not None and not there.failed:
        _clear(slot, there)


def _clear(slot: int, there: Standby) -> None:
    """Kill what is left of a standby trainer whose supervisor is gone."""
    with store.reading() as session:
        active = store.list_runs(session, statuses=ACTIVE)
        trains = any(run.token == there.token for run in active)
    if not trains:
        kill_by_token(there.token)
    forget(slot)


def state() -> dict[str, str]:
    """{slot: what its standby trainer does, or why there is none}, for people."""
    return {f"slot {slot}": _state(slot) for slot in range(slot_count())}


def _state(slot: int) -> str:
    there, pid = read(slot), holder(lock_file(slot))
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            taken = sum(p.memory_info().rss for p in [process, *process.children()])
            return f"waits for a run ({taken / GIB:.1f} GiB of memory)"
    try:
        with store.reading() as session:
            newest = list(store.list_runs(session, limit=1))
        config = stored_config(newest[0].config) if newest else load_config()
    except (SQLAlchemyError, OSError):
        return "none: the run table cannot be read"
    if readiness.is_off(config):
        return "off: supervision.standby_minutes is 0"
    if why := readiness.why_not(slot):
        return f"none: {why}"
    if there is not None and there.failed:
        return f"none: the last one ended, {there.failed}"
    return "none: it is started while a panel or a sweep is open"


class Keeper:
    """Keeps standby trainers ready while somebody uses a panel, and for the time after a run."""

    def __init__(self) -> None:
        self._used = True  # since the last round
        self._trained = False  # in the last round

    def use(self) -> None:
        """Note that somebody uses the panel."""
        self._used = True

    def round(self) -> None:
        """Keep standby trainers ready if there was use of the panel or of a slot since the last
        round; without any they end after their time."""
        used, self._used = self._used, False
        trained = self._trained
        with store.reading() as session:
            self._trained = bool(active_here(session))
            # A run may be over within a round, and its supervisor still has the slot for a while.
            last_end = store.last_end(session, host()) or 0
        if used or trained or time.time() - last_end < AFTER_A_RUN:
            keep_ready()


def make_orders_file(slot: int) -> int:
    """Make the pipe of a slot's standby trainer anew and open it to read, without waiting."""
    file = orders_file(slot)
    file.unlink(missing_ok=True)
    os.mkfifo(file, 0o600)
    # To write as well: so it is never at its end while nobody else has it open.
    pipe = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if not os.path.samestat(os.fstat(pipe), os.stat(file)):
        raise OSError(errno.EEXIST, "another process made the pipe", str(file))
    return pipe


def listens(slot: int, pipe: int) -> bool:
    """True while this pipe is the one in which the standby trainer of a slot is told things."""
    try:
        return os.path.samestat(os.fstat(pipe), os.stat(orders_file(slot)))
    except OSError:
        return False
