"""The button that measures time and memory of a run or a sweep, beside its form."""

import json
from concurrent.futures import Future
from html import escape
from typing import Any

import streamlit as st

from src.config import RunConfig
from src.panel.access.guard import Pool
from src.panel.ui import guarded, html, navigation
from src.runs import estimate, spawn

POLL_SECONDS = 0.5

TOLD = (
    "Takes three steps on the longest rows, in about half a minute; "
    "then time and memory stand here."
)

# One at a time: each takes a slot of the machine.
_pool = Pool(max_workers=1, thread_name_prefix="preflight")


@st.cache_resource
def _begun() -> dict[str, Future[None]]:
    """{name: measurement that is running or has failed}."""
    return {}


def draw(config: RunConfig, *, held: bool) -> None:
    """Draw what has been measured of the config, and the button, disabled while `held`."""
    found = estimate.load(config)
    if found and found.fits:
        st.html(f'<p class="quiet">The run {escape(found.sentence(config))}.</p>')
    label = "Measure again" if found else "Measure what it takes"
    asked = {"run": config.model_dump(mode="json")}
    offer(estimate.measurement_file(config).name, label, asked, held=held)


def offer(name: str, label: str, asked: dict[str, Any], *, held: bool = False) -> None:
    """Draw a button that starts the worker `measure` on `asked`, or how that went.

    `name` tells measurements apart.
    """
    begun = _begun()
    if (running := begun.get(name)) and not running.done():
        st.fragment(lambda: _look(running), run_every=POLL_SECONDS)()
        return
    if running and (error := running.exception()):
        html.draw_problem(str(error))
    guarded.button(label, width="stretch", disabled=held, on_click=_begin, args=(name, asked))
    st.html(f'<p class="quiet">{TOLD}</p>')


def _begin(name: str, asked: dict[str, Any]) -> None:
    # As a callback, since a refresh of the page that ends just then would lose the press.
    _begun()[name] = _pool.submit(_measure, asked)


def _measure(asked: dict[str, Any]) -> None:
    """Measure in a subprocess: POSIX locks are per process, and the panel's lock probes would
    release the slot."""
    done = spawn.run(spawn.Worker.MEASURE, json.dumps(asked))
    if done.returncode:
        raise estimate.CannotMeasure((done.stderr.strip().splitlines() or ["no reason given"])[-1])


def _look(running: Future[None]) -> None:
    if running.done():
        navigation.rerun_page()
    st.html('<p class="quiet" role="status">Measuring three steps on the longest rows …</p>')
