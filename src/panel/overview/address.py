"""The view that an address asks for: filter, order, page, columns, folding and chosen runs"""

from contextlib import suppress
from dataclasses import dataclass

import streamlit as st

from src import store
from src.panel.ui import html
from src.panel.ui.paging import query as query

FIRST_SORT = "launched"  # where the address asks for no other order
FIRST_COLUMNS = ("status", "progress", "val/exact_match", "val/loss", "duration", "launched")


@dataclass(frozen=True)
class View:
    """The list of runs that the address asks for. What it says wrong is in `problems`."""

    text: str  # the filter as typed
    found: store.RunFilter
    sort: store.Column
    ascending: bool
    columns: tuple[store.Column, ...]
    chosen: bool  # the columns
    folded: bool
    opened: tuple[str, ...]  # runs whose configs show their seeds
    problems: tuple[str, ...]


def read() -> View:
    """The view of the address; where it cannot be read, what is nearest to it."""
    problems = []
    text = st.query_params.get("find", "")
    try:
        found = store.parse_filter(text, zone=html.time_zone())
    except store.BadFilter as error:
        problems.append(str(error))
        found = store.parse_filter("")
    asked = st.query_params.get("sort", "")
    sort, columns = _column(asked.removeprefix("-")), []
    if asked and sort is None:
        problems.append(f"runs cannot be sorted by {asked}")
    sort = sort or store.find_column(FIRST_SORT)
    for name in st.query_params.get_all("columns") or FIRST_COLUMNS:
        if (column := _column(name)) is not None and column not in columns:
            columns.append(column)
    return View(
        text=text,
        found=found,
        sort=sort,
        ascending=sort.ascends != asked.startswith("-"),
        columns=tuple(columns),
        chosen="columns" in st.query_params,
        folded=st.query_params.get("group") == "true",
        opened=tuple(st.query_params.get_all("open")),
        problems=tuple(problems),
    )


def _column(name: str) -> store.Column | None:
    try:
        return TAGS if name == "tags" else store.find_column(name)
    except store.UnknownColumn:
        return None


TAGS = store.Column("tags", "run", "text")  # shown, and not sorted by


def filtered(text: str) -> dict[str, list[str]]:
    """The parameters of this address with another filter, from its first page on."""
    return query(find=text or None, page=None)


@dataclass(frozen=True)
class Selection:
    """The runs that are chosen: some by name, and all that fit a filter but some."""

    picked: tuple[str, ...]
    everything: str | None  # the filter of which all are chosen
    dropped: frozenset[str]

    def read(self, session: store.Session) -> tuple[list[store.RunState], frozenset[str]]:
        """The chosen runs that there are, and the ids of those that the filter chooses or would but
        for `dropped`."""
        base: list[store.RunState] = []
        if self.everything is not None:
            with suppress(store.BadFilter):
                base = store.states(
                    session, store.parse_filter(self.everything, zone=html.time_zone())
                )
        picked = store.states_of(session, self.picked) if self.picked else []
        inside = [run for run in base if run.id not in self.dropped]
        return list(dict.fromkeys([*picked, *inside])), frozenset(run.id for run in base)


def selection() -> Selection:
    """The choice of the address."""
    everything = st.query_params.get("all")
    dropped = frozenset(st.query_params.get_all("drop"))
    picked = tuple(dict.fromkeys(st.query_params.get_all("pick")))
    return Selection(picked, everything, dropped)


def choose_all(text: str) -> dict[str, list[str]]:
    """The parameters of this address with all runs chosen that fit the filter."""
    return query(all=text or "archived:no", pick=None, drop=None)
