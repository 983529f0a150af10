"""One run as it goes: status, curves, log and settings; stop it, delete it, or launch it again."""

from collections.abc import Callable
from functools import partial
from html import escape

import streamlit as st

from src import store
from src.format import full_stop
from src.panel.monitor import actions, head, picture, tabs
from src.panel.report import button as report
from src.panel.ui import charts, failure, guarded, html, navigation, tab
from src.store.tables import Run, Status

REFRESH_SECONDS = 2.0
KEY = "curves"  # of the charts
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
    charts.forget(KEY)
    live = not Status(run.status).ended
    every = REFRESH_SECONDS if live else None
    st.fragment(draw_run, run_every=every)(run.id, actions.stage(run))


def links(run: Run) -> list[str]:
    """HTML: links to the other pages about this run."""
    found = []
    if run.step is not None:  # before that no word can have been scored
        found.append(navigation.link("errors", "Misspelled words", {"run": run.id}))
    if Status(run.status).ended and run.best_step is not None:
        found.append(navigation.link("try", "Try it", {"run": run.id}))
        found.append(navigation.link("compare", "Compare", {"run": run.id}))
        query = {"run": run.id, "view": "Export"}
        found.append(navigation.link("monitor", "Export", query, then=".st-key-chosen-view"))
    if run.status not in failure.BADLY:  # whose banner has it
        found.append(navigation.link("launch", "Launch again with edits", {"from": run.id}))
    if run.sweep_id:
        found.append(navigation.link("sweeps", "Its sweep", {"sweep": run.sweep_id}))
    return found


def draw_run(run_id: str, stage: str) -> None:
    """Draw what refreshes; the whole page runs again if the run has left `stage`.

    Between two refreshes its charts ask for news by themselves (panel/live_curves.py).
    """
    with store.reading() as session:
        try:
            run = store.find(session, run_id)
        except store.UnknownRun:
            navigation.rerun_page()  # somebody deleted it
        live, shown = picture.live(session, run, key=KEY, goes_on=stage != "ended")
        checkpoints = store.list_checkpoints(session, run.id)
        events = store.list_events(session, run.id)
        forks = store.forks(session, run.id)
    if actions.stage(run) != stage:
        navigation.rerun_page()  # started or ended meanwhile: other buttons, or no refreshes
    guarded.draw_told()
    tab.show_run("Monitor", run)
    if live:
        st.html(live.part("head"))
    elif shown:
        st.html(shown.head())
    silence = live.part("silence") if live else head.silence(run)
    st.html(f'<div class="unseen" role="status">{silence}</div>')
    head.draw_failure(run, checkpoints)
    head.draw_warnings(events)
    if live:
        draw_curves(live.part("words"), partial(live.draw, key=KEY))
    elif shown and shown.curves.frames:
        head.draw_diagnosis(run, shown.curves)
        draw_curves(shown.words(), partial(charts.draw, shown.figures({}, {}), key=KEY))
    elif shown and stage != "ended":
        first = "The first points come once the model is there."
        it = "The run is" if shown.now.startswith("held") else "The run"
        now = f"Now: {run.phase}" if run.phase else f"{it} {shown.now}"
        html.draw_empty("No curve yet", f"{first} {escape(full_stop(now))}")
    tabs.draw(run, checkpoints, events, forks)


def draw_curves(words: str | None, draw: Callable[[], None]) -> None:
    """Draw the charts, and the words beside them."""
    with st.container(key="curves-and-words"):
        left, right = st.columns((3, 1), gap="small") if words else (st.container(), None)
    with left:
        draw()
    if right is not None and words:
        right.html(words)


page()
