"""The runs that the Compare page shows: read from its address, chosen from a list."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

import streamlit as st

from src import store
from src.analysis import comparison
from src.format import counted
from src.panel.ui import choices, html, navigation, query_params
from src.panel.ui.charts import PALETTE
from src.store.tables import Run, Status


def choose() -> tuple[list[Run], list[str]]:
    """Draw the choice of runs; return those of `?run=` in the address, in its order, and the ids of
    completed ones of the same configs."""
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
    return runs, _other_seeds(runs, recent)


def told(runs: Sequence[Run], more: Sequence[str]) -> str:
    """HTML: how many runs of how many configs these are, and a link that adds `more`. It gives each
    chip of the list the colour of its curves."""
    groups = comparison.grouped(runs, attrgetter("label"))
    places = {run.id: place for place, group in enumerate(groups) for run in group.runs}
    rules = [
        f'.st-key-compared [data-tag-index="{number}"]'
        f" {{ background: var(--curve-{places[run.id] % PALETTE + 1}) }}"
        for number, run in enumerate(runs)
    ]
    link = ""
    if more:
        text = f"Add {counted(len(more), 'more seed')} of these configs"
        link = navigation.link("compare", text, {"run": [*(run.id for run in runs), *more]})
    many = f"{counted(len(runs), 'run')} of {counted(len(groups), 'config')}"
    return f'<p class="quiet">{many}. {link}</p><style>{" ".join(rules)}</style>'


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
