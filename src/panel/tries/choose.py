"""The adapters and the texts that the Try page asks: read from its address, chosen and typed."""

import streamlit as st

from src import store
from src.config import stored_config
from src.errors import UserError, explain
from src.format import full_stop
from src.panel.ui import choices, html, navigation, query_params
from src.runs import attempts
from src.store.tables import Run
from src.training.questions import MAX_SPELLERS, Speller

MAX_ADDRESS = 4_000  # letters of texts in an address; more could not be loaded again
TYPED, SHOWN, LONG = "typed texts", "texts of the address", "texts beyond the address"


def adapters() -> tuple[list[Speller], dict[str, str]]:
    """Draw the choice of adapters; return those of `?run=RUN` or `?run=RUN@STEP`, else that of the
    newest run that was scored, with their labels. What cannot be asked is told in a sentence."""
    with store.reading() as session:
        labels = store.run_labels(session, limit=navigation.MAX_CHOICES)
        told = navigation.with_outcomes(session, labels)
        newest = store.newest_scored(session)
        asked = st.query_params.get_all("run") or ([newest] if newest else [])
        found: dict[str, tuple[Run, int | None]] = {}
        problems, unknown = [], []
        for name in dict.fromkeys(asked):
            try:
                run, step = store.find_checkpoint(session, name)
                found[run.id if step is None else f"{run.id}@{step}"] = run, step
            except store.UnknownRun as error:
                unknown.append(error)
        known = list(labels)
        for run, _ in found.values():
            steps = [one.step for one in store.list_checkpoints(session, run.id)]
            known += [run.id, *(f"{run.id}@{step}" for step in steps)]
    chosen = list(found)[:MAX_SPELLERS]
    if st.session_state.get("tried runs") != chosen:
        st.session_state["tried runs"] = chosen
    st.multiselect(
        "Adapters", list(dict.fromkeys([*known, *chosen])), chosen, key="tried runs",
        placeholder="Choose runs and checkpoints", max_selections=MAX_SPELLERS,
        format_func=choices.noting(lambda n: told.get(n) or _label(n, labels), "tried runs"),
        on_change=lambda: query_params.write("run", choices.meant("tried runs")),
    )  # fmt: skip
    spellers = []
    for name in chosen:
        try:
            spellers.append(_speller(name, *found[name]))
        except (UserError, OSError) as error:
            run_id = found[name][0].id
            problems.append(explain(error).replace(run_id, labels.get(run_id, run_id)))
    for no_run in unknown:
        navigation.draw_unknown_run(no_run)
    for problem in problems:
        html.draw_problem(full_stop(problem))
    return spellers, {one.name: _label(one.name, labels) for one in spellers}


def _speller(name: str, run: Run, step: int | None) -> Speller:
    return Speller(name, stored_config(run.config), attempts.adapter_folder(run, step))


def _label(name: str, labels: dict[str, str]) -> str:
    run_id, _, step = name.partition("@")
    return labels.get(run_id, run_id) + (f", step {step}" if step else "")


def texts() -> list[str]:
    """Draw the field of texts; return its lines, which are those of `?word=` in the address."""
    lines = st.query_params.get_all("word")
    if lines:
        st.session_state.pop(LONG, None)
    lines = lines or st.session_state.get(LONG, [])
    # The address decides; the field only writes it.
    if st.session_state.get(SHOWN) != lines:
        st.session_state[SHOWN], st.session_state[TYPED] = lines, "\n".join(lines)
    st.text_area(
        "Words, or one prompt per line",
        key=TYPED,
        height=100,
        placeholder="recieve",
        help="A word is asked as the run's task asks it; a line with spaces is a prompt as it "
        "stands. The right answer may follow after a tab, as in two columns of a spreadsheet.",
        on_change=_write,
    )
    return list(lines)


def _write() -> None:
    lines = [line.strip() for line in st.session_state[TYPED].splitlines() if line.strip()]
    is_long = sum(map(len, lines)) > MAX_ADDRESS
    st.session_state[LONG] = lines if is_long else []
    st.session_state[SHOWN] = lines
    query_params.write("word", None if is_long else lines)
