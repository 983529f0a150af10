"""The presets as cards, of which one is chosen; what was changed in the form stays."""

from html import escape

import streamlit as st

from src import paths, store
from src.format import duration, percent
from src.models.metrics import short_label
from src.panel.ui import chooser, query_params
from src.runs import machine, preset_cards
from src.runs.preset_cards import Card, Expected

SECONDS = 20  # for which what runs came to is remembered: it changes when one ends
NEEDS_GPU = "needs an NVIDIA GPU"


def draw(origin: str) -> None:
    """Draw the cards, and one of the run that the form starts from, where it starts from a run."""
    found, has_gpu = _read(str(paths.home()))
    cards = preset_cards.cards()
    usable = {name: has_gpu or not card.needs_gpu for name, card in cards.items()}
    shown = "" if origin in cards else _of_run(origin)
    shown += "".join(
        _card(name, cards[name], found[name], chosen=name == origin)
        for name in cards
        if usable[name]
    )
    off = "".join(
        _off(name, cards[name], chosen=name == origin) for name in cards if not usable[name]
    )
    shown = f'<div class="cards presets">{shown}</div>'
    off = f'<div class="cards presets">{off}</div>' if off else ""
    content = f'<div class="presets" role="group" aria-label="Start from">{shown}{off}</div>'
    chooser.draw(content, key="preset cards", on_choose=_choose)


def _choose(preset: str) -> None:
    query_params.write("from", None)
    query_params.write("preset", preset)


@st.cache_data(ttl=SECONDS, show_spinner=False)
def _read(home: str) -> tuple[dict[str, Expected], bool]:
    with store.reading() as session:
        return preset_cards.expected(session, preset_cards.cards()), bool(machine.gpus())


def _of_run(run_id: str) -> str:
    """HTML of the card of a run: what it is called, and what it came to."""
    with store.reading() as session:
        run = store.find(session, run_id)
        status, score = store.run_outcomes(session, [run_id], preset_cards.METRIC)[run_id]
    ends = ""
    if status.ended and score is not None:
        ends = _score(score)
    if status.ended and run.seconds is not None:
        ends += f"<span>{duration(run.seconds)}</span>"
    return (
        f'<div class="card preset" aria-current="true"><b>{escape(store.label_of(run))}</b>'
        f"<span>The settings of this run.</span><small>{escape(run_id)}</small>"
        f'<span class="ends">{ends}</span></div>'
    )


def _card(name: str, card: Card, comes_to: Expected, *, chosen: bool) -> str:
    """HTML of a preset that this machine can train."""
    score, by, time = "", "", comes_to.time or "not timed yet"
    if comes_to.score is not None:
        score = _score(comes_to.score)
        # Where both were measured at one place it is named once.
        by = "" if time.endswith(comes_to.score_by) else f"<small>{comes_to.score_by}</small>"
    return (
        f'<button type="button" class="card preset" data-choose="{escape(name)}"{_current(chosen)}>'
        f"<b>{escape(name)}</b><span>{escape(card.teaches)}</span>"
        f"<small>{escape(card.model)}</small>"
        f'<span class="ends">{score}<span>{escape(time)}</span></span>{by}</button>'
    )


def _score(score: float) -> str:
    """HTML of a score and what it is."""
    called = short_label(preset_cards.METRIC)
    return f'<span><b class="score">{percent(score)}</b> <small>{called}</small></span>'


def _off(name: str, card: Card, *, chosen: bool) -> str:
    """HTML of a preset that is made for other machines: no link, though its address works."""
    return (
        f'<div class="card preset off"{_current(chosen)}><b>{escape(name)}</b>'
        f"<small>{escape(card.model)}</small><small>{NEEDS_GPU}</small></div>"
    )


def _current(chosen: bool) -> str:
    return ' aria-current="true"' if chosen else ""
