"""File locks that the kernel releases when their holder dies, and who holds one.

A holder also writes a heartbeat into the file: a process that was suspended for good holds its
locks too.
"""

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
from pathlib import Path

from src.errors import UserError
from src.files import retry
from src.runs.timeouts import TIMEOUTS


class LocksUnavailable(UserError, OSError):
    """The disk of the home keeps no record locks, without which nothing can be supervised."""


class FileLock:
    """An exclusive lock on a file, which the kernel releases however its process dies.

    POSIX record locks: a forked child does not inherit them. They are released when their holder
    opens and closes the file again, so a process has a lock only once.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting. False if another process holds it, or this one already.

        LocksUnavailable where the disk has no locks.
        """
        with _at_locks:
            if _own(self.path) is not None or (file := _lock_file(self.path)) is None:
                return False
            self._file = file
            _held[self.path] = os.getpid(), self
            self.beat()
        _start_beating()
        return True

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        with _at_locks:
            if self._file is not None:
                _held.pop(self.path, None)
                os.close(self._file)
                self._file = None

    def beat(self) -> None:
        """Show that the holder lives, and lock a new file if the old one was deleted."""
        assert self._file is not None
        with contextlib.suppress(OSError):
            if not _is_file_of(self._file, self.path):
                if (file := _lock_file(self.path)) is None:
                    return  # another process was faster
                os.close(self._file)
                self._file = file
            try:
                # System-wide, and no clock that can be set; it stands while the machine sleeps.
                text = f"{os.getpid()} {time.monotonic():.3f}"
                os.pwrite(self._file, text.ljust(BEAT_BYTES).encode(), 0)
            except OSError:
                os.ftruncate(self._file, 0)  # a full disk: no heartbeat is better than an old one


BEAT_BYTES = 40

# A thread must not probe a lock while another one takes it: closing the file would release it.
_at_locks = threading.RLock()
_held: dict[Path, tuple[int, FileLock]] = {}  # a forked child has the entries but another pid
_beating: int | None = None  # pid of the process whose thread beats

# struct flock on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def _own(path: Path) -> FileLock | None:
    """The lock of this process at `path`, if it holds one."""
    pid, lock = _held.get(path, (0, None))
    return lock if pid == os.getpid() else None


def _lock_file(path: Path) -> int | None:
    """Open and lock the file at `path`; None if another process holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return None
            raise LocksUnavailable(_why_not(path, error.strerror or str(error))) from error
        if _is_file_of(file, path):
            return file
        os.close(file)  # it was deleted between the two calls


def _open(path: Path, flags: int) -> int:
    return retry(lambda: os.open(path, flags | os.O_CLOEXEC, 0o600))


def _is_file_of(file: int, path: Path) -> bool:
    """True if an open file is still the one at `path`."""
    try:
        there, opened = retry(lambda: os.stat(path)), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


def holder(path: Path) -> int | None:
    """Pid of the process that holds the lock at `path`, or None. Asks without taking it, so that a
    probe never makes an `acquire` elsewhere fail."""
    return _look(path)[0]


def is_hung(path: Path) -> bool:
    """True if the holder of the lock at `path` has not shown for TIMEOUTS.lease that it lives."""
    pid, text = _look(path)
    try:
        writer, at = text.split()
        # Without a heartbeat of its own (a full disk) the holder is believed.
        return int(writer) == pid != os.getpid() and time.monotonic() - float(at) > TIMEOUTS.lease
    except ValueError:
        return False


def held(folder: Path) -> dict[str, tuple[int, float | None]]:
    """{name of a lock: pid of its holder, seconds since it showed that it lives (None: never)} of
    the locks in a folder that are held."""
    found: dict[str, tuple[int, float | None]] = {}
    for path in sorted(folder.glob("*.lock")):
        pid, text = _look(path)
        if pid is None:
            continue
        age = None
        with contextlib.suppress(ValueError):
            writer, at = text.split()
            age = time.monotonic() - float(at) if int(writer) == pid else None
        found[path.name.removesuffix(".lock")] = pid, age
    return found


def _look(path: Path) -> tuple[int | None, str]:
    """Pid of the holder of the lock at `path`, and the heartbeat in it."""
    with _at_locks:
        if _own(path) is not None:
            return os.getpid(), ""  # opening and closing the file would release it
        try:
            file = _open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None, ""
        try:
            query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, query))
            text = os.pread(file, BEAT_BYTES, 0).decode(errors="replace")
        finally:
            os.close(file)
    return (None, "") if kind == fcntl.F_UNLCK else (pid, text)


def break_lock(path: Path) -> None:
    """Put a new file in the place of a lock whose holder hangs, so that others can take it."""
    breaker = FileLock(path.with_name(f"{path.name}.breaking"))
    if breaker.acquire():
        # Asked again beneath this lock: another process may have broken it and taken the new one.
        if is_hung(path):
            path.unlink(missing_ok=True)
        breaker.release()


def check_locks(folder: Path) -> None:
    """LocksUnavailable if the disk of `folder` does not keep one process from another's locks."""
    path = folder / f"probe-{os.getpid()}.lock"
    probe = FileLock(path)
    if not probe.acquire():
        return
    try:
        # A lock of the open file, not of the process, so that this process can be refused itself.
        second = os.open(path.with_suffix(".second"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        third = os.open(path.with_suffix(".second"), os.O_RDWR | os.O_CLOEXEC)
        try:
            query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(second, fcntl.F_OFD_SETLK, query)
            answer = fcntl.fcntl(third, fcntl.F_OFD_GETLK, query)
            if struct.unpack(_FLOCK, answer)[0] == fcntl.F_UNLCK:
                raise LocksUnavailable(_why_not(path, "a lock that is held keeps nobody out"))
        except OSError as error:
            if isinstance(error, LocksUnavailable):
                raise
            raise LocksUnavailable(_why_not(path, error.strerror or str(error))) from error
        finally:
            os.close(second)
            os.close(third)
            path.with_suffix(".second").unlink(missing_ok=True)
    finally:
        probe.release()
        path.unlink(missing_ok=True)


def _why_not(path: Path, why: str) -> str:
    return (
        f"the disk of {path.parent} has no file locks ({why}), by which runs are supervised: "
        "set SPELLTUNE_HOME to a folder on a local disk"
    )


def _start_beating() -> None:
    """Start the thread that shows for each lock of this process that the process lives."""
    global _beating
    with _at_locks:
        if _beating == os.getpid():
            return
        _beating = os.getpid()
    threading.Thread(target=_keep_beating, name="heartbeat of locks", daemon=True).start()


def _keep_beating() -> None:
    while True:
        time.sleep(TIMEOUTS.heartbeat)
        with _at_locks:
            for pid, lock in list(_held.values()):
                if pid == os.getpid():
                    lock.beat()
