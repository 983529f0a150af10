"""How fast a run trains."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throughput:
    """Tokens per second of training, without the time of evaluations and saves."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._started = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leave out a time that has passed since the last rate."""
        self._started += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.pause(time.perf_counter() - started)

    def rate(self, tokens: int) -> float:
        """The rate of the tokens since the last one was asked for."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        self.restart()
        return tokens / seconds
