"""Notes on the trials of a sweep: in its form before the launch, and on its page after it."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from src.config import RunConfig
from src.format import as_sentence
from src.panel.launch import data_check
from src.panel.ui import folds
from src.runs import checks
from src.sweeps import trial_checks
from src.sweeps.file import SweepConfig

LAUNCHED = "notes on the launched sweep"  # in the state of the session


def draw(sweep: SweepConfig, base: RunConfig) -> None:
    """Draw what works against the aim of trials that are known before the launch. Their data are
    read in a thread, and not at all where a sweep searches over them."""
    preview, reads = None, not checks.previewed() & sweep.space.keys()
    if reads:
        preview, _ = data_check.check(base)
    for note in trial_checks.notes(sweep, base, preview):
        folds.draw("note", escape(as_sentence(note)))
    if reads and not data_check.begun(base).done():
        data_check.wait_beside(base)


def keep(sweep_id: str, notes: Sequence[str]) -> None:
    """Keep the notes that the launch of a sweep told, for its page."""
    if notes:  # a second press launches nothing and has none
        st.session_state[LAUNCHED] = sweep_id, list(notes)


def of_launch(sweep_id: str) -> list[str]:
    """Notes on the trials and data of the sweep that was launched from here last."""
    of, notes = st.session_state.get(LAUNCHED, (None, []))
    return notes if of == sweep_id else []
