"""The browser's tab: its title and its icon tell the page, what it shows, and how that goes."""

from pathlib import Path

import streamlit as st

from src import store
from src.store.tables import Run, Status, Sweep, SweepStatus

ICON = Path(__file__).parents[1].joinpath("icon.svg").read_text(encoding="utf-8")
# Not those of the page: beside the icon's blue, at 16 px, in light tabs and in dark ones.
ACTIVE, GOOD, BAD = "#ffb020", "#2fb673", "#e5484d"
DOTS: dict[str, str] = {
    Status.STARTING: ACTIVE,
    Status.RUNNING: ACTIVE,
    Status.STOPPING: ACTIVE,
    SweepStatus.ACTIVE: ACTIVE,
    Status.COMPLETED: GOOD,
    Status.FAILED: BAD,
    Status.INTERRUPTED: BAD,
}


def show(page: str, *told: str, status: str | None = None) -> None:
    """Name the tab after what the page shows, if anything, and the page; the icon has a dot in the
    colour of a status."""
    st.set_page_config(page_title=" · ".join([*told, page, "Spelltune"]), page_icon=icon(status))


def show_run(page: str, run: Run) -> None:
    """Name the tab after a run, with its seed, and its status."""
    show(page, f"{store.label_of(run)}, {run.status.lower()}", status=run.status)


def show_sweep(page: str, sweep: Sweep) -> None:
    """Name the tab after a sweep and its status."""
    show(page, f"{sweep.name}, {sweep.told_status.lower()}", status=sweep.told_status)


def icon(status: str | None) -> str:
    """The icon as SVG."""
    if (colour := DOTS.get(status or "")) is None:
        return ICON
    dot = f'<circle cx="24" cy="24" r="7" fill="{colour}" stroke="#fff" stroke-width="2.5"/></svg>'
    return ICON.replace("</svg>", dot)
