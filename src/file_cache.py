"""Files that save work and can be deleted: each is named by all that decides its content"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from src.files import staged_name

KEPT = 64
STAGED_SECONDS = 600.0  # for which a file is written at most
FREE_BYTES, FREE_INODES = 64 * 2**20, 64  # that a disk must have for another file

T = TypeVar("T")


class FileCache:
    """The latest `limit` files of a folder. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, limit: int = KEPT):
        self.folder, self.limit = folder, limit

    def read(self, key: str, read: Callable[[Path], T]) -> T | None:
        """The content of a file as `read` returns it; None if there is none, or it is damaged."""
        if self.folder is not None:
            with suppress(OSError, ValueError, KeyError):
                return read(self.folder / key)
        return None

    def has(self, key: str) -> bool:
        """True if there is such a file."""
        with suppress(OSError):
            return self.folder is not None and (self.folder / key).exists()
        return False

    def write(self, key: str, write: Callable[[Path], object], *, size: int = 0) -> None:
        """Have `write` make a file, of about `size` bytes where that is many, which others see
        whole or not at all, and remove the oldest.

        A disk that can only be read is no error, and one that is nearly full gets no file: the last
        of its space is for what a run says.
        """
        if self.folder is None or not _has_room(self.folder, size):
            return
        staged = staged_name(self.folder / key)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in self.folder.glob(".*"):  # of a process that was killed
                if time.time() - left.stat().st_mtime > STAGED_SECONDS:
                    left.unlink(missing_ok=True)
            try:
                write(staged)
                with open(staged, "rb+") as file:
                    os.fsync(file.fileno())  # after a power cut it would be there without content
                staged.replace(self.folder / key)
            finally:
                staged.unlink(missing_ok=True)
            files = [file for file in self.folder.iterdir() if not file.name.startswith(".")]
            for old in sorted(files, key=lambda file: file.stat().st_mtime)[: -self.limit]:
                old.unlink(missing_ok=True)


def key_of(*parts: Any) -> str:
    """A name for what these parts decide, which JSON can write: equal for equal ones."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _has_room(folder: Path, size: int) -> bool:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    disk = os.statvfs(there)
    # A file system that makes inodes as they are needed counts none.
    inodes = disk.f_favail >= FREE_INODES or not disk.f_files
    return inodes and disk.f_bavail * disk.f_frsize >= FREE_BYTES + size
