"""One run as it goes: status, curves, log and settings; stop it, delete it, or launch it again."""

from collections.abc import Sequence
from functools import partial
from html import escape

import streamlit as st

from src import store
from src.format import full_stop
from src.panel.monitor import actions, head, health, marks, tabs, words
from src.panel.monitor.curves import figures
from src.panel.report import button as report
from src.panel.ui import charts, html, navigation, run_status, tab
from src.runs import time_left
from src.store.tables import Run, Status, Sweep, SweepStatus

REFRESH_SECONDS = 2.0
WILL = (
    "Here a run shows its score and loss as it trains, its log, and what to do with it at its end."
)


def page() -> None:
    st.html('<h1 class="unseen">Monitor</h1>')
    with st.container(horizontal=True, vertical_alignment="center", key="run-choice"):
        run = navigation.pick_run(navigation.known_runs(), will=WILL)
        if run is None:
            return
        for link in links(run):
            st.html(link, width="content")
        report.draw([run.id])
        actions.draw(run)
    live = not Status(run.status).ended
    every = REFRESH_SECONDS if live else None
    st.fragment(draw_run, run_every=every)(run.id, actions.stage(run))


def links(run: Run) -> list[str]:
    """HTML: links to the other pages about this run."""
    found = [navigation.link("errors", "Misspelled words", {"run": run.id})]
    if Status(run.status).ended and run.best_step is not None:
        found.append(navigation.link("try", "Try it", {"run": run.id}))
        found.append(navigation.link("compare", "Compare", {"run": run.id}))
    found.append(navigation.link("launch", "Launch again with edits", {"from": run.id}))
    if run.sweep_id:
        found.append(navigation.link("sweeps", "Its sweep", {"sweep": run.sweep_id}))
    return found


def draw_run(run_id: str, stage: str) -> None:
    """Draw what refreshes; the whole page runs again if the run has left `stage`."""
    with store.reading() as session:
        try:
            run = store.find(session, run_id)
        except store.UnknownRun:
            navigation.rerun_page()  # somebody deleted it
        latest = store.latest_metrics(session, [run.id])[run.id]
        curves = charts.read_curves(session, run)
        samples = health.read(session, run)
        left = time_left.of_run(session, run)
        checkpoints = store.list_checkpoints(session, run.id)
        events = store.list_events(session, run.id)
        scored = words.read(session, run)
        forks = store.forks(session, run.id)
        sweep = session.get(Sweep, run.sweep_id) if run.sweep_id else None
    if actions.stage(run) != stage:
        navigation.rerun_page()  # started or ended meanwhile: other buttons, or no refreshes
    tab.show_run("Monitor", run)
    live = stage != "ended"
    paused = sweep is not None and sweep.status == SweepStatus.PAUSED
    phase = run.phase if Status(run.status).active else None
    now = phase or run_status.meaning(run, paused=paused)
    head.draw(run, latest, left, run.reason or now)
    head.draw_killed(run, checkpoints)
    head.draw_warnings(run, events)
    head.draw_diagnosis(run, curves)
    if curves.frames:
        beside = words.shown(run, scored)
        with st.container(key="curves-and-words"):
            left, right = st.columns((3, 1), gap="small") if beside else (st.container(), None)
        with left:
            draw_curves(run, curves, marks.of_run(run, checkpoints, events), live=live)
        if right is not None and beside:
            right.html(beside)
        health.draw(run, samples, curves)
    elif live:
        first = "The first points come once the model is there."
        html.draw_empty("No curve yet", f"{first} Now: {escape(full_stop(now))}")
    tabs.draw(run, checkpoints, curves, events, forks)


def draw_curves(
    run: Run, curves: charts.Curves, steps: Sequence[marks.Mark], *, live: bool
) -> None:
    make = partial(figures, run, curves, steps)
    if not live:
        charts.draw(make({}, {}), key="curves")
        return
    source = {"page": "monitor", "run": run.id}
    charts.draw_live(make, source, state=f"{run.id} {run.attempt}", key="curves")


page()
