"""Buttons and fields that change something: disabled, with a hint, for a reader who may not.

Streamlit takes a press of a disabled button too, so its callback is refused here; and what wants
to write is refused by src/panel/access/guard.py. A test keeps Streamlit's own buttons out of the
other modules of the panel.

A press while the script of another one is within a call starts a second script beside it. So one
callback of a session waits for the other, and finds what that has done.

What a callback cannot do, as another tab or the press before did it, is told in a toast.
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import Any, cast

import pandas as pd
import streamlit as st

from src import access, store
from src.access import ReadOnlyAccess
from src.errors import UserError, explain
from src.format import capital
from src.panel.ui import html

TOLD = "told of a press"  # in the state of the session


def may_edit() -> bool:
    """True unless the page is drawn for a reader who may change nothing."""
    return access.refusal() is None


def hint() -> str | None:
    """Why nothing can be changed here, as a sentence; None where it can."""
    why = access.refusal()
    return f"{capital(why)}." if why else None


def one_at_a_time() -> AbstractContextManager[Any]:
    """The lock of this session that is held while a press changes something."""
    lock = st.session_state.setdefault("a press changes something", threading.RLock())
    return cast("AbstractContextManager[Any]", lock)


def button(label: str, *, disabled: bool = False, help: str | None = None, **options: Any) -> bool:
    """Draw a button of Streamlit; True if it was pressed."""
    why = hint()
    options = _checked(options, "on_click")
    pressed = st.button(label, disabled=disabled or bool(why), help=why or help, **options)
    return pressed and not why


def form_submit_button(label: str, **options: Any) -> None:
    """Draw the button of a form of Streamlit."""
    st.form_submit_button(
        label, disabled=not may_edit(), help=hint(), **_checked(options, "on_click")
    )


def data_editor(frame: pd.DataFrame, *, disabled: Sequence[str], **options: Any) -> None:
    """Draw a table of Streamlit in which the columns that are not `disabled` can be edited."""
    st.data_editor(frame, disabled=True if hint() else disabled, **_checked(options, "on_change"))


def file_uploader(label: str, **options: Any) -> None:
    """Draw the choice of a file of Streamlit."""
    st.file_uploader(label, disabled=not may_edit(), help=hint(), **_checked(options, "on_change"))


def _checked(options: dict[str, Any], name: str) -> dict[str, Any]:
    """The options with a callback that is refused to a reader who may change nothing."""
    if (call := options.get(name)) is None:
        return options
    lock = one_at_a_time()  # made before there can be a press

    def check_and_call(*args: Any, **kwargs: Any) -> None:
        access.check()
        with lock:
            try:
                call(*args, **kwargs)
            except ReadOnlyAccess:
                raise  # see `tell_refusal`
            except store.UnknownRun as error:
                tell(error.text)
            except (UserError, OSError) as error:
                tell(explain(error))

    return options | {name: check_and_call}


def tell(text: str) -> None:
    """In a callback: say in a toast what it did. It draws nothing itself: it runs before its
    fragment does, and a rerun of the page would drop it."""
    st.session_state[TOLD] = text


def draw_told() -> None:
    """Show what the last press did, or why it changed nothing, once."""
    if told := st.session_state.pop(TOLD, None):
        st.toast(told, duration="long")


def draw_closed(title: str) -> bool:
    """Draw why a part of the panel that only changes things is not shown; False if it is."""
    if why := hint():
        html.draw_empty(title, escape(why))
    return bool(why)


def tell_refusal(error: Exception) -> bool:
    """Say in a toast what was refused; False for another error, which Streamlit shows itself."""
    if isinstance(error, ReadOnlyAccess):
        st.toast(hint() or str(error), duration="long")
    return isinstance(error, ReadOnlyAccess)
