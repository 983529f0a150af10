"""Functions for tests to have called in another process."""

import errno
import os
import time
from pathlib import Path


def raise_strange(text: str) -> None:
    """Raise an error that cannot be pickled, which came from a full disk."""

    class Strange(Exception):
        pass

    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise Strange(text) from error


def save_tensors(file: str) -> None:
    """Write a safetensors file."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, file)


def pid_after(seconds: float) -> int:
    """The process that this is called in, after some time."""
    time.sleep(seconds)
    return os.getpid()


def raise_from_full_disk(folder: Path) -> None:
    """Raise what torch makes of a full disk while it writes to this folder."""
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        raise RuntimeError("inline_container.cc:659: unexpected pos 64 vs 0")  # noqa: B904


class Unreadable(Exception):
    """An object that can be sent to another process, which cannot read it."""

    def __init__(self, text: str, pid: int):
        super().__init__(text)
        self.pid = pid


def make_unreadable() -> Unreadable:
    """An object that another process cannot read, with the process that made it."""
    return Unreadable("no pid here", os.getpid())
