"""CUDA graphs that share their memory."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch


@cache
def _stream() -> Any:
    """The stream of all captures: cuBLAS keeps 32 MiB for each stream that a thread uses, and never
    frees them."""
    return torch.cuda.Stream()


def load(compute: Callable[[], None]) -> None:
    """Compute once what is to be captured, so that all that it uses is loaded."""
    current, side = torch.cuda.current_stream(), _stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        compute()
    current.wait_stream(side)


class GraphPool:
    """Captures CUDA graphs that share the memory of what they compute on the way: only one of them
    may run at a time, and none keeps a value there."""

    def __init__(self) -> None:
        # Its memory is that of the next one, so it has to live until then.
        self._newest: Any = None

    def capture(self, compute: Callable[[], None]) -> Any:
        """The CUDA graph of what `compute` does on the GPU, which is not done meanwhile. All that
        it uses must have been loaded: see `load`."""
        graph = torch.cuda.CUDAGraph()
        pool = self._newest and self._newest.pool()
        # The default would end the capture in an error if another thread, which waits for a copy of
        # the adapters, asks the driver about it meanwhile.
        with torch.cuda.graph(
            graph, pool=pool, stream=_stream(), capture_error_mode="thread_local"
        ):
            compute()
        self._newest = graph
        return graph
