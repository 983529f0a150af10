"""The trials of a sweep that train or wait: how far each is, and its score so far."""

from functools import partial
from html import escape

import streamlit as st

from src import store
from src.format import capital, counted, duration, settings_text
from src.models.metrics import is_share, short_label, value_text
from src.panel.ui import html, navigation, run_status, sparkline
from src.runs import time_left
from src.store.tables import Run, Status
from src.sweeps import control
from src.sweeps.results import SweepResults

MAX_ROWS = 12


def draw(found: SweepResults) -> None:
    """Draw a row for each trial that trains, then for those that wait; nothing once all ended."""
    if found.row.status not in control.OPEN:
        return
    with store.reading() as session:
        trials = store.list_trials(session, found.row.id)
        runs = [run for run in trials if not Status(run.status).ended]
        runs.sort(key=lambda run: Status(run.status) is Status.QUEUED)
        shown = runs[:MAX_ROWS]
        lines = store.curves(session, [run.id for run in shown], found.sweep.metric)
        left = time_left.of_all(session)
    if not shown:
        return
    title = f"{capital(short_label(found.sweep.metric))} so far"
    head = {"Trial": "", "Status": "fit", "Progress": "fit",
            title: "num", "Time left": "num"}  # fmt: skip
    ends = sparkline.limits(lines.values(), is_share=is_share(found.sweep.metric))
    body = [_cells(found, run, lines[run.id], ends, left.get(run.id)) for run in shown]
    waiting = len(runs) - len(shown)
    more = f'<p class="quiet">{counted(waiting, "more trial")} to come.</p>' if waiting else ""
    st.html(f"<h2>Under way</h2>{html.table(head, body, name='under-way opens')}{more}")


def _cells(
    found: SweepResults, run: Run, line: sparkline.Line, ends: tuple[float, float],
    left: time_left.TimeLeft | None,
) -> list[str]:  # fmt: skip
    name = settings_text(run.searched or {}) or run.name
    told = partial(value_text, found.sweep.metric)
    spark = sparkline.draw(line, run.max_steps, ends, told)
    # A card on a phone has no room for what is not there.
    last = told(line[-1][1]) if line else ""
    return [
        navigation.link("monitor", name, {"run": run.id}) + f"<small>{escape(run.name)}</small>",
        run_status.badge(run),
        f"{run_status.bar(run)}<small>{run_status.steps(run)}</small>",
        f'<span class="with-spark">{spark}{last}</span>' if line else "",
        f"≈ {duration(left.ends)}" if left else "",
    ]
