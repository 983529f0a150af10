"""Problems of a form: a message at each field, a list of all that leads to the fields, and at the
button how many there are, or what is noted of a launch that is allowed.

A message and its field are tied by the field's key: fields.js tells a screen reader which one is
refused and why, and gives it the focus when its entry in the list is pressed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import streamlit as st

from src.format import as_sentence, counted, full_stop
from src.panel.ui import folds, html


@dataclass(frozen=True)
class Problem:
    """Why a value cannot be used."""

    label: str  # of its field; empty for what concerns the whole form
    text: str
    field: str | None = None  # key of the widget, if the page has one


_fields = st.components.v2.component(
    "spelltune.fields",
    js=Path(__file__).with_name("fields.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def draw_at(field: str, text: str) -> None:
    """Draw why the value of a field is refused, below that field."""
    told = html.with_code(as_sentence(text))
    st.html(folds.folded("problem", told, field=_css(field)))


def draw_at_button(found: Iterable[Problem], notes: Iterable[Problem]) -> None:
    """Draw how many problems there are, and at which fields; where none holds the launch, of how
    many values the form warns, which leads to the fields. The room for it is there always."""
    refused, noted = list(found), list(notes)
    told, state = "", ""
    if refused:
        fields = escape(", ".join(one.label for one in refused))
        told = f"<b>{counted(len(refused), 'problem')}:</b> {fields}"
    elif noted:
        fields = ", ".join(map(_label, noted))
        told, state = f"<b>{counted(len(noted), 'warning')}:</b> {fields}", " warns"
    st.html(f'<p class="at-button{state}">{told}</p>')


def draw_list(found: Iterable[Problem]) -> None:
    """Draw all problems of a form; nothing is seen where there are none."""
    items = "".join(
        f"<li>{_label(one)} {html.with_code(full_stop(one.text))}</li>" for one in found
    )
    if items:
        st.html(f'<div class="problem" role="alert">Before the launch:<ul>{items}</ul></div>')
    _fields(key="fields", data={})


def _label(problem: Problem) -> str:
    """HTML: the name of the field, which leads to it."""
    if not problem.label:
        return ""
    if problem.field is None:
        return f"<b>{escape(problem.label)}</b>"
    return f'<a href="#" data-to="{_css(problem.field)}">{escape(problem.label)}</a>'


def _css(key: str) -> str:
    """The class that Streamlit gives the widget of a key."""
    return "st-key-" + re.sub(r"[^a-zA-Z0-9_-]", "-", key.strip())
