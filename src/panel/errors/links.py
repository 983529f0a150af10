"""Links that set and clear the filters of the Errors page in its address."""

from collections.abc import Mapping
from functools import cache
from html import escape
from urllib.parse import urlencode

import streamlit as st

# Styles of links that are marks in a chart: their text alone says little, so they get a label.
MARK_STYLES = ("row", "row two", "cell", "column")


class FilterLinks:
    """Builds links to this page that keep all parameters they do not set; `page` starts over."""

    def __init__(self) -> None:
        self.query = {k: v for k, v in st.query_params.items() if k != "page"}
        self._prefix = cache(self._address_without)  # the cells of a chart set the same names

    def _address_without(self, names: tuple[str, ...]) -> str:
        rest = {k: v for k, v in self.query.items() if k not in names}
        return f"errors?{urlencode(rest)}" + "&" * bool(rest)

    def link(self, text: str, title: str, sets: Mapping[str, object], style: str = "") -> str:
        """HTML of a link that sets parameters; it clears those set to None and, when all are set
        already, all of them.

        `text` is HTML. `title` is plain text: the tooltip, and a chart mark's accessible name.
        """
        is_on = all(self.query.get(name) == str(value) for name, value in sets.items())
        new = {k: v for k, v in sets.items() if v is not None and not is_on}
        href = escape((self._prefix(tuple(sets)) + urlencode(new)).rstrip("&"))
        name = f' aria-label="{escape(title)}"' if style in MARK_STYLES else ""
        return (
            f'<a class="inner {style}" href="{href}" target="_self" '
            f'title="{escape(title)}"{name}{" aria-current=true" if is_on else ""}'
            f">{text}</a>"
        )
