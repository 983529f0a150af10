"""Calls functions of a trainer in other processes: its own threads would hold Python's lock."""

import os
import pickle
import queue
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from src.format import GIB
from src.runs import spawn
from src.runs.machine import free_memory

# Of what a trainer has, for each process; with less there is none. One takes 0.6 GiB.
CORES, FREE_BYTES = 4, 4 * GIB
MAX_PROCESSES = 4

T = TypeVar("T")


class CallFailed(Exception):
    """Stands for an error of another process that cannot be brought here."""


class _Caller:
    """A process that does calls."""

    def __init__(self) -> None:
        own, its_end = socket.socketpair()
        with its_end:
            self._process = spawn.start_attached(
                spawn.Worker.CALLS,
                stdin=its_end,
                # It writes files of the trainer's runs, so it must be gone when they go on.
                SPELLTUNE_TOKEN=os.environ.get("SPELLTUNE_TOKEN", ""),
            )
        self._channel = Connection(own.detach())

    def ask(self, call: "list[Any]") -> Any:
        """The answer to a call in its parts. OSError or EOFError where the process is gone."""
        for part in call:
            self._channel.send_bytes(part)
        return receive(self._channel)

    def end(self) -> None:
        """Kill it, so that nothing of an unfinished call goes on."""
        self._channel.close()
        self._process.kill()
        self._process.wait()


class CallPool:
    """Calls functions in processes of its own where cores and memory are free for them, else on the
    thread that asks. A call whose process is gone, or whose answer cannot be read, is done again on
    that thread."""

    def __init__(self, processes: int | None = None):
        if processes is None:
            # Where several train at once, each has its share of the cores (`slot_environment`).
            cores = int(os.environ.get("SPELLTUNE_THREADS") or len(os.sched_getaffinity(0)))
            most = min(MAX_PROCESSES, cores // CORES, free_memory() // FREE_BYTES)
            processes = max(0, most)
        self.processes = processes
        # None: not started yet, because most trainings have few calls. The last one that was busy
        # is asked first.
        self._free: queue.LifoQueue[_Caller | None] = queue.LifoQueue()
        for _ in range(processes):
            self._free.put(None)
        self._lock = threading.Lock()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The value of `function`, a module's own, for `arguments`, all of which can be pickled; or
        what it raises is raised. Waits while all processes are busy; any thread may call it."""
        call = parts_of((function, arguments)) if self.processes else []
        while self.processes:
            try:
                # Not for ever: the last process may be gone meanwhile.
                process = self._free.get(timeout=1.0)
            except queue.Empty:
                continue
            try:
                process = process or _Caller()
                value, errors = process.ask(call)
            # It was killed, or could not start, or reading its answer takes more memory than there
            # is, or anything else: none in its place.
            except Exception as error:
                print(f"warning: a process beside it is gone: {error!r}", file=sys.stderr)
                if process is not None:
                    process.end()
                with self._lock:
                    self.processes -= 1
                break
            self._free.put(process)
            if errors:
                raise linked(errors)
            found: T = value
            return found
        return function(*arguments)

    def prepare(self, load: Callable[[], None]) -> None:
        """Start the processes and have each call `load`, without waiting for them."""
        for _ in range(self.processes):
            threading.Thread(target=self.call, args=(load,), name="prepare", daemon=True).start()


def parts_of(document: Any) -> list[Any]:
    """An object as messages, of which its arrays are some, as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(document, protocol=5, buffer_callback=buffers.append)
    return [pickle.dumps((len(buffers), content)), *(buffer.raw() for buffer in buffers)]


def receive(channel: Connection) -> Any:
    """The next object of `parts_of`; EOFError once the other end is closed."""
    count, content = pickle.loads(channel.recv_bytes())
    return pickle.loads(content, buffers=[channel.recv_bytes() for _ in range(count)])


def chain_of(error: BaseException) -> list[BaseException]:
    """An error and those that it came from, each of which can be pickled. Pickled by itself, an
    error forgets them."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 10:
        try:
            pickle.loads(pickle.dumps(cause))
            chain.append(cause)
        # Of any class, with whatever arguments.
        except Exception:
            chain.append(CallFailed(f"{type(cause).__name__}: {cause}"))
        cause = cause.__cause__ or cause.__context__
    return chain


def linked(chain: list[BaseException]) -> BaseException:
    """The first error of `chain_of`, with those that it came from."""
    for error, cause in zip(chain, chain[1:], strict=False):
        error.__context__ = cause
    return chain[0]
