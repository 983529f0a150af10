"""Order and pages of a table, kept in the address as `sort` and `page`."""

from collections.abc import Sequence

import streamlit as st

from src.format import counted, whole_number
from src.panel.ui import navigation

ROWS = 50  # of a page


def query(**changes: str | Sequence[str] | None) -> dict[str, list[str]]:
    """The parameters of this address with some changed; None leaves one out."""
    now = {name: st.query_params.get_all(name) for name in st.query_params}
    for name, value in changes.items():
        now[name] = [] if value is None else [value] if isinstance(value, str) else list(value)
    return {name: values for name, values in now.items() if values}


def page_of_address(total: int) -> int:
    """The page that the address asks for, from 0; the last one of `total` rows where it asks for a
    later one, as another filter or a deletion may have left fewer."""
    asked = whole_number(st.query_params.get("page", "1")) or 1
    return max(0, min(asked - 1, (total - 1) // ROWS))


def sort_link(page: str, head: str, name: str, *, by: str, ascending: bool, ascends: bool) -> str:
    """HTML: the head of a column, a link that sorts by it, and by its other end where it is sorted
    by it. `ascends` says which end comes first."""
    is_sorted = name == by
    mark = "" if not is_sorted else " ▲" if ascending else " ▼"
    turn = is_sorted and ascending == ascends
    to = query(sort=f"-{name}" if turn else name, page=None)
    return navigation.link(page, f"{head}{mark}", to, style="sort")


def pager(page: str, number: int, total: int, what: str, *, keys: bool = False) -> str:
    """HTML: which rows are shown of how many, and links to the pages before and after, which with
    `keys` the arrow keys follow (links.js); empty for a single page. `number` is the page of rows,
    from 0."""
    if total <= ROWS:
        return ""
    first, pages = number * ROWS, -(-total // ROWS)
    last = min(first + ROWS, total)
    parts = [f"<span>{first + 1:,} to {last:,} of {counted(total, what)}</span>"]
    for text, key, to, there in (
        ("First", "", 1, number > 0),
        ("Previous", "←", number, number > 0),
        ("Next", "→", number + 2, number + 1 < pages),
        ("Last", "", pages, number + 1 < pages),
    ):
        if there:
            link = navigation.link(page, text, query(page=None if to == 1 else str(to)))
            if keys and key:
                link = f'<span class="{text.lower()}" title="Page {to:,}, key {key}">{link}</span>'
            parts.append(link)
    return f'<p class="quiet pager">{"".join(parts)}</p>'
