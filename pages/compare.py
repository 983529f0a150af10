"""Several runs: verdicts on their configs, their curves, settings and numbers."""

from collections.abc import Sequence
from html import escape
from operator import attrgetter

import streamlit as st

from src import store
from src.analysis import comparison, suite_comparison
from src.analysis.comparison import Comparison
from src.format import full_stop
from src.panel.compare import choose, suites, tabs, verdicts
from src.panel.report import button as report
from src.panel.ui import html, navigation
from src.store.tables import Run, Status

REFRESH_SECONDS = 3.0
LABEL = attrgetter("label")
MAX_ADAPTERS = 8  # more runs are not compared adapter by adapter
WILL = "Here several runs stand beside each other, with a verdict on which config spells better."
HOW = (
    "Choose runs above, or on the overview. Three seeds or more of each config let the page say "
    "which config spells better; runs that differ in nothing but their seed are one config."
)


def page() -> None:
    st.html('<h1 class="unseen">Compare</h1>')
    runs = choose.choose()
    if not runs and not navigation.known_runs():
        first = navigation.link("launch", "Launch the first run", style="button")
        html.draw_empty("No runs yet", f"{WILL}<br><br>{first}")
        return
    if len(runs) < 2:
        link = navigation.link("", "Choose runs on the overview", style="button")
        title = "One more run to compare it with" if runs else "Nothing chosen yet"
        html.draw_empty(title, f"{HOW}<br><br>{link}")
        return
    report.draw([run.id for run in runs])
    live = any(not Status(run.status).ended for run in runs)
    # A refresh would interrupt who edits the table.
    is_editing = st.query_params.get("view") == "Runs"
    every = REFRESH_SECONDS if live and not is_editing else None
    st.fragment(draw_runs, run_every=every)([run.id for run in runs], live)


def draw_runs(ids: Sequence[str], live: bool) -> None:
    with store.reading() as session:
        runs = store.runs_of(session, ids)
        found = comparison.compare(session, runs, most_adapters=0, called=LABEL)
        on_suites = suite_comparison.compare(session, found.groups)
    if len(runs) < len(ids) or live and all(Status(run.status).ended for run in runs):
        navigation.rerun_page()  # one was deleted, or all have ended
    draw_verdicts(runs, found)
    suites.draw(on_suites, found.groups)
    tabs.draw(runs, found)


def draw_verdicts(runs: Sequence[Run], found: Comparison) -> None:
    if found.summary:
        st.html(f'<p class="claim"><b>{escape(full_stop(found.summary))}</b></p>')
    for note in found.notes:
        st.html(f'<p class="note">{escape(full_stop(note))}</p>')
    if len(found.configs) == 1:
        st.html(verdicts.headline(found.configs[0]))
    st.html(verdicts.score_table(found))
    if found.configs:
        if len(found.configs) > 1:
            st.html(verdicts.verdict_table(found.configs))
        st.html(f'<p class="quiet">{verdicts.SEVERAL_LOOKS}</p>')
        verdicts.draw_missing(found)
    verdicts.draw_next(found)
    if st.toggle("Adapters, pair by pair", key="adapters", bind="query-params"):
        with store.reading() as session:
            found = comparison.compare(session, runs, most_adapters=MAX_ADAPTERS, called=LABEL)
        if found.adapters:
            names = store.labels_of(runs)
            shown = [verdicts.renamed(verdict, names) for verdict in found.adapters]
            st.html(verdicts.verdict_table(shown))
        else:
            why = f"up to {MAX_ADAPTERS} scored runs are compared adapter by adapter"
            st.html(f'<p class="quiet">Here {why}; these are {len(runs)}.</p>')


page()
