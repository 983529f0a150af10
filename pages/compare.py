"""Several runs: verdicts on their configs, their curves, settings and numbers."""

from collections.abc import Sequence
from html import escape
from operator import attrgetter

import streamlit as st

from src import store
from src.analysis import comparison, suite_comparison
from src.analysis.comparison import Comparison
from src.format import counted, full_stop
from src.panel.compare import choose, scores, share, suites, tabs, verdicts
from src.panel.report import button as report
from src.panel.ui import folds, guarded, html, navigation, tab
from src.store.tables import Run, Status

REFRESH_SECONDS = 3.0
LABEL = attrgetter("label")
MAX_NAMED = 2  # names in the browser's tab
MAX_ADAPTERS = 8  # more runs are not compared adapter by adapter
WILL = "Here several runs stand beside each other, with a verdict on which config spells better."
HOW = (
    "Choose runs above, or on the overview. Three seeds or more of each config let the page say "
    "which config spells better; runs that differ in nothing but their seed are one config."
)


def page() -> None:
    st.html('<h1 class="unseen">Compare</h1>')
    runs, more = choose.choose()
    if not runs and not navigation.known_runs():
        first = navigation.link("launch", "Set up the first run", style="button")
        html.draw_empty("No runs yet", f"{WILL}<br><br>{first}")
        return
    if len(runs) < 2:
        link = navigation.link("", "Choose runs on the overview", style="button")
        title = "One more run to compare it with" if runs else "Nothing chosen yet"
        html.draw_empty(title, f"{HOW}<br><br>{link}")
        return
    with st.container(horizontal=True, vertical_alignment="center", key="compared-head"):
        st.html(choose.told(runs, more), width="content")
        report.draw([run.id for run in runs])
    names = list(dict.fromkeys(run.name for run in runs))
    told = " and ".join(names) if len(names) <= MAX_NAMED else counted(len(runs), "run")
    tab.show("Compare", told)
    live = any(not Status(run.status).ended for run in runs)
    refreshes = live and not tabs.is_editing()  # a refresh would interrupt who types
    every = REFRESH_SECONDS if refreshes else None
    st.fragment(draw_runs, run_every=every)([run.id for run in runs], live, refreshes, bool(more))


def draw_runs(ids: Sequence[str], live: bool, refreshes: bool, has_more: bool) -> None:
    """Draw what these runs say; `has_more`: there are more seeds of theirs, which are offered."""
    if live and refreshes == tabs.is_editing():
        navigation.rerun_page()
    guarded.draw_told()
    with store.reading() as session:
        runs = store.runs_of(session, ids)
        found = comparison.compare(session, runs, most_adapters=0, called=LABEL)
        on_suites = suite_comparison.compare(session, found.groups)
    if len(runs) < len(ids) or live and all(Status(run.status).ended for run in runs):
        navigation.rerun_page()  # one was deleted, or all have ended
    draw_verdicts(runs, found, has_more=has_more)
    suites.draw(on_suites, found.groups)
    tabs.draw(runs, found)


def draw_verdicts(runs: Sequence[Run], found: Comparison, *, has_more: bool) -> None:
    if headline := verdicts.headline(found):
        st.html(headline)
    with st.container(horizontal=True, vertical_alignment="center", key="below-verdict"):
        if link := verdicts.words_link(found):
            st.html(link, width="content")
        if headline:
            share.draw(found)
    for note in found.notes:
        folds.draw("note", escape(full_stop(note)))
    st.html(scores.score_table(found, on_page=True))
    if found.configs:
        if len(found.configs) > 1:
            order = [group.name for group in verdicts.ranked(found)]
            st.html(verdicts.verdict_table(found.configs, order))
        if not has_more:  # to add them comes first, and costs nothing
            verdicts.draw_missing(found)
        judged = f"<summary>How this is judged</summary><p>{verdicts.SEVERAL_LOOKS}</p>"
        st.html(f'<details class="untested">{judged}</details>')
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
