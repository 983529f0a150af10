"""The machine that a home belongs to, where several have it on a shared disk.

Locks and process ids mean nothing to another machine: it reads, and ends or starts no run, while
the one that trains shows that it lives. Runs of a database server have a host each instead.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from src import paths, store
from src.errors import UserError
from src.files import read_text, retry, write_atomic
from src.runs import machine
from src.runs.timeouts import TIMEOUTS

SECONDS = 1.0  # no process renews it more often
_renewed: dict[Path, float] = {}


class HomeInUse(UserError, RuntimeError):
    """Another machine trains in this home."""


def other_host() -> str | None:
    """Name of the machine that this home belongs to now, if it is not this one."""
    if store.is_shared():
        return None
    try:
        lease, renewed_at = retry(_read)
        host, boot, folder = lease["host"], lease["boot_id"], lease["folder"]
        # A copied home has the lease of the original.
        if boot == machine.boot_id() or folder != paths.results().stat().st_ino:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    silent = _disk_time() - renewed_at
    if host == machine.host() and silent > time.clock_gettime(time.CLOCK_BOOTTIME):
        return None  # this machine, before it restarted
    return str(host) if silent <= TIMEOUTS.lease else None


def check() -> None:
    """HomeInUse if the home belongs to another machine now."""
    if host := other_host():
        raise HomeInUse(
            f"{paths.home()} is in use on {host}, so nothing is started here: launch it there, or "
            "set SPELLTUNE_HOME to a folder of this machine. What is in it can be read here"
        )


def take() -> None:
    """Make the home this machine's, or show that it still is; HomeInUse if it is another's."""
    if store.is_shared() or time.monotonic() - _renewed.get(_file(), -TIMEOUTS.lease) < SECONDS:
        return
    check()
    _renewed[_file()] = time.monotonic()
    try:
        held = json.loads(read_text(_file()))["boot_id"] == machine.boot_id()
    except (OSError, ValueError, KeyError, TypeError):
        held = False
    with contextlib.suppress(OSError):  # a full disk: a lease that is there can be renewed
        if held:
            os.utime(_file())
        else:
            paths.results().mkdir(parents=True, exist_ok=True, mode=0o700)
            lease = {
                "host": machine.host(),
                "boot_id": machine.boot_id(),
                "folder": paths.results().stat().st_ino,
                "since": time.time(),
            }
            write_atomic(_file(), json.dumps(lease) + "\n")


def describe() -> dict[str, Any] | None:
    """The machine that has the home: {host, since, heartbeat_seconds (ago)}, or None without one.
    `since` is None in a lease of an older version."""
    if store.is_shared():
        return None
    try:
        lease, renewed_at = retry(_read)
        age = round(max(0.0, _disk_time() - renewed_at), 1)
        return {"host": lease["host"], "since": lease.get("since"), "heartbeat_seconds": age}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read() -> tuple[dict[str, Any], float]:
    """The content of the lease, and the time of its renewal."""
    with open(_file(), encoding="utf-8") as file:
        return json.load(file), os.fstat(file.fileno()).st_mtime


def _file() -> Path:
    return paths.results() / ".host"


def _disk_time() -> float:
    """Time by the clock of the disk's server, by which the lease was renewed too."""
    probe = paths.results() / f".host-{machine.host()}-{os.getpid()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # it can be read only
        return time.time()
    return now
