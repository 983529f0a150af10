"""How fast a run trains, and where the time of the thread that trains it goes"""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepClock:
    """Seconds of training between two logged steps, without those of evaluations and saves."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of the block."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def seconds(self) -> float:
        """Seconds since they were last asked for."""
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        return seconds


ACTIVITIES = ("loading", "steps", "scoring", "waiting", "other")


class TimeSpent:
    """Seconds of the thread that trains by ACTIVITIES: loading of base and data, steps, scoring,
    waiting for files, and other work.

    Each moment counts once: for the innermost activity that it is in.
    """

    def __init__(self, outermost: str = "other") -> None:
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._inside = [outermost]
        self._since = time.perf_counter()

    @contextmanager
    def on(self, activity: str) -> Iterator[None]:
        """Count the time of the block for `activity`."""
        self._count()
        self._inside.append(activity)
        try:
            yield
        finally:
            self._count()
            self._inside.pop()

    def seconds(self) -> dict[str, float]:
        """The seconds of each activity until now; their sum is the age of this object."""
        self._count()
        return {name: round(seconds, 3) for name, seconds in self._seconds.items()}

    def _count(self) -> None:
        now = time.perf_counter()
        self._seconds[self._inside[-1]] += now - self._since
        self._since = now
