"""The runs that the Compare page shows: read from its address, chosen from a list."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

import streamlit as st

from src import store
from src.analysis import comparison
from src.format import counted
from src.panel.compare import colours
from src.panel.ui import choices, navigation, query_params
from src.store.tables import Run, Status


def choose() -> tuple[list[Run], list[str]]:
    """Draw the choice of runs; return those of `?run=` in the address, in its order, and the ids of
    completed ones of the same configs."""
    with store.reading() as session:
        recent = store.list_runs(session, limit=navigation.MAX_CHOICES, archived=False)
        found, unknown = [], []
        for name in dict.fromkeys(st.query_params.get_all("run")):
            try:
                found.append(store.find(session, name))
            except store.UnknownRun as error:
                unknown.append(error)
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
    for no_run in unknown:
        navigation.draw_unknown_run(no_run)
    runs = [known[run_id] for run_id in chosen]
    return runs, _other_seeds(runs, recent)


def told(runs: Sequence[Run], more: Sequence[str]) -> str:
    """HTML: how many runs of how many configs these are, and a link that adds `more`. It gives each
    chip of the list the colour of its curves."""
    groups = comparison.grouped(runs, attrgetter("label"))
    places = {run.id: place for place, group in enumerate(groups) for run in group.runs}
    rules = [
        f'.st-key-compared [data-tag-index="{number}"] {{ {colours.chip(places[run.id])} }}'
        for number, run in enumerate(runs)
    ]
    link = ""
    if more:
        text = f"Add {counted(len(more), 'more seed')} of these configs"
        link = navigation.link("compare", text, {"run": [*(run.id for run in runs), *more]})
    many = f"{counted(len(runs), 'run')} of {counted(len(groups), 'config')}"
    return f'<p class="quiet">{many}. {link}</p><style>{" ".join(rules)}</style>'


def _other_seeds(runs: Iterable[Run], known: Iterable[Run]) -> list[str]:
    """Ids of completed runs that bring a seed to a config of `runs` which it lacks."""
    keys = {comparison.config_key(run) for run in runs}
    shown = {_seed(run) for run in runs if _counts(run)}
    more: dict[tuple[str, int], str] = {}
    for run in known if keys else ():
        if _counts(run) and comparison.config_key(run) in keys and _seed(run) not in shown:
            more.setdefault(_seed(run), run.id)
    return list(more.values())


def _seed(run: Run) -> tuple[str, int]:
    return comparison.config_key(run), run.config["training"]["seed"]


def _counts(run: Run) -> bool:
    """True if a comparison counts the run among the seeds of its config."""
    return run.status == Status.COMPLETED and run.stop_reason is None
