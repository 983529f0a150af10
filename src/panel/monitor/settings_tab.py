"""The settings of a run: what differs from its preset, all of them, and what the trainer used."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import streamlit as st

from src import setting_labels
from src.config import ConfigError, get, settings, stored_config, to_text
from src.format import cut, setting_value
from src.panel.launch import form
from src.panel.ui import html
from src.store.tables import Run

MAX_LETTERS = 120  # of a value; longer ones are in the raw list alone


def draw(run: Run) -> None:
    """Draw the changes, then all settings and what was used, folded, in words and as JSON."""
    st.html(form.changes_table(run.config))
    used = [[escape(name), escape(value)] for name, value in _used(run.used)]
    st.html(html.table({"What the trainer used": "fit", "Value": ""}, used, name="pairs"))
    with st.expander("All settings of this run", key="all settings"):
        st.html(_all(run))
    with st.expander("As JSON", key="raw settings"):
        st.json({"config": run.config, "used": run.used}, expanded=1)


def _all(run: Run) -> str:
    try:
        config = stored_config(run.config)
    except ConfigError as error:
        return f'<p class="problem">{escape(str(error))}</p>'
    rows = (
        [
            escape(setting_labels.label(one.name)),
            f"<code>{escape(one.name)}</code>",
            html.printable(to_text(one, get(config, one.name))) or "none",
        ]
        for one in settings()
    )
    return html.table({"Setting": "", "Name": "fit", "Value": ""}, rows, name="pairs")


def _used(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Pairs of a name in words and a value; those of a mapping one by one."""
    for name, value in values.items():
        called = f"{above}{name.replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            yield from _used(value, f"{called}: ")
            continue
        text = setting_value(value) if not isinstance(value, bool) else "yes" if value else "no"
        if isinstance(value, list) and value and not isinstance(value[0], str | int | float):
            text = json.dumps(value, ensure_ascii=False)
        yield called, cut(text, MAX_LETTERS)
