"""File locks that the kernel releases when their holder dies, and who holds one."""

import fcntl
import os
import struct
import threading
from pathlib import Path


class FileLock:
    """An exclusive lock on a file, which the kernel releases however its process dies.

    POSIX record locks: a forked child does not inherit them. They are released when their holder
    opens and closes the file again, so use one FileLock per path and process.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting. False if another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _at_locks:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            self._file = file
            _own[self.path] = os.getpid()
        return True

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if self._file is not None:
            with _at_locks:
                _own.pop(self.path, None)
                os.close(self._file)
            self._file = None


# A thread must not probe a lock while another one takes it: closing the file would release it.
_at_locks = threading.Lock()
_own: dict[Path, int] = {}  # held lock -> pid; a forked child has the entry but another pid

# struct flock on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def holder(path: Path) -> int | None:
    """Pid of the process that holds the lock at `path`, or None. Asks without taking it, so that a
    probe never makes an `acquire` elsewhere fail."""
    with _at_locks:
        if _own.get(path) == os.getpid():
            return os.getpid()  # opening and closing the file would release it
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, query))
        finally:
            os.close(file)
    return None if kind == fcntl.F_UNLCK else pid
