"""Searches over many settings: which there are, how one goes, and the form that launches one."""

from collections.abc import Sequence
from html import escape
from operator import attrgetter
from pathlib import Path

import streamlit as st

from src import store
from src.analysis.verdicts import Verdict
from src.format import as_sentence, full_stop
from src.models.metrics import in_words
from src.panel.compare import verdicts
from src.panel.sweeps import all_sweeps, buttons, form, live, notes, tabs, view, winner
from src.panel.ui import folds, guarded, html, navigation, tab
from src.store.tables import Status, Sweep
from src.sweeps import control, results
from src.sweeps.results import SweepResults

LABEL = attrgetter("label")
REFRESH_SECONDS = 3.0
HOW = (
    "A sweep tries many settings for you, each as a run of its own, and says which one is worth "
    "having. Start from a file below; `tiny` suits two CPU cores."
)


def page() -> None:
    st.html('<h1 class="unseen">Sweeps</h1>')
    with store.reading() as session:
        rows = list(store.list_sweeps(session))
        asked = st.query_params.get("sweep")
        try:
            row = store.find_sweep(session, asked) if asked else None
        except store.UnknownRun as error:
            back = navigation.link("sweeps", "See all sweeps", style="button")
            html.draw_empty(
                "No such sweep", f"{html.with_code(full_stop(str(error)))}<br><br>{back}"
            )
            return
        refreshes = any_is_open(rows) if row is None else is_live(session, row)
    every = REFRESH_SECONDS if refreshes else None
    if row:
        st.fragment(draw_sweep, run_every=every)(row.id, refreshes)
        return
    if rows:
        st.fragment(draw_all, run_every=every)(refreshes)
    if guarded.draw_closed("No sweep is launched here"):
        return
    if rows:
        st.html("<h2>Launch a sweep</h2>")
    else:
        html.draw_empty("No sweeps yet", html.with_code(HOW))
    form.draw()


def any_is_open(rows: Sequence[Sweep]) -> bool:
    return any(row.status in control.OPEN for row in rows)


def draw_all(refreshes: bool) -> None:
    with store.reading() as session:
        rows = list(store.list_sweeps(session))
        if any_is_open(rows) != refreshes:
            navigation.rerun_page()  # only a rerun of the whole page changes `run_every`
        st.html(all_sweeps.table(session, rows))


def is_live(session: store.Session, row: Sweep) -> bool:
    """True if the page should refresh: something is under way."""
    statuses = {*store.trial_counts(session).get(row.id, {})}
    statuses |= {run.status for run in store.confirmations(session, row.id)}
    return row.status in control.OPEN or not all(Status(status).ended for status in statuses)


def draw_sweep(sweep_id: str, refreshes: bool) -> None:
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        if is_live(session, row) != refreshes:
            navigation.rerun_page()  # only a rerun of the whole page changes `run_every`
        found = results.read(session, row)
        judged, how_judged = results.judge(session, found, LABEL)
    tab.show_sweep("Sweeps", row)
    back = navigation.link("sweeps", "All sweeps")
    st.html(f'<div class="top">{view.head(found)}<nav>{back}</nav></div>')
    for note in (row.reason, *notes.of_launch(sweep_id), control.drift_notice(row), *found.notes):
        if note:
            folds.draw("note", escape(as_sentence(in_words(note))))
    # While it goes on, how far it is comes first; once it has ended, what came of it.
    if row.status in control.OPEN:
        draw_state(found)
        live.draw(found)
        draw_outcome(found, judged, how_judged)
    else:
        draw_outcome(found, judged, how_judged)
        draw_state(found)
    if found.trials.empty:
        view.draw_no_trials(found)
        return
    tabs.draw(found)
    with st.expander(Path(row.path).name, expanded=False, key="sweep file"):
        st.code(row.file, language="yaml")


def draw_state(found: SweepResults) -> None:
    st.html(view.facts(found))
    buttons.draw(found)


def draw_outcome(found: SweepResults, judged: Sequence[Verdict], how: str | None) -> None:
    """Draw the best settings, the verdicts on them, and what those rest on or what would decide
    them. Where too few seeds were scored for any, that alone: no pair could be told apart."""
    winner.draw(found)
    if how or not all(verdict.is_compared for verdict in judged):
        st.html(verdicts.verdict_table(judged))
    if how:
        st.html(f'<p class="quiet">Judged {escape(how)}.</p>')
    elif judged and buttons.offers_rerun(found):
        luck = f"The best of {len(found.settings):,} settings is the best partly by luck."
        st.html(
            f'<p class="quiet">{luck} “{buttons.rerun_label(found)}” tells how much of it stays, '
            "by seeds that took no part in the search.</p>"
        )


page()
