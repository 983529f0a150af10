"""How a supervisor and its trainer wait for a run: each side of a standby trainer.

The supervisor is told of a run through a pipe in the home (`src.runs.standby`), and passes it on
through a socket that is its trainer's standard input. Who of the two dies takes the other with it.
"""

import json
import os
import queue
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sqlalchemy.exc import SQLAlchemyError

from src import paths
from src.config import RunConfig, stored_config
from src.runs import readiness, spawn, standby
from src.runs.environment import slot_environment
from src.runs.locks import FileLock, holder
from src.runs.logs import write_into
from src.runs.machine import free_memory, slot_lock
from src.runs.processes import kill_by_token, new_token
from src.runs.timeouts import TIMEOUTS
from src.training.utils import loading

TAKEN = b"taken\n"


# The supervisor.


class WaitingTrainer:
    """A trainer without a run, as its supervisor sees it."""

    def __init__(self, slot: int):
        self.token = new_token()
        self._channel, its_end = socket.socketpair()
        with its_end:
            self.process = spawn.start_detached(
                spawn.Worker.TRAINER,
                "--standby",
                log=standby.log_file(slot),
                stdin=its_end,
                SPELLTUNE_TOKEN=self.token,
                **slot_environment(slot),
            )

    def load(self, config: RunConfig, *, base: bool) -> None:
        """Have it load the libraries of this config, and the base model too."""
        self._say({"load": config.model_dump(), "base": base})

    def start(self, arguments: list[str], log: Path) -> bool:
        """Give it a run. False if it is gone or does not answer in time; then it is killed."""
        with suppress(OSError):
            self._channel.settimeout(TIMEOUTS.standby)
            self._say({"start": arguments, "log": str(log)})
            if self._channel.recv(len(TAKEN)) == TAKEN:
                self._channel.close()
                return True
        self.end()
        return False

    def end(self) -> None:
        """Kill it and wait until its memory is free."""
        self._channel.close()
        self.process.kill()
        self.process.wait()
        kill_by_token(self.token)

    def _say(self, order: dict[str, Any]) -> None:
        self._channel.sendall(f"{json.dumps(order)}\n".encode())


class Taken(NamedTuple):
    """A run that came while a supervisor waited: what it has for it."""

    run_id: str
    slot: FileLock | None  # held; None if another process was faster
    trainer: WaitingTrainer


def wait_for_run(slot: int) -> Taken | None:
    """Wait with a trainer on a slot until a run is to be trained there. None once nobody needs the
    trainer any more; it is ended then."""
    lock = FileLock(standby.lock_file(slot))
    if not lock.acquire():
        return None  # another one waits
    try:
        return _Waiting(slot).wait()
    finally:
        lock.release()


class _Waiting:
    """The time of a supervisor and its trainer before their run."""

    def __init__(self, slot: int):
        self.slot = slot
        self.until = time.monotonic()
        self.has_base = False
        self.failed: str | None = None
        self.looked_at = 0.0
        self.others_slot = False  # as seen last: held by another, and nothing is wanted for it

    def wait(self) -> Taken | None:
        if document := sys.stdin.read():
            # A launch that is being checked: without use of the panel it is not waited for longer.
            asked: readiness.Wanted | None
            asked = readiness.Wanted(stored_config(json.loads(document)), beside=False)
            self.until += TIMEOUTS.start
            if holder(slot_lock(self.slot)) is not None:
                return None
        elif (asked := readiness.wanted(self.slot)) is None:
            return None
        else:
            self.until += readiness.minutes_of(asked.config) * 60
        self.config = asked.config
        with self._pipe() as pipe:
            self.trainer = WaitingTrainer(self.slot)
            try:
                standby.write(self.slot, self._note())
                self._load(base=not asked.beside)
                while (run_id := self._order(pipe)) is None:
                    if not self._goes_on(pipe):
                        self.trainer.end()
                        return None
                slot = FileLock(slot_lock(self.slot))
                if not slot.acquire():
                    self.trainer.end()
                    return Taken(run_id, None, self.trainer)
            except BaseException:
                self.trainer.end()
                raise
        return Taken(run_id, slot, self.trainer)

    @contextmanager
    def _pipe(self) -> Iterator[int]:
        pipe = standby.make_orders_file(self.slot)
        try:
            yield pipe
        finally:
            # Nothing may name the token of this trainer as that of one that waits, once it trains.
            standby.forget(self.slot)
            os.close(pipe)
            if self.failed:
                standby.write(self.slot, self._note())

    def _note(self) -> standby.Standby:
        return standby.Standby(
            os.getpid(),
            self.trainer.token,
            readiness.environment_key(self.slot),
            readiness.libraries_of(self.config),
            self.failed,
        )

    def _load(self, *, base: bool) -> None:
        self.has_base = base
        self.trainer.load(self.config, base=base)

    def _order(self, pipe: int) -> str | None:
        """The run that was handed over, waiting a little for one."""
        if not select.select([pipe], [], [], TIMEOUTS.poll)[0]:
            return None
        for line in os.read(pipe, 2**16).decode(errors="replace").splitlines():
            told = json.loads(line)
            if "run" in told:
                return str(told["run"])
            self.until = max(self.until, time.monotonic() + told["keep"])
        return None

    def _goes_on(self, pipe: int) -> bool:
        """False once there is no need, no room or no home for the trainer, or it is gone."""
        if (code := self.trainer.process.poll()) is not None:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self.failed = f"{how}; see {standby.log_file(self.slot)}"
            return False
        if time.monotonic() > self.until or not standby.listens(self.slot, pipe):
            return False
        if time.monotonic() - self.looked_at < TIMEOUTS.reconcile:
            return True
        self.looked_at = time.monotonic()
        if free_memory() < readiness.KEEP_BYTES:
            return False
        try:
            asked = readiness.wanted(self.slot)
        except (SQLAlchemyError, OSError):
            return True
        if asked is None:
            # Between two runs of a queue nothing is wanted for the slot: it is free, or the
            # supervisor of the first is about to leave it to the second.
            before, self.others_slot = self.others_slot, holder(slot_lock(self.slot)) is not None
            return not (before and self.others_slot)
        self.others_slot = False
        if not asked.beside and not self.has_base:
            self._load(base=True)
        return True


# The trainer.


class Order(NamedTuple):
    """The run of a trainer that waited."""

    arguments: list[str]  # of the command line of a trainer that is started for it
    lock: FileLock | None  # of a single run, where it could be taken


def wait_for_order() -> Order:
    """Load what the supervisor says until there is a run. The process exits with its supervisor."""
    return _WaitingProcess().wait()


class _WaitingProcess:
    """A trainer without a run, from the inside."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[dict[str, Any] | Order] = queue.SimpleQueue()
        self._deciding = threading.Lock()
        self._leaving = self._ordered = False

    def wait(self) -> Order:
        # In a thread: an order is taken, and the end of the supervisor seen, during the imports.
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        while not isinstance(item := self._items.get(), Order):
            self._load(stored_config(item["load"]), base=item["base"])
        return item

    def _listen(self) -> NoReturn | None:
        with socket.socket(fileno=os.dup(0)) as channel, channel.makefile() as lines:
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            for line in lines:
                told = json.loads(line)
                if "start" not in told:
                    self._items.put(told)
                    continue
                with self._deciding:
                    if self._leaving:
                        break
                    self._ordered = True
                order = Order(told["start"], _lock_of(told["start"]))
                write_into(Path(told["log"]))
                channel.sendall(TAKEN)
                self._items.put(order)
                return None
        os._exit(0)

    def _load(self, config: RunConfig, *, base: bool) -> None:
        try:
            with loading():
                import src.workers.reporter
                import src.workers.trackers  # noqa: F401
                from src.training import train

                packed = train.load_libraries(config).packed
        except Exception:
            traceback.print_exc()
            with self._deciding:
                self._leaving = not self._ordered  # else the run tells of it
            if self._leaving:
                sys.stderr.flush()
                os._exit(1)
            return
        steps: list[Callable[[], object]] = []
        if base:
            cache, stop = paths.cache_dir(), lambda: self._ordered
            preload = partial(train.preload, config, packed=packed, cache_dir=cache, stop=stop)
            steps.append(preload)
        if packed:
            from src.training.packed.templates import templates

            steps.append(partial(templates, paths.cache_dir()))
        for step in steps:
            if self._ordered:
                return
            try:
                step()
            # Whatever is wrong with it, the run that needs it says so.
            except Exception:
                traceback.print_exc()


def _lock_of(arguments: list[str]) -> FileLock | None:
    """The lock of a single run, taken at once: a probe must find it held from the first moment."""
    if len(arguments) != 2:
        return None
    lock = FileLock(paths.trainer_lock(arguments[0]))
    with suppress(OSError):
        return lock if lock.acquire() else None
    return None
