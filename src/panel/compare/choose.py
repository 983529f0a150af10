"""The runs that the Compare page shows: read from its address, chosen from a list."""

from collections.abc import Iterable

import streamlit as st

from src import store
from src.analysis import comparison
from src.panel.ui import choices, html, navigation, query_params
from src.store.tables import Run, Status


def choose() -> list[Run]:
    """Draw the choice of runs; return those of `?run=` in the address, in its order."""
    with store.reading() as session:
        recent = store.list_runs(session, limit=navigation.MAX_CHOICES, archived=False)
        found, problems = [], []
        for name in dict.fromkeys(st.query_params.get_all("run")):
            try:
                found.append(store.find(session, name))
            except store.UnknownRun as error:
                problems.append(str(error))
        known = {run.id: run for run in (*recent, *found)}
        labels = navigation.with_outcomes(session, store.labels_of(known.values()))
    chosen = list(dict.fromkeys(run.id for run in found))
    st.session_state["compared"] = chosen  # each time: what a run is called changes
    st.multiselect(
        "Runs", list(known), chosen, key="compared", placeholder="Choose runs to compare",
        label_visibility="collapsed",
        format_func=choices.noting(lambda run_id: labels.get(run_id, run_id), "compared"),
        on_change=lambda: query_params.write("run", choices.meant("compared")),
    )  # fmt: skip
    for problem in problems:
        html.draw_problem(problem)
    runs = [known[run_id] for run_id in chosen]
    if more := _other_seeds(runs, recent):
        text = f"Add {len(more)} more {'seed' if len(more) == 1 else 'seeds'} of these configs"
        st.html(navigation.link("compare", text, {"run": [*chosen, *more]}))
    return runs


def _other_seeds(runs: Iterable[Run], known: Iterable[Run]) -> list[str]:
    """Ids of completed runs of the same configs that are not among `runs`."""
    shown = {run.id for run in runs}
    keys = {comparison.config_key(run) for run in runs}
    return [
        run.id
        for run in known
        if run.status == Status.COMPLETED
        and run.id not in shown
        and comparison.config_key(run) in keys
    ] if keys else []  # fmt: skip
