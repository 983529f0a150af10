"""Several runs: what may be claimed of them, their curves, settings and numbers."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from src import store
from src.analysis import comparison
from src.analysis.comparison import Comparison
from src.panel.compare import choose, curves, table, verdicts
from src.panel.ui import charts, html, navigation
from src.store.tables import Run, Status

REFRESH_SECONDS = 3.0
MAX_ADAPTERS = 8  # more runs are not compared adapter by adapter
VIEWS = ["Curves", "Runs", "Settings", "Parallel coordinates"]
HOW = (
    "Choose runs above, or on the overview. Three seeds or more of each config let the page say "
    "which config spells better; runs that differ in nothing but their seed are one config."
)


def page() -> None:
    st.html('<h1 class="unseen">Compare</h1>')
    runs = choose.choose()
    if len(runs) < 2:
        link = navigation.link("", "Select runs on the overview", style="button")
        if runs:
            html.draw_empty("One more run to compare it with", f"{HOW}<br><br>{link}")
        else:
            html.draw_empty("Nothing chosen yet", f"{HOW}<br><br>{link}")
        return
    living = any(not Status(run.status).ended for run in runs)
    # A refresh would interrupt who edits the table.
    edited = st.query_params.get("view") == "Runs"
    every = REFRESH_SECONDS if living and not edited else None
    st.fragment(view, run_every=every)([run.id for run in runs], living)


def view(ids: Sequence[str], living: bool) -> None:
    with store.reading() as session:
        runs = store.runs_of(session, ids)
        found = comparison.compare(session, runs, most_adapters=0)
    if len(runs) < len(ids) or living and all(Status(run.status).ended for run in runs):
        navigation.rerun_page()  # one was deleted, or all have ended
    draw_verdicts(found, runs)
    shown = st.segmented_control(
        "View",
        VIEWS,
        default=VIEWS[0],
        required=True,
        key="view",
        bind="query-params",
        label_visibility="collapsed",
    )
    draw = {"Curves": draw_curves, "Runs": draw_numbers, "Settings": draw_settings}
    draw.get(shown, draw_parallel)(runs, found)


def draw_verdicts(found: Comparison, runs: Sequence[Run]) -> None:
    if found.summary:
        st.html(f'<p class="claim"><b>{escape(found.summary)}.</b></p>')
    st.html(verdicts.score_table(found))
    if found.configs:
        st.html(verdicts.verdict_table(found.configs))
        verdicts.draw_missing(found)
    if st.toggle("Adapters, pair by pair", key="adapters", bind="query-params"):
        with store.reading() as session:
            pairs = comparison.compare(session, runs, most_adapters=MAX_ADAPTERS).adapters
        if pairs:
            st.html(verdicts.verdict_table(pairs))
        else:
            why = f"up to {MAX_ADAPTERS} scored runs are compared adapter by adapter"
            st.html(f'<p class="quiet">Here {why}; these are {len(runs)}.</p>')


def draw_curves(runs: Sequence[Run], found: Comparison) -> None:
    with store.reading() as session:
        names = metric_names(store.latest_metrics(session, [run.id for run in runs]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        axis = st.segmented_control(
            "X axis", list(curves.AXES), default="step", required=True, key="axis",
            bind="query-params",
        )  # fmt: skip
        smoothing = st.selectbox(
            "Smoothing", list(curves.SMOOTHING), key="smoothing", bind="query-params", width=190,
        )  # fmt: skip
        first = [name for name in curves.FIRST_CURVES if name in names]
        metrics = st.multiselect("Metrics", names, first, key="metrics", bind="query-params")
        band = st.toggle("Seeds as a band", True, key="band", bind="query-params")
    with store.reading() as session:
        frames = curves.read(session, runs, metrics, axis=axis)
    if not any(frames.values()):
        html.draw_empty("No curves", "These runs have no points of these metrics on this axis yet.")
        return
    style = curves.CurveStyle(axis, curves.SMOOTHING[smoothing], band)
    drawn = {curves.about(m)[0]: curves.figure(m, found.groups, frames, style) for m in metrics}
    charts.draw(drawn, live=False, key="compared curves")
    said = (
        "A line is the mean of a config's seeds, its band reaches from the lowest to the highest."
    )
    st.html(f'<p class="quiet">{said if band else "A line is a run, a colour is a config."}</p>')


def metric_names(latest: dict[str, dict[str, float | None]]) -> list[str]:
    """Names of the metrics that any run has a curve of, those of CHARTS first."""
    there = {name for values in latest.values() for name in values if not name.startswith("test/")}
    usual = [name for chart in charts.CHARTS for name in chart.curves if name in there]
    return usual + sorted(there - set(usual))


def draw_numbers(runs: Sequence[Run], found: Comparison) -> None:
    with store.reading() as session:
        latest = store.latest_metrics(session, [run.id for run in runs])
    names = sorted({name for values in latest.values() for name in values})
    first = [name for name in table.FIRST_COLUMNS if name in names]
    bound = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        find = st.text_input("Find", placeholder="words, or val/loss < 0.5", key="find", **bound)
        columns = st.multiselect("Metrics", names, first, key="columns", **bound)
        order = st.selectbox("Order by", ["launch", "run", *names], key="order", width=200, **bound)
        ascending = st.toggle("Ascending", key="ascending", **bound)
    columns += [order] if order in names and order not in columns else []
    frame = table.run_table(
        runs, latest, columns=columns, find=find, order=order, ascending=ascending
    )
    table.edit_runs(frame, columns)
    said = f"{len(frame)} of {len(runs)} runs. Tags and notes are saved as you leave a cell."
    st.html(f'<p class="quiet">{said}</p>')


def draw_settings(_runs: Sequence[Run], found: Comparison) -> None:
    if table.settings_that_differ(found):
        st.html(table.settings_table(found))
    else:
        html.draw_empty("No setting differs", "These runs differ in nothing but their seeds.")


def draw_parallel(runs: Sequence[Run], found: Comparison) -> None:
    with store.reading() as session:
        latest = store.latest_metrics(session, [run.id for run in runs])
    shown = table.parallel_figure(found, latest, table.FIRST_COLUMNS)
    if shown is None:
        html.draw_empty(
            "No setting differs", "Choose runs of several configs to see what it changes."
        )
        return
    charts.draw({"Settings and scores": shown}, live=False, key="parallel")
    st.html('<p class="quiet">A line is a run. Drag along an axis to keep only some of them.</p>')


page()
