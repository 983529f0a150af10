"""A kernel that does nothing. Its launch makes the context of the GPU and loads Triton's driver."""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton


@triton.jit
def _empty(number_ptr):
    pass


def warm_up() -> None:
    """Have the first launch of a process over, which reads all files of Triton for its version."""
    _empty[(1,)](torch.zeros(1, device="cuda"))
