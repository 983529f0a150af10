"""Roles: may whoever a thread works for change things, or only read them?

In a command or a process of a run everybody may. A panel that asks its readers who they are sets a
rule, which tells the threads of its pages apart (src/panel/access/guard.py).
"""

from collections.abc import Callable
from enum import StrEnum

from src.errors import UserError


class Role(StrEnum):
    EDIT = "edit"
    READ = "read"


class ReadOnlyAccess(UserError, PermissionError):
    """Whoever asks may see everything and change nothing.

    A PermissionError, so that code which can do without a file, such as a cache, takes it for a
    disk that can be read only.
    """


_refusal: Callable[[], str | None] = lambda: None  # noqa: E731


def set_rule(refusal: Callable[[], str | None]) -> None:
    """Have `refusal` and `check` ask this from now on, in the thread that calls them."""
    global _refusal
    _refusal = refusal


def refusal() -> str | None:
    """Why whoever this thread works for may change nothing; None if he may."""
    return _refusal()


def check() -> None:
    """ReadOnlyAccess if whoever this thread works for may change nothing."""
    if why := _refusal():
        raise ReadOnlyAccess(why)
