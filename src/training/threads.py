"""The threads of a training process."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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


@contextmanager
def warming_up(kernels: bool) -> Iterator[None]:
    """Have the GPU and the `kernels` ready at the end of the block, which loads something else
    meanwhile; nothing without them."""
    if not kernels:
        yield
        return
    from src.models.multi_lora.kernels import warm_up

    def work() -> None:
        with suppress(Exception):  # whatever it is, the first step has it too
            warm_up()

    thread = threading.Thread(target=work, name="warm-up")
    thread.start()
    try:
        yield
    finally:
        thread.join()
