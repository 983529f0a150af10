"""The call for which a tool works: whose it is, what he may do, and whether he still waits"""

import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TypeVar

from src import access
from src.access import Role

READ_ONLY = "this access is read-only: it may look at everything and change nothing"

T = TypeVar("T")


class NobodyWaits(Exception):
    """The call was given up: by its client, or because it took too long."""


@dataclass(frozen=True)
class Caller:
    """A client of this server."""

    role: Role
    is_remote: bool  # came over HTTP, so it has no files of its own here


@dataclass(frozen=True)
class Call:
    """One call of a tool."""

    by: Caller
    tell: Callable[[str], None]  # tells the client what it is at
    over: threading.Event = field(default_factory=threading.Event)


_call: ContextVar[Call | None] = ContextVar("call for which a tool works", default=None)


def install() -> None:
    """Have the layers below refuse changes, too, while a tool works for a reader."""
    access.set_rule(_refusal)


def begin(call: Call) -> None:
    """Have this task, and the threads that it hands work to, work for a call."""
    _call.set(call)


def as_server(work: Callable[[], T]) -> T:
    """Do what the server does by itself, whoever asks."""

    def do() -> T:
        _call.set(None)
        return work()

    return copy_context().run(do)


def check_waiting() -> None:
    """NobodyWaits once the call was given up. What takes long asks this at times."""
    call = _call.get()
    if call is not None and call.over.is_set():
        raise NobodyWaits


def progress(phase: str) -> None:
    """Tell the client what its call is at. NobodyWaits once it was given up."""
    check_waiting()
    if (call := _call.get()) is not None:
        call.tell(phase)


def is_remote() -> bool:
    """True if the client has no files of its own on this machine."""
    call = _call.get()
    return call is not None and call.by.is_remote


def _refusal() -> str | None:
    call = _call.get()
    return READ_ONLY if call is not None and call.by.role is Role.READ else None
