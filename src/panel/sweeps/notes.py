"""Notes on the trials of a sweep: in its form before the launch, and on its page after it."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import streamlit as st

from src import setting_labels
from src.config import RunConfig, by_name
from src.format import as_sentence
from src.panel.launch import data_check
from src.panel.sweeps import space
from src.panel.ui import folds
from src.panel.ui.problems import Problem
from src.runs import checks
from src.sweeps import trial_checks
from src.sweeps.file import SweepConfig

LAUNCHED = "notes on the launched sweep"  # in the state of the session


def found(sweep: SweepConfig, base: RunConfig) -> dict[str, str]:
    """{setting: what works against the aim of trials that are known before the launch}. Their data
    are read in a thread, and not at all where a sweep searches over them."""
    preview = data_check.check(base)[0] if _reads(sweep) else None
    return trial_checks.notes(sweep, base, preview)


def _reads(sweep: SweepConfig) -> bool:
    return not checks.previewed() & sweep.space.keys()


def listed(noted: Mapping[str, str], texts: Mapping[str, str]) -> list[Problem]:
    """The notes with what their settings are called, and where those are that are searched."""
    known = by_name()
    listed = []
    for name, text in noted.items():
        tried = texts.get(space.SPACE + name, "").strip()
        field = space.key_of(known[name], tried) if tried else None
        listed.append(Problem(setting_labels.label(name), text, field))
    return listed


def draw(noted: Iterable[str], sweep: SweepConfig, base: RunConfig) -> None:
    """Draw the notes that were found, and that the data are read while they are."""
    for note in noted:
        folds.draw("note", escape(as_sentence(note)))
    if _reads(sweep) and not data_check.begun(base).done():
        data_check.wait_beside(base)


def keep(sweep_id: str, notes: Sequence[str]) -> None:
    """Keep the notes that the launch of a sweep told, for its page."""
    if notes:  # a second press launches nothing and has none
        st.session_state[LAUNCHED] = sweep_id, list(notes)


def of_launch(sweep_id: str) -> list[str]:
    """Notes on the trials and data of the sweep that was launched from here last."""
    of, notes = st.session_state.get(LAUNCHED, (None, []))
    return notes if of == sweep_id else []
