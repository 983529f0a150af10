"""The filters of the Errors page: which rows pass them, and links that set them."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from html import escape
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

# Title of an order -> column and whether it ascends.
ORDERS = {
    "most edits": ("edit_distance", False),
    "fewest edits": ("edit_distance", True),
    "question, A to Z": ("question", True),
    "expected, A to Z": ("expected", True),
}
DISTANCES = {"any": (0, None), "1": (1, 1), "2": (2, 2), "3": (3, 3), "4 or more": (4, None)}


# Filters that no widget sets, only a click on a chart.
FROM_CHARTS = {
    "at": re.compile(r"\d{1,3}"),
    "letters": re.compile(r".?>.?"),
    "letter": re.compile(r"\S"),
}
OF_ERRORS = ("wrong", "kind", "distance", "at", "letters", "outcome")  # right words pass none


def tests(
    frame: pd.DataFrame, changes: pd.DataFrame, asked: Mapping[str, str]
) -> dict[str, pd.Series]:
    """{filter: which rows pass it} for the filters that are on. `changes` are the edits of the rows
    (errors.edit_table); of two models beside each other one that passes is enough."""

    def either(name: str) -> list[str]:
        return [c for c in frame.columns if c in (name, f"{name}_a", f"{name}_b")]

    def passes(name: str, value: str) -> pd.Series:
        if name == "find":
            columns = ["question", "expected", *either("predicted")]
            wanted = value.strip().casefold()
            return frame[columns].apply(
                lambda c: c.str.casefold().str.contains(wanted, regex=False)
            ).any(axis=1)  # fmt: skip
        if name == "distance":
            low, high = DISTANCES[value]
            most = float("inf") if high is None else high
            return frame[either("edit_distance")].apply(lambda c: c.between(low, most)).any(axis=1)
        if name == "wrong":
            return ~frame[either("correct")].all(axis=1)
        if name == "at":
            return pd.Series(
                frame.index.isin(changes.index[changes["at"] == int(value)]), frame.index
            )
        if name == "letters":
            was, now = (value[:1], value[2:]) if value[1:2] == ">" else ("", value[1:])
            found = (changes["what"] != "swap") & (changes["was"].str.lower() == was)
            found &= changes["now"].str.lower() == now
            return pd.Series(frame.index.isin(changes.index[found]), frame.index)
        if name == "letter":
            return frame["expected"].str.lower().str.contains(value, regex=False)
        if name in ("length", "tokens"):
            column = {"tokens": "answer_tokens"}.get(name, name)
            return frame[column] == int(value)
        return (frame[either(name)] == value).any(axis=1)

    return {name: passes(name, value) for name, value in asked.items()}


def passing(
    tests: Mapping[str, pd.Series], frame: pd.DataFrame, *, but: Iterable[str] = ()
) -> pd.DataFrame:
    """The rows that pass all tests; those of the names in `but` do not count."""
    kept = [test for name, test in tests.items() if name not in tuple(but)]
    return frame[np.logical_and.reduce(kept)] if kept else frame


def ordered(frame: pd.DataFrame, order: str) -> pd.DataFrame:
    column, ascending = ORDERS[order]
    if column not in frame:
        column = f"{column}_b"
    return frame.sort_values(
        [column, "question"], ascending=[ascending, True], kind="stable", ignore_index=True
    )


# --- links that filter ----------------------------------------------------------------------------

# Styles of links whose text alone says little.
MARKS = ("row", "row two", "cell", "column")


class FilterLinks:
    """The page's address, from which each link keeps what it does not change."""

    def __init__(self) -> None:
        self.query = {k: v for k, v in st.query_params.items() if k != "page"}
        self._rest = cache(self._without)

    def _without(self, names: tuple[str, ...]) -> str:
        rest = {k: v for k, v in self.query.items() if k not in names}
        return f"errors?{urlencode(rest)}" + "&" * bool(rest)

    def link(self, text: str, title: str, sets: Mapping[str, object], style: str = "") -> str:
        """HTML: `text` (HTML) that sets filters, and takes off those that are on or set to None;
        `title` (text) says what it stands for, and is its name where it is a mark in a chart."""
        on = all(self.query.get(name) == str(value) for name, value in sets.items())
        wanted = {k: v for k, v in sets.items() if v is not None and not on}
        href = escape((self._rest(tuple(sets)) + urlencode(wanted)).rstrip("&"))
        told = escape(title)
        name = f' aria-label="{told}"' if style in MARKS else ""
        return (
            f'<a class="inner {style}" href="{href}" target="_self" '
            f'title="{told}"{name}{" aria-current=true" if on else ""}'
            f">{text}</a>"
        )
