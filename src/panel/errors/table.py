"""The words of an evaluation as rows of a table."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import streamlit as st

from src.panel.errors.links import FilterLinks
from src.panel.ui import downloads, html
from src.panel.ui.html import printable

ROWS_PER_PAGE = 100


def draw(
    words: pd.DataFrame,
    head: dict[str, str],
    cells: Callable[[Any], Iterable[str]],
    *,
    file_name: str,
    start: str = "",
) -> None:
    """Draw one page of `words` as a table, below its count, `start`, page number and downloads.

    `head` maps titles of columns to their classes; `cells` makes HTML of a row of `words`.
    """
    shown = _draw_pager(words, file_name, start)
    st.html(html.table(head, map(cells, shown.itertuples()), name="words"))


def _draw_pager(words: pd.DataFrame, file_name: str, start: str) -> pd.DataFrame:
    """Draw what stands above the table; return the rows of the chosen page."""
    pages = -(-len(words) // ROWS_PER_PAGE)
    number = 1
    with st.container(horizontal=True, vertical_alignment="center"):
        asked = f", each after “{printable(start.strip())}”" if start else ""
        st.html(f'<p class="quiet">{counted(len(words))}{asked}. Underlined letters differ.</p>')
        if pages > 1:
            number = st.number_input(
                f"Page of {pages}", 1, pages, width=150, key="page", bind="query-params"
            )
        downloads.draw(words, file_name)
    return words.iloc[(number - 1) * ROWS_PER_PAGE : number * ROWS_PER_PAGE]


def draw_none(title: str) -> None:
    """Draw that no row passes the filters."""
    html.draw_empty(title, "Turn on “Right words too” to see the others.")


def counted(count: int) -> str:
    """`1 word`, `2,000 words`."""
    return f"{count:,} word{'s' * (count != 1)}"


def shared_start(questions: Iterable[str]) -> str:
    """The words with which all of several questions begin, up to a colon: they say nothing of one
    of them. Empty if there are none."""
    found = list(questions)
    start = os.path.commonprefix(found) if len(found) > 1 else ""
    return start[: start.rfind(": ") + 2] if ": " in start else ""


def question(links: FilterLinks, text: str, start: str = "") -> str:
    """HTML: a question without its `shared_start`, as a link that opens its history."""
    return links.link(
        printable(text.removeprefix(start)),
        "How this word went over checkpoints and runs",
        {"word": text},
    )
