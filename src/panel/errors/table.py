"""The words of an evaluation as rows of a table."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from src.format import counted
from src.panel.errors.links import FilterLinks
from src.panel.ui import downloads, html, paging
from src.panel.ui.html import printable


def columns() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Where the charts are drawn, which filter, and where the words are: beside each other."""
    with st.container(key="words-and-charts"):
        words, charts = st.columns((5, 3), gap="small")
        # In a narrow window one stands below the other.
        charts.html(_jump("To the words ↑", ".st-key-above-words"))
    return charts.container(), words


def draw(
    words: pd.DataFrame,
    head: dict[str, str],
    cells: Callable[[Any], Iterable[str]],
    *,
    file_name: str,
    start: str = "",
) -> None:
    """Draw one page of `words` as a table, below its count, `start`, pager and downloads.

    `head` maps titles of columns to their classes; `cells` makes HTML of a row of `words`.
    """
    shown = _draw_pager(words, file_name, start)
    st.html(html.table(head, map(cells, shown.itertuples()), name="words"))


def _draw_pager(words: pd.DataFrame, file_name: str, start: str) -> pd.DataFrame:
    """Draw what stands above the table; return the rows of the chosen page."""
    number = paging.page_of_address(len(words))
    shown = words.iloc[number * paging.ROWS : (number + 1) * paging.ROWS]
    with st.container(horizontal=True, vertical_alignment="center", key="above-words"):
        asked = f", each after “{printable(start.strip())}”" if start else ""
        told = f"{counted(len(words), 'word')}{asked}. Underlined letters differ."
        jump = _jump("Kinds, places and letters ↓", ".st-key-words-and-charts .map")
        pages = paging.pager("errors", number, len(words), "word", keys=True)
        st.html(f'<p class="quiet">{told}</p>{pages}{jump}')
        html.draw_switch("Download")
        with st.container(horizontal=True, width="content", key="word-downloads"):
            downloads.draw(words, file_name)
    return shown


def _jump(text: str, to: str) -> str:
    """HTML of a link to the first element that a selector names, in a narrow window alone
    (links.js)."""
    return f'<p class="jump"><a href="#" data-jump="{to}">{text}</a></p>'


def draw_none(title: str) -> None:
    """Draw that no row passes the filters."""
    html.draw_empty(title, "Turn on “Right words too” to see the others.")


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
