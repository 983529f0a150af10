"""Functions for tests to have called in another process."""

import errno
import os
import time


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
