"""Notifications of what ended: the services that are set, a test of them, and this browser."""

from html import escape
from typing import Any

import streamlit as st

from src.errors import UserError, explain
from src.format import duration
from src.panel.ui import desktop, guarded, html
from src.runs import notifications
from src.sweeps import messages

HEAD = {"Service": "", "From": "fit", "Last message": ""}
SOURCES = {"environment": "the environment", "file": "this home"}
NONE_SET = (
    "No service is set. `spelltune notify add` in a terminal sets one: Telegram, Slack, e-mail and "
    "some hundred others, or a webhook. A URL is a secret: this page neither takes nor shows one."
)
SENDING, RESULT = "test of services", "result of the test"


def draw() -> None:
    """Draw the section."""
    st.html("<h2>Notifications</h2>")
    st.fragment(_draw_services)()
    desktop.draw_button()
    told = "".join(f"<li>{html.with_code(text)}</li>" for text in messages.TOLD_OF)
    st.html(f'<p class="quiet">Each of them tells you that</p><ul class="quiet">{told}</ul>')


def _draw_services() -> None:
    try:
        state = notifications.state()
    except (UserError, OSError) as error:
        html.draw_problem(explain(error))
        return
    if not state:
        st.html(f'<p class="quiet">{html.with_code(NONE_SET)}</p>')
        return
    st.html(html.table(HEAD, map(_row, state), name="services"))
    sending = st.session_state.get(SENDING, False)
    guarded.button("Send a test", disabled=sending, on_click=_begin_test)
    if sending:
        with st.spinner("Sending; a service that does not answer takes 20 s …"):
            st.session_state[RESULT] = _sent()
        st.session_state[SENDING] = False
        st.rerun(scope="fragment")
    for text, good in st.session_state.pop(RESULT, ()):
        mark = "quiet" if good else "problem"
        st.html(f'<p class="{mark}" role="status">{escape(text)}</p>')


def _begin_test() -> None:
    st.session_state[SENDING] = True


def _sent() -> list[tuple[str, bool]]:
    """A sentence on each service, and whether it took the test."""
    try:
        found = notifications.send_test()
    except (UserError, OSError) as error:
        return [(explain(error), False)]
    return [
        (f"{one['name']}: " + (one["problem"] or "the test is sent, and was taken") + ".",
         one["problem"] is None)
        for one in found
    ]  # fmt: skip


def _row(one: dict[str, Any]) -> list[str]:
    last = "none yet"
    if one["last_seconds"] is not None:
        last = f"{one['last_problem'] or 'taken'}, {duration(one['last_seconds'])} ago"
    return [
        f"{one['number']} {escape(one['name'])}",
        SOURCES[one["source"]],
        escape(one["problem"] or last),
    ]
