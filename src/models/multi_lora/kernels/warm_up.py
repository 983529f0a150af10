"""The first things that a process does on a GPU, which take long once."""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton


@triton.jit
def _empty(number_ptr):
    pass


def warm_up() -> None:
    """Make the context of the GPU, launch a kernel that does nothing, for which Triton reads all
    its files once, and multiply two matrices: cuBLAS takes memory beside PyTorch's for each thread
    that does, and later there may be none."""
    _empty[(1,)](torch.zeros(1, device="cuda"))
    x = torch.ones(8, 8, device="cuda", requires_grad=True)
    (x @ x).sum().backward()  # on the thread of gradients too
