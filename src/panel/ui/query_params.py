"""Writes of a page's address, kept until the browser has heard of them.

The browser sends the address with each edit. An edit that it sends before it has heard what the one
before did (two fields in a row, over a slow network) carries an address without that, which would
undo it. `settle` writes such changes again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

KEPT_SECONDS = 5  # more than a browser needs to hear of a change
_CHANGES, _PAGE = "address changes", "address page"

Value = str | list[str] | None


@dataclass
class _Change:
    """A parameter's new value, and those that a browser may still send in its place."""

    value: Value
    before: list[Value]
    at: float = field(default_factory=time.monotonic)


def write(name: str, value: str | Sequence[str] | None) -> None:
    """Set a parameter of the address; None removes it."""
    _note(name, value)
    _set(name, value)


def current(name: str) -> str | None:
    """The last value of a parameter as this session knows it: also where the browser has sent an
    edit before it heard of that value."""
    change = _changes().get(name)
    now = _read(name)
    if change and time.monotonic() - change.at <= KEPT_SECONDS and now in change.before:
        now = change.value
    return now[-1] if isinstance(now, list) else now


def write_all(values: Mapping[str, str]) -> None:
    """Set these parameters of the address and remove all others."""
    for name in {*st.query_params, *values}:
        _note(name, values.get(name))
    st.query_params.from_dict(values)


def settle(page: str) -> None:
    """Write again what an address sent too early would undo. Called before the page runs.

    An address that the reader went to, by a link or with Back, holds as it is.
    """
    context = get_script_run_ctx()
    went = st.session_state.get(_PAGE) != page or (context and context.is_history_navigation)
    st.session_state[_PAGE] = page
    changes = _changes()
    for name, change in list(changes.items()):
        if went or time.monotonic() - change.at > KEPT_SECONDS:
            del changes[name]
        elif _read(name) in change.before:
            _set(name, change.value)


def _note(name: str, value: str | Sequence[str] | None) -> None:
    kept = value if value is None or isinstance(value, str) else list(value)
    changes = _changes()
    earlier = changes[name].before if name in changes else []
    changes[name] = _Change(kept, [one for one in (*earlier, _read(name)) if one != kept])


def _changes() -> dict[str, _Change]:
    changes: dict[str, _Change] = st.session_state.setdefault(_CHANGES, {})
    return changes


def _read(name: str) -> Value:
    values = st.query_params.get_all(name)
    return values if len(values) > 1 else next(iter(values), None)


def _set(name: str, value: str | Sequence[str] | None) -> None:
    if value is None:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = value
