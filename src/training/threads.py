"""The threads of a training process."""

import os
import sys
import threading
from contextlib import suppress

import torch

# How long a thread that writes files may keep the interpreter's lock from the one that feeds the
# GPU, which asks for it hundreds of times a step; by default it is 5 ms each time.
SWITCH_SECONDS = 1e-4


def set_threads() -> None:
    """Have PyTorch use as many CPU threads as `SPELLTUNE_THREADS` in the environment says, for
    machines that train several runs at once; all cores without it."""
    if threads := os.environ.get("SPELLTUNE_THREADS"):
        torch.set_num_threads(int(threads))


def set_threads_of_a_pack() -> None:
    """`set_threads`, for a thread that has many small operations to do beside those that write
    files."""
    set_threads()
    if torch.cuda.is_available():
        torch.set_num_threads(1)  # what is laid out for a GPU is too small to be shared
    sys.setswitchinterval(SWITCH_SECONDS)


_warm_up: threading.Thread | None = None


def start_warm_up() -> None:
    """Have the GPU and its kernels made ready on a thread of its own, once in a process: that takes
    as long as to read the data. Nothing without a GPU."""
    global _warm_up
    if _warm_up is not None or not torch.cuda.is_available():
        return

    def work() -> None:
        with suppress(Exception):  # whatever it is, the first step has it too
            from src.models.multi_lora.kernels import warm_up

            warm_up()

    _warm_up = threading.Thread(target=work, name="warm-up")
    _warm_up.start()


def await_warm_up() -> None:
    """Return once that is done: only then may another thread launch Triton's kernels."""
    if _warm_up is not None:
        _warm_up.join()
