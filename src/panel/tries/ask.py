"""The question of a session: asked in a thread, waited for beside the page, which never waits."""

import json
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from html import escape

import streamlit as st

from src.errors import UserError, explain
from src.panel.access.guard import Pool
from src.panel.ui import guarded, html, navigation
from src.runs.answering import Answering
from src.training.questions import Answer, Speller

POLL_SECONDS = 0.3
KEY = "tried question"
Rows = list[list[Answer]]

# One at a time: there is one process that answers.
_pool = Pool(max_workers=1, thread_name_prefix="answers")


@st.cache_resource
def _answering() -> Answering:
    return Answering()


@dataclass
class _Asked:
    """A question that is being answered, or was."""

    key: str
    phase: str = "waiting for another question"
    future: "Future[Rows] | None" = None

    def tell(self, phase: str) -> None:
        self.phase = phase


def answers(spellers: Sequence[Speller], texts: Sequence[str]) -> Rows | None:
    """The answers to this session's question, a row for each text; None while they are waited for
    or where a sentence says why there are none. Never waits."""
    stamps = [one.adapter.stat().st_mtime_ns for one in spellers if one.adapter]
    key = json.dumps([[one.document() for one in spellers], stamps, list(texts)])
    asked: _Asked | None = st.session_state.get(KEY)
    if asked is None or asked.key != key:
        if asked is not None and asked.future is not None:
            asked.future.cancel()  # has an effect only while another question is answered
        asked = _Asked(key)
        asked.future = _pool.submit(_answering().ask, spellers, texts, asked.tell)
        st.session_state[KEY] = asked
    future = asked.future
    assert future is not None
    if not future.done():
        st.fragment(lambda: _draw_waiting(asked, future), run_every=POLL_SECONDS)()
        return None
    try:
        return future.result()
    except CancelledError:
        html.draw_problem("stopped before it was asked")
    except (UserError, OSError) as error:  # OSError: the process could not be started
        html.draw_problem(explain(error))
    return None


def ask_again() -> None:
    """In a callback: ask once more where no answers came."""
    asked: _Asked | None = st.session_state.get(KEY)
    if asked is None or asked.future is None or not asked.future.done():
        return
    if asked.future.cancelled() or asked.future.exception():
        del st.session_state[KEY]


def _draw_waiting(asked: _Asked, future: "Future[Rows]") -> None:
    if future.done():
        navigation.rerun_page()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="quiet" role="status">{escape(asked.phase)} …</p>')
        guarded.button("Stop", on_click=_stop, args=(future,))


def _stop(future: "Future[Rows]") -> None:
    if not future.cancel() and not future.done():
        _answering().stop()
