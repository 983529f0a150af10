"""The views of several runs, of which the Compare page shows the chosen one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import streamlit as st

from src import store
from src.analysis.comparison import Comparison
from src.format import counted
from src.models.metrics import metric_label
from src.panel.compare import curves, table, verdicts
from src.panel.ui import charts, choices, html, navigation
from src.store.tables import Run, Status

EDITOR = "edit tags and notes"


def is_editing() -> bool:
    """True while the tags and notes of the runs are open to be edited."""
    return st.query_params.get("view") == "Runs" and bool(st.session_state.get(EDITOR))


def draw(runs: Sequence[Run], found: Comparison) -> None:
    """Draw the choice of a view, and the chosen one."""
    shown = navigation.segments("View", list(VIEWS), key="view")
    VIEWS[shown](runs, found)


def _draw_curves(runs: Sequence[Run], found: Comparison) -> None:
    with store.reading() as session:
        names = _metric_names(store.latest_metrics(session, [run.id for run in runs]))
    with st.container(horizontal=True, vertical_alignment="bottom", key="curves-head"):
        axis = navigation.segments("X axis", list(curves.AXES), key="axis", show_label=True)
        smoothing = st.selectbox(
            "Smoothing", list(curves.SMOOTHING), key="smoothing", bind="query-params", width=190,
        )  # fmt: skip
        first = [name for name in curves.FIRST_CURVES if name in names]
        metrics = choices.several("Metrics", names, first, metric_label, key="metrics")
        band = st.toggle("Seeds as a band", True, key="band", bind="query-params")
    order = verdicts.ranked(found)
    best = found.scores[order[0].name]["exact_match"]
    lead = [group.name for group in order if found.scores[group.name]["exact_match"] == best]
    if best is None or len(lead) > curves.FEW:
        lead = []
    shown = curves.Shown(tuple(metrics), axis, curves.SMOOTHING[smoothing], band, lead)
    with store.reading() as session:
        frames = curves.read(session, runs, metrics, axis=axis)
    if not any(frames.values()):
        html.draw_empty("No curves", "These runs have no points of these metrics on this axis yet.")
        return
    legend = curves.legend(found.groups, order)
    make = partial(curves.figures, found.groups, frames, shown)
    if all(Status(run.status).ended for run in runs):
        charts.draw(make({}, {}), key="compared curves", legend=legend)
    else:
        ids = [run.id for run in runs]
        source = {"page": "compare", "runs": ids, "shown": asdict(shown)}
        state = f"{source} {[run.attempt for run in runs]}"
        key = "compared curves"
        charts.live(make, source, state=state, key=key).draw(key=key, legend=legend)
    st.html(f'<p class="quiet">{_told(found, band, len(lead))}</p>')


def _told(found: Comparison, band: bool, best: int) -> str:
    """A sentence on what a line is, and where they are many, on how one is found among them."""
    told = "A line is a run, a colour is a config."
    seeds = any(len(group.runs) > 1 for group in found.groups)
    if band and seeds:
        told = (
            "A line is the mean of a config’s seeds, its band reaches from the lowest to the "
            "highest."
        )
    if len(found.groups) > curves.FEW:
        ahead = {0: "None stands out", 1: "The best one stands out"}
        first = ahead.get(best, f"The best {best}, which tie, stand out")
        other = "another" if best else "one"
        told += f" {first}; point at {other}, or press its name to keep it."
    return told


def _metric_names(latest: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Names of the metrics that any run has a curve of, those of CHARTS first."""
    there = {name for values in latest.values() for name in values if not name.startswith("test/")}
    usual = [name for chart in charts.CHARTS for name in chart.curves if name in there]
    return usual + sorted(there - set(usual))


def _draw_numbers(runs: Sequence[Run], found: Comparison) -> None:
    with store.reading() as session:
        latest = store.latest_metrics(session, [run.id for run in runs])
    names = sorted({name for values in latest.values() for name in values})
    first = [name for name in table.FIRST_COLUMNS if name in names]
    bound: dict[str, Any] = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        find = st.text_input("Find", placeholder="words, or val/loss < 0.5", key="find", **bound)
        columns = choices.several("Metrics", names, first, metric_label, key="columns")
        orders = ["launch", "run", *names]
        order = choices.one("Order by", orders, metric_label, key="order", width=200)
        ascending = st.toggle("Ascending", key="ascending", **bound)
    columns += [order] if order in names and order not in columns else []
    frame = table.run_table(
        runs, latest, columns=columns, find=find, order=order, ascending=ascending
    )
    if frame.empty:
        html.draw_empty("No run fits", "Empty the field Find to see all of them.")
        return
    st.html(table.runs_html(frame, columns))
    st.html(f'<p class="quiet">{len(frame)} of {counted(len(runs), "run")}.</p>')
    with st.expander("Edit tags and notes", key=EDITOR, on_change="rerun"):
        table.edit_runs(frame)
        st.html('<p class="quiet">They are saved as you leave a cell.</p>')


def _draw_settings(_runs: Sequence[Run], found: Comparison) -> None:
    if table.settings_that_differ(found):
        st.html(table.settings_table(found))
    else:
        html.draw_empty("No setting differs", table.NONE_DIFFERS)


def _draw_parallel(runs: Sequence[Run], found: Comparison) -> None:
    with store.reading() as session:
        latest = store.latest_metrics(session, [run.id for run in runs])
    shown = table.parallel_figure(found, latest, table.FIRST_COLUMNS)
    if shown is None:
        html.draw_empty(
            "No setting differs", "Choose runs of several configs to see what it changes."
        )
        return
    charts.draw({"Settings and scores": shown}, key="parallel")
    st.html('<p class="quiet">A line is a run. Drag along an axis to keep only some of them.</p>')


VIEWS: dict[str, Callable[[Sequence[Run], Comparison], None]] = {
    "Curves": _draw_curves,
    "Runs": _draw_numbers,
    "Settings": _draw_settings,
    "Parallel coordinates": _draw_parallel,
}
