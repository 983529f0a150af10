"""The filters of the Errors page: their widgets, and which rows pass them.

All filters stand in the address: most have a widget, the others are set by a click on a chart.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from src.analysis import paired
from src.analysis.kinds import KINDS
from src.panel.errors.links import FilterLinks
from src.panel.ui import choices, html
from src.text import caseless, composed

BOUND: dict[str, Any] = {"bind": "query-params"}

# Title of an order -> column and whether it ascends.
ORDERS = {
    "most edits": ("edit_distance", False),
    "fewest edits": ("edit_distance", True),
    "question, A to Z": ("question", True),
    "expected, A to Z": ("expected", True),
}
DISTANCES = {"any": (0, None), "1": (1, 1), "2": (2, 2), "3": (3, 3), "4 or more": (4, None)}

# Filters that only a click on a chart sets -> the values that the address may give them.
FROM_CHARTS = {
    "at": re.compile(r"\d{1,3}"),
    "letters": re.compile(r".?>.?"),
    "letter": re.compile(r"\S"),
}
CHIPS = {"at": "place {}", "letters": "letters {}", "letter": "with the letter {}"}

# Filters that no correctly spelled word passes.
OF_ERRORS = ("wrong", "kind", "distance", "at", "letters", "outcome")


# --- widgets --------------------------------------------------------------------------------------


def draw(frame: pd.DataFrame) -> tuple[dict[str, str], str]:
    """Draw the widgets; return {filter: value} of the active filters, and the order of the rows."""
    active: dict[str, str] = {}

    def select(label: str, name: str, options: Iterable[Any], width: int) -> None:
        chosen = st.selectbox(label, ["any", *map(str, options)], width=width, key=name, **BOUND)
        if chosen != "any":
            active[name] = chosen

    if "outcome" in frame:
        counts = {paired.NO_WORD: int(paired.no_words(frame).sum())}
        counts = frame["outcome"].value_counts().to_dict() | counts
        tabs = ["any", *paired.OUTCOMES[:2], paired.NO_WORD, *paired.OUTCOMES[2:]]
        called = {name: f"{name} {counts.get(name, 0):,}" for name in tabs}
        called["any"] = f"all {len(frame) - counts.get(paired.OUTCOMES[-1], 0):,}"
        chosen = choices.segment("Outcome", tabs, called.__getitem__, key="outcome")
        if chosen != "any":
            active["outcome"] = chosen
    with st.container(horizontal=True, vertical_alignment="bottom", key="word-filters"):
        find = st.text_input("Find", placeholder="some letters", width=130, key="find", **BOUND)
        if find.strip():
            active["find"] = find
        html.draw_switch("Filters and order")
        with st.container(horizontal=True, vertical_alignment="bottom", key="more-filters"):
            if frame["task"].nunique() > 1:
                select("Task", "task", sorted(frame["task"].unique()), 120)
            select("Kind", "kind", _kinds(frame), 160)
            select("Length", "length", sorted(frame["length"].unique()), 85)
            if "answer_tokens" in frame:
                select("Tokens", "tokens", sorted(frame["answer_tokens"].unique()), 85)
            select("Edit distance", "distance", list(DISTANCES)[1:], 110)
            order = st.selectbox("Order", list(ORDERS), width=150, key="order", **BOUND)
            show_right = st.toggle("Right words too", key="every", **BOUND)
        if not show_right and active.get("outcome") != paired.OUTCOMES[-1]:
            active["wrong"] = ""
    for name, form in FROM_CHARTS.items():
        value = composed(st.query_params.get(name, ""))
        if form.fullmatch(value):
            active[name] = value
    _draw_chips(active)
    return active, order


def _kinds(frame: pd.DataFrame) -> list[str]:
    """The kinds to choose from: of misspelling, or those of the task that a suite asks."""
    there = {str(kind) for c in ("kind", "kind_a", "kind_b") if c in frame for kind in frame[c]}
    own = sorted(there - {""} - KINDS.keys())
    return own + [kind for kind in KINDS if not own or kind in there]


def _draw_chips(active: Mapping[str, str]) -> None:
    """Draw a chip for each filter that a click on a chart set; a click on the chip clears it."""
    links = FilterLinks()
    shown = [
        links.link(
            f"{html.printable(label.format(active[name]))} ×", "Take this filter off",
            {name: active[name]}, "chip",
        )
        for name, label in CHIPS.items() if name in active
    ]  # fmt: skip
    if clearable := {name: None for name in active if name != "wrong"}:
        shown.append(links.link("Clear all", "Take all filters off", clearable))
        st.html(f'<p class="chips">{" ".join(shown)}</p>')


# --- rows -----------------------------------------------------------------------------------------


def masks(
    frame: pd.DataFrame, edits: pd.DataFrame, active: Mapping[str, str]
) -> dict[str, pd.Series]:
    """{filter: boolean mask of the rows that pass it} for the active filters.

    `edits` is `misspellings.edit_table` of the rows. If the frame holds the answers of two models
    (columns ending in _a and _b), a row passes if either answer does.
    """

    def columns(name: str) -> list[str]:
        return [c for c in frame.columns if c in (name, f"{name}_a", f"{name}_b")]

    def has_edit(chosen: pd.Series) -> pd.Series:
        return pd.Series(frame.index.isin(edits.index[chosen]), frame.index)

    def mask(name: str, value: str) -> pd.Series:
        match name:
            case "find":
                text = frame[["question", "expected", *columns("predicted")]]
                part = caseless(value.strip())
                return text.map(lambda cell: part in caseless(cell)).any(axis=1)
            case "distance":
                low, high = DISTANCES[value]
                limit = float("inf") if high is None else high
                distances = frame[columns("edit_distance")]
                return distances.apply(lambda c: c.between(low, limit)).any(axis=1)
            case "outcome" if value == paired.NO_WORD:
                return paired.no_words(frame)
            case "wrong":
                return ~frame[columns("correct")].all(axis=1)
            case "at":
                return has_edit(edits["at"] == int(value))
            case "letters":
                was, now = (value[:1], value[2:]) if value[1:2] == ">" else ("", value[1:])
                same_was = edits["was"].str.lower() == was
                same_now = edits["now"].str.lower() == now
                return has_edit((edits["what"] != "swap") & same_was & same_now)
            case "letter":
                return frame["expected"].str.lower().str.contains(value, regex=False)
            case "length":
                return frame["length"] == int(value)
            case "tokens":
                return frame["answer_tokens"] == int(value)
            case _:
                return (frame[columns(name)] == value).any(axis=1)

    return {name: mask(name, value) for name, value in active.items()}


def passing(
    masks: Mapping[str, pd.Series], frame: pd.DataFrame, *, ignoring: Iterable[str] = ()
) -> pd.DataFrame:
    """The rows that pass all filters, except those of the names in `ignoring`."""
    ignored = frozenset(ignoring)
    counted = [mask for name, mask in masks.items() if name not in ignored]
    return frame[np.logical_and.reduce(counted)] if counted else frame


def ordered(frame: pd.DataFrame, order: str) -> pd.DataFrame:
    """The rows in one of ORDERS; of two models, by the second one's edits."""
    column, ascending = ORDERS[order]
    if column not in frame:
        column = f"{column}_b"
    return frame.sort_values(
        [column, "question"], ascending=[ascending, True], kind="stable", ignore_index=True
    )
