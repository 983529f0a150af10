"""File locks that the kernel releases when their holder dies, and who holds one."""

import fcntl
import os
import struct
import threading
from pathlib import Path


class FileLock:
    """An exclusive lock on a file that the kernel lets go when this process dies, however it dies.

    POSIX record locks: a forked child does not keep them. They vanish when their holder opens and
    closes the file again, so use one FileLock a path in a process.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; False when another process has it."""
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
        if self._file is not None:
            with _at_locks:
                _own.pop(self.path, None)
                os.close(self._file)
            self._file = None


# A thread that looks at a lock must not do so while another one takes it.
_at_locks = threading.Lock()
_own: dict[Path, int] = {}  # locks of this process -> its pid, which a forked child does not have

# struct flock on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def holder(path: Path) -> int | None:
    """Pid of the process that has the lock at `path`, or None. Asks without taking it, so it cannot
    refuse an owner."""
    with _at_locks:
        if _own.get(path) == os.getpid():
            return os.getpid()  # looking would let it go
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        finally:
            os.close(file)
    return None if kind == fcntl.F_UNLCK else pid
