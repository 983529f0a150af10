"""The words that an adapter misspells, by kind, and what another one fixed and broke."""

from collections.abc import Sequence
from functools import partial
from html import escape

import streamlit as st

from src import store
from src.analysis import misspellings, paired
from src.panel.errors import one_run, two_runs, word_history
from src.panel.ui import html, navigation
from src.store.tables import Evaluation, Run, Status
from src.training.suites import PREFIX

BOUND = {"bind": "query-params"}
NOTHING = "nothing"


def page() -> None:
    st.html('<h1 class="unseen">Misspelled words</h1>')
    split_step_from_run()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        run = navigation.pick_run(scored=True)
        if run is None:
            return
        navigation.set_title("Errors", run)
        split = navigation.segments("Split", splits_of(run), key="split")
        with store.reading() as session:
            evaluations = store.list_evaluations(session, run.id, split=split)
        if not evaluations:
            draw_unscored(run, split)
            return
        steps = [str(e.step) for e in evaluations]
        step = st.selectbox("Step", ["best", *steps], width=110, key="step", **BOUND)
        with store.reading() as session:
            name = run.id if step == "best" else f"{run.id}@{step}"
            _, evaluation, _ = store.scored(session, name, split=split)
            other = pick_other(session, run, evaluation, evaluations, split)
        st.html(navigation.link("monitor", "Curves and log", {"run": run.id}), width="content")
        st.html(navigation.link("try", "Try other words", {"run": name}), width="content")
    try:
        frame = misspellings.read(evaluation.path)
        second = misspellings.read(other[1].path) if other else None
    except OSError as error:
        html.draw_empty("The predictions are gone", escape(str(error)))
        return
    draw_history = partial(word_history.draw, run, evaluations, other[0] if other else None)
    if other and second is not None:
        both = paired.pair_answers(frame, second)
        two_runs.draw((run, evaluation), other, both, draw_history)
    else:
        one_run.draw(run, evaluation, frame, draw_history)


def splits_of(run: Run) -> list[str]:
    """The splits that one may choose: the validation and the test set, and the run's suites."""
    with store.reading() as session:
        suites = store.suite_evaluations(session, [run.id], PREFIX)
    return ["validation", "test", *dict.fromkeys(scored.split for scored in suites)]


def split_step_from_run() -> None:
    """Turn `?run=RUN@STEP`, as checkpoints are named everywhere, into `?run=RUN&step=STEP`."""
    asked = st.query_params.get("run", "")
    if "@" not in asked:
        return
    try:
        with store.reading() as session:
            run, step = store.find_checkpoint(session, asked)
    except store.UnknownRun:
        return  # the choice of the run says so
    if step is not None:
        named = {"run": run.id, "step": str(step)}
        navigation.go("errors", st.query_params.to_dict() | named)


def draw_unscored(run: Run, split: str) -> None:
    text = f"This run is {run.status.lower()} and has not been scored on its {split} words."
    ended = Status(run.status).ended
    hint = navigation.link("monitor", "See why" if ended else "Follow it", {"run": run.id})
    html.draw_empty("No scored words", f"{escape(text)}<br>{hint}")


def pick_other(
    session: store.Session, run: Run, shown: Evaluation, known: Sequence[Evaluation], split: str
) -> tuple[Run, Evaluation] | None:
    """Draw the choice of what to compare with; return it: `?vs=RUN` or `?vs=RUN@STEP`."""
    asked = st.query_params.get("vs", "")
    runs = [i for i in store.run_ids(session, limit=navigation.MAX_CHOICES) if i != run.id]
    names = [f"{run.id}@{e.step}" for e in known if e.step != shown.step] + runs
    try:
        found = store.scored(session, asked, split=split) if asked else None
    except store.UnknownRun:
        found = None
    if found:
        # Also offer the other steps of the run that was chosen.
        names += [f"{found[0].id}@{e.step}" for e in found[2]] + [asked]
    name = st.selectbox("Compare with", [NOTHING, *dict.fromkeys(names)], key="vs", **BOUND)
    if name == NOTHING:
        return None
    try:
        other = store.scored(session, name, split=split)
    except store.UnknownRun as error:
        html.draw_problem(str(error))
        return None
    return other[0], other[1]


page()
