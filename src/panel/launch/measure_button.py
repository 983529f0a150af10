"""The button that measures time and memory of a run or a sweep, beside its form."""

import json
import threading
from concurrent.futures import Future
from html import escape
from typing import Any

import streamlit as st

from src import paths, store
from src.config import RunConfig, usable_machine
from src.format import as_sentence, duration, money
from src.panel.access.guard import Pool
from src.panel.ui import guarded, html, navigation
from src.runs import estimate, preset_cards, spawn
from src.runs.machine import slot_count
from src.runs.time_left import Earlier

POLL_SECONDS = 0.5

MEASURE = "Measure what it takes"
UNKNOWN = "How long it takes here is not known yet."
TOLD = (
    "Takes three steps on the longest rows, in about half a minute, and tells the memory and the "
    "longest time."
)

# One at a time: each takes a slot of the machine.
_pool = Pool(max_workers=1, thread_name_prefix="preflight")
_beginning = threading.Lock()


@st.cache_resource
def _begun() -> dict[str, Future[None]]:
    """{name: measurement that is running or has failed}."""
    return {}


def draw(config: RunConfig | None, *, many: int, held: bool) -> None:
    """Draw what so many runs of the config will take, what has been measured of it, and the button,
    disabled while `held`. None is a config that is refused, of which nothing is known."""
    known, each = expected(config) if config else None, " each" if many > 1 else ""
    told = known + each if known else guessed(config, each) if config else None
    told = as_sentence(told) if told else UNKNOWN
    st.html(f'<p class="{"claim" if known else "quiet unknown"}">{escape(told)}</p>')
    if config is None:
        guarded.button(MEASURE, width="stretch", disabled=True)
        st.html(f'<p class="quiet">{TOLD}</p>')
        return
    found = estimate.load(config)
    if found and found.fits:
        st.html(f'<p class="quiet">The run {escape(found.sentence(config))}.</p>')
    label = "Measure again" if found else MEASURE
    asked = {"run": config.model_dump(mode="json")}
    offer(estimate.measurement_file(config).name, label, asked, held=held)


def expected(config: RunConfig) -> str | None:
    """`≈ 2 min 1 s here, ≈ 0.08 USD`, by completed runs of this machine or what was measured; None
    where nothing is known."""
    seconds, ran = _seconds(str(paths.home()), config.model_dump_json())
    if seconds is None:
        return None
    sign, settings = "≈" if ran else "at most", usable_machine()
    cost = settings.cost_of(seconds / slot_count())
    spent = "" if cost is None else f", {sign} {money(cost, settings.currency)}"
    return f"{sign} {duration(seconds)} here{spent}"


@st.cache_data(ttl=20, show_spinner=False)  # runs end meanwhile, and measurements
def _seconds(home: str, config: str) -> tuple[float | None, bool]:
    with store.reading() as session:
        return Earlier(session).of_config(RunConfig.model_validate_json(config))


def guessed(config: RunConfig, each: str = "") -> str | None:
    """`Estimate: ≈ 2 min 1 s (on two CPU cores)`, where a preset like it was measured there."""
    if (found := preset_cards.elsewhere(config)) is None:
        return None
    seconds, hardware = found
    return f"Estimate: ≈ {duration(seconds)}{each} (on {hardware})"


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
    begun = _begun()
    with _beginning:  # two tabs may ask at once
        if (running := begun.get(name)) is None or running.done():
            begun[name] = _pool.submit(_measure, asked)


def _measure(asked: dict[str, Any]) -> None:
    """Measure in a subprocess: POSIX locks are per process, and the panel's lock probes would
    release the slot."""
    done = spawn.run(spawn.Worker.MEASURE, json.dumps(asked))
    if done.returncode:
        raise estimate.CannotMeasure((done.stderr.strip().splitlines() or ["no reason given"])[-1])


def _look(running: Future[None]) -> None:
    if running.done():
        _seconds.clear()
        navigation.rerun_page()
    st.html('<p class="quiet" role="status">Measuring three steps on the longest rows …</p>')
