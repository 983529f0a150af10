"""The trials of a sweep as a table, which a narrow window shows as cards: found by words and
conditions, sorted by a column, a page at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from src import setting_labels, store
from src.format import as_sentence, capital, counted, duration, setting_value
from src.models.metrics import in_words, is_share, metric_label, value_text
from src.panel.sweeps import table
from src.panel.ui import (
    choices,
    downloads,
    html,
    navigation,
    paging,
    parallel,
    query_params,
    sparkline,
)
from src.panel.ui import tags as tag_words
from src.store import run_filter
from src.sweeps import ranking
from src.sweeps.results import SweepResults

MAX_STICKY = 9  # narrow columns that fit 1,000 pixels: then the head stays in view


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str  # as sorted by: of the frame
    head: str
    css: str
    ascends: bool  # its smallest value comes first


def draw(found: SweepResults) -> None:
    """Draw the fields that find and sort, the rows of a page, and what to do with them."""
    columns = _columns(found)
    with st.container(horizontal=True, vertical_alignment="bottom", key="trials-head"):
        find = st.text_input(
            "Find", placeholder="words, or score > 0.5", key="find", bind="query-params", width=360,
            on_change=query_params.write, args=("page", None),
            help="Words of names, outcomes, reasons and tags, and conditions on `score`, `test`, "
            "`step`, `seconds` or a searched setting: `learning_rate > 0.003`.",
        )  # fmt: skip
        order = choices.one(
            "Order by", [end + column.name for column in columns for end in ("", "-")],
            lambda asked: _order_name(columns, asked), key="sort", width=300,
        )  # fmt: skip
    if wrong := table.unknown(found.trials, find):
        html.draw_problem(wrong)
    kept = table.matching(found.trials, find)
    of = counted(len(found.trials), "trial")
    if kept.empty:
        every = navigation.link("sweeps", "Show all", paging.query(find=None, page=None))
        html.draw_empty("No trial fits", f"0 of {of}. {every}")
        return
    by = next(column for column in columns if column.name == order.removeprefix("-"))
    ascending = by.ascends != order.startswith("-")
    kept = _sorted(kept, by.name, ascending)
    page = paging.page_of_address(len(kept))
    shown = kept.iloc[page * paging.ROWS : (page + 1) * paging.ROWS]
    st.html(_table(found, columns, shown, by, ascending))
    with st.container(horizontal=True, vertical_alignment="center"):
        query = {"find": run_filter.term_of("sweep", found.row.id)}
        link = navigation.link("overview", "Tag, compare or delete some of them", query)
        told = f"{len(kept):,} of {of}. {link}"
        pages = paging.pager("sweeps", page, len(kept), "trial")
        st.html(f'<p class="quiet">{told}</p>{pages}')
        downloads.draw(ranking.shown(kept, found.sweep), found.row.id)


def _columns(found: SweepResults) -> list[Column]:
    """The columns by which the trials can be sorted; the first one sorts them at first."""
    title = metric_label(found.sweep.metric)
    columns = [
        Column("score", capital(title), "num", found.sweep.mode == "min"),
        Column("trial", "Trial", "", True),
    ]
    for name in found.sweep.space:
        tried = [value for value in found.trials[name] if ranking.is_searched(value)]
        numbers = all(map(parallel.is_number, tried))
        columns.append(Column(name, setting_labels.label(name), "num" if numbers else "fit", True))
    columns.append(Column("became", "Outcome", "fit", True))
    if found.trials["test"].notna().any():
        columns.append(Column("test", capital(metric_label("test/exact_match")), "num", False))
    columns.append(Column("seconds", "Duration", "num", False))
    if found.trials["process"].nunique() > 1:
        columns.append(Column("process", "Process", "num aside", True))
    return columns


def _order_name(columns: Sequence[Column], asked: str) -> str:
    """The name of an order in their list: `Rank, highest first`."""
    column = next(one for one in columns if one.name == asked.removeprefix("-"))
    if column.name == "score":
        return f"{column.head}, {'worst' if asked.startswith('-') else 'best'} first"
    ends = ("A to Z", "Z to A") if column.css == "fit" else ("lowest first", "highest first")
    return f"{column.head}, {ends[column.ascends == asked.startswith('-')]}"


def _sorted(trials: pd.DataFrame, name: str, ascending: bool) -> pd.DataFrame:
    """The trials by a column; those without a value stand last."""
    values = trials[name].tolist()
    known = [n for n, v in enumerate(values) if v is not None and v is not pd.NA and v == v]

    def key(place: int) -> tuple[bool, Any]:
        is_text = not isinstance(values[place], int | float)
        return is_text, str(values[place]) if is_text else values[place]

    order = sorted(known, key=key, reverse=not ascending)
    return trials.iloc[[*order, *sorted({*range(len(values))} - {*known})]]


def _table(
    found: SweepResults, columns: Sequence[Column], shown: pd.DataFrame, by: Column, ascending: bool
) -> str:
    """HTML: a row for each trial, which leads to its run."""
    with store.reading() as session:
        lines = store.curves(session, list(shown["run"]), found.sweep.metric)
    ends = sparkline.limits(lines.values(), is_share=is_share(found.sweep.metric))
    # The trial first, then what it tries, then what came of it.
    first, *rest = columns
    at = next(n for n, column in enumerate(rest) if column.name == "became") + 1
    columns = [*rest[:at], first, *rest[at:]]
    heads = {
        c.head: paging.sort_link(
            "sweeps", c.head, c.name, by=by.name, ascending=ascending, ascends=c.ascends
        )
        for c in columns
    }
    body, told = [], partial(value_text, found.sweep.metric)
    for row in shown.to_dict("records"):
        spark = sparkline.draw(lines[row["run"]], row["max_steps"], ends, told)
        body.append([_cell(found, column, row, spark) for column in columns])
    return html.table(
        {c.head: c.css for c in columns},
        body,
        name="trials opens few" if len(columns) <= MAX_STICKY else "trials opens",
        heads=heads,
        sorted_by=(by.head, "ascending" if ascending else "descending"),
    )


def _cell(found: SweepResults, column: Column, row: Mapping[str, Any], spark: str) -> str:
    """HTML of a cell; `spark` is the curve of the trial's score."""
    name, value = column.name, row[column.name]
    if name == "trial":
        return _name(found, row)
    if name == "became":
        tone = "running" if value == "training" else value.replace(" ", "-")
        steps = f"step {row['step']:,} of {row['max_steps']:,}"
        least = f"<small>{steps}</small>" if row["step"] < row["max_steps"] else ""
        return f'<span class="badge {tone}">{escape(value)}</span>{least}'
    if name == "score":
        told = "–" if pd.isna(value) else value_text(found.sweep.metric, value)
        return f'<span class="with-spark">{spark}{told}</span>'
    if name == "test":
        return "–" if pd.isna(value) else value_text("test/exact_match", value)
    if name == "seconds":
        return "–" if pd.isna(value) else duration(value)
    if name == "process":
        return "–" if pd.isna(value) else f"{value:,}"
    return escape(setting_value(value, ".3g")) if ranking.is_searched(value) else "–"


def _name(found: SweepResults, row: Mapping[str, Any]) -> str:
    """HTML: the link to a trial's run, why it ended so, and its tags."""
    link = navigation.link("monitor", f"Trial {row['trial']}", {"run": row["run"]})
    told = [as_sentence(in_words(row["reason"]))] if isinstance(row["reason"], str) else []
    told += [f"attempt {row['attempt']}"] if row["attempt"] > 1 else []
    told += ["scored on other data"] if row["run"] in set(found.trials["run"][found.others]) else []
    told += [tag_words.joined(row["tags"])] if row["tags"] else []
    return link + "".join(f"<small>{escape(text)}</small>" for text in told)
