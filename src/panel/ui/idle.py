"""The countdown of an idle machine on every page, and the pages that keep it from being idle."""

import time
from pathlib import Path

import streamlit as st
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from src.runs import idle

IN_FRONT, KEEP_ON = "in-front", "keep-on"  # addresses that a page posts to

_watch = st.components.v2.component(
    "spelltune.idle",
    js=Path(__file__).with_name("idle.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def watch() -> None:
    """Have the browser tell that the page is read, and show a countdown."""
    _watch(key="idle")


def in_front(_request: Request) -> Response:
    """Note that a page is in front of a reader; the seconds that are left of a countdown.

    `watching` is false where nobody wants to know.
    """
    if idle.settings() is None:
        return JSONResponse({"watching": False, "seconds": None, "command": None})
    idle.page_is_seen()
    found = idle.countdown()
    left = None if found is None or found.runs_at is None else found.runs_at - time.time()
    command = found.command if found else None
    return JSONResponse({"watching": True, "seconds": left, "command": command})


def keep_on(_request: Request) -> Response:
    """Keep an idle machine on."""
    idle.keep_on()
    return JSONResponse({})
