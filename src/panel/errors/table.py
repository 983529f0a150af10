"""The words of an evaluation as rows of a table."""

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
) -> None:
    """Draw one page of `words` as a table, below its count, page number and downloads.

    `head` maps titles of columns to their classes; `cells` makes HTML of a row of `words`.
    """
    shown = _draw_pager(words, file_name)
    st.html(html.table(head, map(cells, shown.itertuples()), name="words"))


def _draw_pager(words: pd.DataFrame, file_name: str) -> pd.DataFrame:
    """Draw what stands above the table; return the rows of the chosen page."""
    pages = -(-len(words) // ROWS_PER_PAGE)
    number = 1
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="quiet">{counted(len(words))}. Underlined letters differ.</p>')
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


def question(links: FilterLinks, text: str) -> str:
    """HTML: a question as a link that opens its history."""
    return links.link(
        printable(text), "How this word went over checkpoints and runs", {"word": text}
    )
