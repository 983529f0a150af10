"""The log of a run: RUN.log, and RUN.log.1 with its older end."""

import os
import threading
from contextlib import suppress
from pathlib import Path

from src import paths

MAX_BYTES = 32 * 2**20
ERROR_BYTES = 2**16  # how far from the end of a log a traceback is looked for


def append_to_log(run_id: str, text: str) -> None:
    """Append to a run's own log, of which the process may have many. Ignores a full disk."""
    file = AppendedFile(paths.log_file(run_id))
    with suppress(OSError):
        file.append(f"{text}\n")
    file.close()


class AppendedFile:
    """A file that is opened by the first text appended to it and stays open until it is closed.

    To open it for each line would take longer than to write, and a pack writes thousands.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None
        self._lock = threading.Lock()

    def append(self, text: str) -> None:
        """Append `text` at once; OSError where it cannot be written, as a whole or in part."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        left = text.encode()
        with self._lock:
            if self._file is None:
                self._file = os.open(self.path, flags, 0o666)
            while left:
                left = left[os.write(self._file, left) :]

    def close(self) -> None:
        """Close the file; the next text opens it again."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


def write_into(log: Path) -> None:
    """Have what this process prints from now on appended to this log. Ignores a full disk."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)


def last_error(log: Path, *, since: int = 0) -> str | None:
    """The last line of the newest traceback that was written to a log behind `since` bytes, such
    as `ModuleNotFoundError: No module named 'x'`; None without one."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            # It was emptied meanwhile, if it is shorter.
            file.seek(max(since if since <= size else 0, size - ERROR_BYTES))
            text = file.read(ERROR_BYTES).decode(errors="replace")
    except OSError:
        return None
    _, found, frames = text.rpartition("Traceback (most recent call last):\n")
    if not found:
        return None
    lines = (line.strip() for line in frames.splitlines() if not line.startswith((" ", "\t")))
    return next((line for line in lines if line), None)


def cut_log(run_id: str) -> None:
    """Keep the log below MAX_BYTES: move its last quarter to a second file, and empty it."""
    log = paths.log_file(run_id)
    if not log.exists() or log.stat().st_size <= MAX_BYTES:
        return
    # Its writers append, so they go on at the new end.
    with open(log, "r+b") as file:
        file.seek(-MAX_BYTES // 4, os.SEEK_END)
        paths.older_log_file(run_id).write_bytes(file.read(MAX_BYTES // 4))
        file.truncate(0)
