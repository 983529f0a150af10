"""The button of a page that downloads a report, and the name of its file."""

from collections.abc import Sequence
from functools import partial

import streamlit as st


def draw(runs: Sequence[str], sweep: str | None = None) -> None:
    """Draw a button that downloads the report on the runs or the sweep of these ids."""
    st.download_button(
        "Report",
        partial(_written, tuple(runs), sweep),
        f"{file_name(runs, sweep)}.html",
        "text/html",
        on_click="ignore",
        key="report",
        help="One page with all of this, to keep or to send: it needs neither Spelltune nor a "
        "network.",
    )


def file_name(runs: Sequence[str], sweep: str | None = None) -> str:
    """The name of the file of a report on these ids, without its ending."""
    if sweep is not None:
        return f"report-{sweep}"
    return f"report-{runs[0]}" + (f"-and-{len(runs) - 1}-more" if len(runs) > 1 else "")


def _written(runs: Sequence[str], sweep: str | None) -> str:
    from src.panel.report import content, page  # only where somebody asks for it

    return page.page(content.read(runs, sweep))
