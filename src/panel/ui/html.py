"""HTML that several pages share: tables, facts, problems, empty states, times, untrusted text.

Whatever comes from a run (names, reasons, model output) is untrusted text: `html.escape` it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from zoneinfo import ZoneInfo

import streamlit as st

from src.format import cut


def label_text(text: str, limit: int) -> str:
    """Escape text for a widget's label, which is Markdown, and cut it to `limit` characters."""
    return re.sub(r"([\[\]\\`*_$:<>~#])", r"\\\1", cut(text, limit))


def local_time(
    at: float | None, form: str = "%d %b %Y, %H:%M", zone_name: str | None = None
) -> str:
    """A Unix time by a strftime format, in the named time zone or else in that of the reader, whom
    only a page's script knows; a dash for None."""
    if at is None:
        return "–"
    return datetime.fromtimestamp(at, time_zone(zone_name)).strftime(form)


def time_zone(name: str | None = None) -> ZoneInfo | None:
    """The named time zone or else that of the reader, whom only a page's script knows; None, that
    of this machine, where there is none of that name."""
    name = name or st.context.timezone
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        return None


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """HTML: a row of small labels over large values; both are plain text."""
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{"".join(cells)}</dl>'


def table(
    head: Mapping[str, str] | Sequence[tuple[str, str, str]],
    rows: Iterable[Iterable[str]],
    *,
    name: str = "",
    heads: Mapping[str, str] | None = None,
    sorted_by: tuple[str, str] | None = None,
) -> str:
    """HTML of a table, which a narrow window shows as cards. `head` maps titles of columns to CSS
    classes; cells are HTML, so escape plain text.

    `heads` is the HTML of some titles. Where titles may be alike, `head` has title, class and HTML
    of each column. `sorted_by` is a title, and ascending or descending.
    """
    if isinstance(head, Mapping):
        head = [(title, c, (heads or {}).get(title, escape(title))) for title, c in head.items()]
    titles = ""
    for title, c, shown in head:
        order = f' aria-sort="{sorted_by[1]}"' if sorted_by and sorted_by[0] == title else ""
        titles += f'<th scope="col" class="{c}"{order}>{shown}</th>'
    columns = [
        (c, f' data-label="{escape(title)}"' if title.strip() else "") for title, c, _ in head
    ]
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{c}"{label}>{cell}</td>'
            for (c, label), cell in zip(columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="rows {name}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def with_code(text: str) -> str:
    """HTML of a plain text in which backticks mark code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def draw_problem(text: str) -> None:
    """Draw an error message; its line breaks are kept."""
    lines = "<br>".join(escape(line) for line in text.split("\n"))
    st.html(f'<p class="problem" role="alert">{lines}</p>')


def draw_empty(title: str, advice: str) -> None:
    """Draw an empty state: why nothing is shown, and what to do next (HTML)."""
    st.html(f'<div class="empty"><h2>{escape(title)}</h2><p>{advice}</p></div>')


def draw_switch(text: str) -> None:
    """Draw what shows and hides, in a narrow window, the container behind it (panel.css); its text
    never changes, so that it stays open as the page is drawn again."""
    st.html(f'<details class="switch"><summary>{escape(text)}</summary></details>', width="content")


def printable(text: str) -> str:
    """HTML of untrusted text; characters that cannot be printed become `\\u....` escapes, and line
    ends a sign."""
    shown = text.replace("\n", "⏎")
    return escape("".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown))
