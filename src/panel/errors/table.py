"""The words of an evaluation as rows of a table."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from src.panel.errors.links import FilterLinks
from src.panel.ui import downloads, html
from src.panel.ui.html import printable

ROWS_PER_PAGE = 50


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
    first = _page(len(words)) * ROWS_PER_PAGE
    shown = words.iloc[first : first + ROWS_PER_PAGE]
    with st.container(horizontal=True, vertical_alignment="center", key="above-words"):
        asked = f", each after “{printable(start.strip())}”" if start else ""
        told = f"{counted(len(words))}{asked}. Underlined letters differ."
        jump = _jump("Kinds, places and letters ↓", ".st-key-words-and-charts .map")
        st.html(f'<p class="quiet">{told}</p>{_pager(first, len(words))}{jump}')
        html.draw_switch("Download")
        with st.container(horizontal=True, width="content", key="word-downloads"):
            downloads.draw(words, file_name)
    return shown


def _jump(text: str, to: str) -> str:
    """HTML of a link to the first element that a selector names, in a narrow window alone
    (links.js)."""
    return f'<p class="jump"><a href="#" data-jump="{to}">{text}</a></p>'


def _page(count: int) -> int:
    """The page of the address, from 0; the first one for none or for one that there is not."""
    asked = st.query_params.get("page", "1")
    number = int(asked) if asked.isdecimal() and len(asked) < 9 else 1
    return number - 1 if 0 < number <= -(-count // ROWS_PER_PAGE) else 0


def _pager(first: int, count: int) -> str:
    """HTML: which rows these are, and links to those before and behind; empty for a single page."""
    if count <= ROWS_PER_PAGE:
        return ""
    links, page = FilterLinks(), first // ROWS_PER_PAGE + 1
    last = min(first + ROWS_PER_PAGE, count)
    parts = [f"<span>{first + 1:,}–{last:,} of {count:,}</span>"]
    for text, key, number, there in (
        ("Previous", "←", page - 1, first > 0),
        ("Next", "→", page + 1, last < count),
    ):
        title = f"Page {number}"
        parts.append(
            f'<span class="{text.lower()}">'
            + links.link(text, f"{title}, key {key}", {"page": number if number > 1 else None})
            + "</span>" if there
            else f'<span class="quiet">{text}</span>'
        )  # fmt: skip
    return f'<p class="pager">{"".join(parts)}</p>'


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
