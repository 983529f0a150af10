"""Notifications of the reader's browser, of what ends while a page of the panel is open."""

from pathlib import Path
from typing import Any

import streamlit as st
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from src import store
from src.panel.ui import navigation
from src.store.tables import Notice
from src.sweeps import messages

NOTICES = "notices"  # address that the browser asks for what is new
MAX_NOTICES = 5  # a browser that slept does not show more
HTML = '<button type="button" class="plain"></button><p class="quiet" role="status"></p>'

_JS = Path(__file__).with_name("desktop.js").read_text(encoding="utf-8")
_watch = st.components.v2.component("spelltune.desktop", js=_JS, isolate_styles=False)
_button = st.components.v2.component(
    "spelltune.desktop_button", html=HTML, js=_JS, isolate_styles=False
)


def watch() -> None:
    """Have the browser look for what ended, on every page, where its reader asked for it."""
    _watch(key="desktop")


def draw_button() -> None:
    """Draw the button with which a reader asks for it."""
    _button(key="desktop-button")


def notices(request: Request) -> Response:
    """The notices after `after` in words, and the id of the latest one; without it that alone."""
    given = request.query_params.get("after")
    try:
        after = None if given is None else int(given)
    except ValueError:
        return JSONResponse({"problem": "after is the id of a notice"}, status_code=400)
    with store.reading() as session:
        last = store.last_notice(session)
        new = [] if after is None else store.recent(session, after=after, limit=MAX_NOTICES)
        found = [_in_words(session, one) for one in new]
    return JSONResponse({"last": last, "notices": [one for one in found if one]})


def _in_words(session: store.Session, notice: Notice) -> dict[str, Any] | None:
    told = messages.message(session, notice)
    if told is None:
        return None
    address = None
    if notice.kind in messages.OF_RUNS:
        address = navigation.address("monitor", {"run": notice.subject})
    elif notice.kind in messages.OF_SWEEPS:
        address = navigation.address("sweeps", {"sweep": notice.subject})
    return {"id": notice.id, "title": told.title, "body": told.body, "address": address}
