"""The settings that all trials of a sweep share, by the form of a run.

The address keeps them as one text, `base.overrides`, as a sweep file has them.
"""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from src.config import (
    ConfigError,
    RunConfig,
    by_name,
    flattened,
    from_text,
    load_config,
    presets,
    to_text,
)  # fmt: skip
from src.panel.launch import widgets
from src.panel.sweeps.space import SPACE, flow, unflow
from src.panel.ui import html, query_params

NAME = "base.overrides"
# A trial has its own name, and the sweep's metric.
NOT_SHARED = frozenset({"name", "early_stopping.metric", "early_stopping.mode"})


def draw(before: Mapping[str, str], texts: Mapping[str, str], problems: Mapping[str, str]) -> None:
    """Draw the form of the settings of all trials; those that are searched are not among them."""
    preset = texts.get("base.preset", before["base.preset"])
    base = load_config(preset=preset if preset in presets() else None)
    values = _read(texts.get(NAME, before[NAME]))
    wrong = {
        name.removeprefix(f"{NAME}."): text
        for name, text in problems.items()
        if name.startswith(f"{NAME}.")
    }
    many = len(values)
    title = "Settings of all trials" + (f" · {many} changed from {preset}" if many else "")
    if wrong or NAME in problems:
        part = st.expander(title, expanded=True, key="wrong settings of all trials")
    else:
        # Closed, its sixty settings cost nothing.
        part = st.expander(title, key="shared", on_change="rerun", bind="query-params")
    with part:
        if NAME in problems:
            html.draw_problem(problems[NAME])
        if part.open is not False:
            widgets.draw_all(_form(base, before, texts, values, wrong))


def _form(
    base: RunConfig, before: Mapping[str, str], texts: Mapping[str, str],
    values: Mapping[str, Any], wrong: Mapping[str, str],
) -> widgets.Form:  # fmt: skip
    known = by_name()
    own = {name: to_text(known[name], value) for name, value in values.items() if name in known}
    try:
        config = load_config(overrides=dict(values))
    except ConfigError:
        config = None
    searched = {
        name.removeprefix(SPACE)
        for name, text in (dict(before) | dict(texts)).items()
        if name.startswith(SPACE) and text.strip()
    }

    def write(name: str, text: str | None) -> None:
        # What the address is about to say: an edit just before may not be in it yet.
        now = _read(query_params.current(NAME) or before[NAME])
        now.pop(name, None)
        if text is not None:
            now[name] = from_text(known[name], text)
        told = flow(now)
        query_params.write(NAME, None if told == before[NAME] else told)

    return widgets.Form(
        base, own, wrong, config=config, write=write, key="common", opened="common",
        without=NOT_SHARED | searched,
    )  # fmt: skip


def _read(text: str) -> dict[str, Any]:
    """{dotted name: value} of the text; empty if it is something else, which validation refuses."""
    found = unflow(text) if text.strip() else {}
    return flattened(found) if isinstance(found, dict) else {}
