"""Work that a training does not wait for: jobs of each run in their order, beside the training

Tables, checkpoints and the ends of runs take a disk, and on a GPU each of them costs more time than
a step. Threads do: they wait for disks and hash outside of Python's lock.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

THREADS = 4
MAX_WAITING = 256  # jobs of all runs; who brings another one waits until one of them is done

T = TypeVar("T")

# Calls a function that can be pickled with these arguments, maybe in another process, and returns
# or raises what it does.
Call = Callable[..., Any]


def call_here(function: Callable[..., T], *arguments: Any) -> T:
    """`Call` on the thread that asks."""
    return function(*arguments)


class Jobs(Protocol):
    """Takes the jobs of one run."""

    def put(self, job: Callable[[], T]) -> "Future[T]":
        """Have `job` done after those before it."""

    def wait(self) -> None:
        """Return once all of them are done. Raises what the first that failed raised; those after
        it are not done."""


class AtOnce:
    """Does each job at once, on the caller's thread; what it raises is raised there."""

    def put(self, job: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        future.set_result(job())
        return future

    def wait(self) -> None:
        pass


class Background:
    """Threads that do the jobs of several queues: one queue's in their order, those of different
    queues beside each other."""

    def __init__(self, threads: int = THREADS, max_waiting: int = MAX_WAITING):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="background")
        self.room = threading.Semaphore(max_waiting)

    def queue(self) -> "JobQueue":
        return JobQueue(self)

    def start(self, work: Callable[[], None]) -> None:
        self._pool.submit(work)

    def close(self) -> None:
        """Do what is left, and end the threads."""
        self._pool.shutdown()


class JobQueue:
    """Jobs that `Background` does in their order."""

    def __init__(self, background: Background):
        self._background = background
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._error: BaseException | None = None

    def put(self, job: Callable[[], T]) -> "Future[T]":
        """Have `job` done after those before it. Waits while too many wait."""
        self._background.room.acquire()
        future: Future[T] = Future()
        with self._changed:
            self._waiting.append((job, future))
            if not self._busy:
                self._busy = True
                self._background.start(self._work)
        return future

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    return
                job, future = self._waiting.popleft()
            try:
                if self._error is not None:
                    future.set_exception(self._error)
                else:
                    future.set_result(job())
            # Whatever it is: who waits for the job takes it.
            except BaseException as error:
                self._error = error
                future.set_exception(error)
            finally:
                self._background.room.release()
