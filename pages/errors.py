"""The words that an adapter misspells, by kind, and what another one fixed and broke."""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape

import streamlit as st

from src import store
from src.analysis import misspellings, paired
from src.models.metrics import SUITE, split_label
from src.panel.errors import one_run, two_runs, word_history
from src.panel.ui import choices, html, navigation, query_params, tab
from src.store.tables import Evaluation, Run, Status

NOTHING = "nothing"
WILL = "Here stand the words that a run still misspells, by kind, and what another run does better."


def page() -> None:
    st.html('<h1 class="unseen">Misspelled words</h1>')
    split_step_from_run()
    with st.container(horizontal=True, vertical_alignment="bottom", key="errors-head"):
        labels = navigation.known_runs()
        run = navigation.pick_run(labels, will=WILL, scored=True, show_label=True)
        if run is None:
            return
        tab.show_run("Errors", run)
        splits = splits_of(run)
        draw = choices.segment if len(splits) <= navigation.MAX_SEGMENTS else choices.one
        split = draw("Split", splits, split_label, key="split")
        with store.reading() as session:
            evaluations = store.list_evaluations(session, run.id, split=split)
        if not evaluations:
            draw_unscored(run, split)
            return
        steps = [str(e.step) for e in evaluations]
        step = st.selectbox("Step", ["best", *steps], width=110, key="step", bind="query-params")
        with store.reading() as session:
            name = run.id if step == "best" else f"{run.id}@{step}"
            _, evaluation, _ = store.scored(session, name, split=split)
            other = pick_other(session, run, evaluation, evaluations, labels)
        if other:
            query = {"run": other[0].id, "step": other[1].step, "split": split}
            query |= {"vs": f"{run.id}@{evaluation.step}"}
            st.html(navigation.link("errors", "Swap A and B", query), width="content")
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
        suites = store.suite_evaluations(session, [run.id], SUITE)
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
    asked = split_label(split) if split.startswith(SUITE) else f"its {split} words"
    text = f"This run is {run.status.lower()} and has not been scored on {asked}."
    ended = Status(run.status).ended
    hint = navigation.link("monitor", "See why" if ended else "Follow it", {"run": run.id})
    html.draw_empty("No scored words", f"{escape(text)}<br>{hint}")


def pick_other(
    session: store.Session, run: Run, shown: Evaluation, scored: Sequence[Evaluation],
    labels: Mapping[str, str],
) -> tuple[Run, Evaluation] | None:  # fmt: skip
    """Draw the choice of what to compare with; return it: `?vs=RUN` or `?vs=RUN@STEP`."""
    asked = st.query_params.get("vs", "")
    words = {NOTHING: NOTHING}
    words |= {f"{run.id}@{e.step}": f"step {e.step:,} of this run" for e in scored
              if e.step != shown.step}  # fmt: skip
    words |= {run_id: label for run_id, label in labels.items() if run_id != run.id}
    try:
        found = store.scored(session, asked, split=shown.split) if asked else None
    except store.UnknownRun:
        found = None
    if found:
        # Also offer the other steps of the run that was chosen. An address may call it by name.
        other, evaluation, steps = found
        label = labels.get(other.id, other.id)
        more = {f"{other.id}@{e.step}": f"{label}, step {e.step:,}" for e in steps}
        words = words | {other.id: label} | more | words
        if asked not in words:
            at = "" if store.find_checkpoint(session, asked)[1] is None else f"@{evaluation.step}"
            query_params.write("vs", f"{other.id}{at}")
    name = choices.one("Compare with", list(words), words.__getitem__, key="vs")
    if name == NOTHING:
        return None
    try:
        chosen = store.scored(session, name, split=shown.split)
    except store.UnknownRun as error:
        navigation.draw_unknown_run(error)
        return None
    return chosen[0], chosen[1]


page()
