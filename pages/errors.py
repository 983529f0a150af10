"""The words that the kept adapter of a run misspells: found, sorted, marked, downloaded."""

from functools import partial
from html import escape

import pandas as pd
import streamlit as st

from src.panel import parts, words
from src.runs import store
from src.runs.table import Evaluation, Run

ROWS_A_PAGE = 100


def page() -> None:
    st.html('<h1 class="unseen">Misspelled words</h1>')
    with st.container(horizontal=True, vertical_alignment="center"):
        run = parts.pick_run()
        if run is None:
            return
        split = st.segmented_control(
            "Split", ["validation", "test"], default="validation", required=True,
            key="split", bind="query-params", label_visibility="collapsed",
        )  # fmt: skip
        st.html(parts.link("monitor", "Curves and log", {"run": run.id}), width="content")
    with store.reading() as session:
        evaluation = store.final_evaluation(session, run, split=split)
    if evaluation is None:
        nothing_yet(run, split)
    else:
        scored(run, evaluation)


def nothing_yet(run: Run, split: str) -> None:
    text = f"This run is {run.status.lower()} and has not been scored on its {split} words."
    hint = parts.link("monitor", "Follow it", {"run": run.id})
    parts.empty("No scored words", f"{escape(text)}<br>{hint}")


def scored(run: Run, evaluation: Evaluation) -> None:
    try:
        frame = store.predictions(evaluation)
    except OSError as error:
        parts.empty("The predictions are gone", escape(str(error)))
        return
    wrong = frame.loc[~frame["correct"], "edit_distance"]
    st.html(
        parts.facts(
            [
                ("exact match", parts.percent(evaluation.correct / max(evaluation.rows, 1))),
                ("misspelled", f"{len(wrong):,} of {evaluation.rows:,} words"),
                ("one edit away", f"{int((wrong == 1).sum()):,} words"),
                ("edit distance, median", parts.number(wrong.median(), "g")),
                ("scored at step", f"{evaluation.step:,}"),
            ]
        )
    )
    kept = filtered(frame, f"{run.id}-{evaluation.split}")
    if kept.empty:
        none = "No word is wrong." if wrong.empty else "No word fits these filters."
        parts.empty(none, "Turn on “Right words too” to see the others." if wrong.empty else "")
        return
    table(kept)


def filtered(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The words that fit the filters, which stand in the address, and the files of them."""
    bound = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kept = words.select(
            frame,
            text=st.text_input("Find", placeholder="some letters", width=220, key="find", **bound),
            distance=st.selectbox(
                "Edit distance", list(words.DISTANCES), width=150, key="distance", **bound
            ),
            order=st.selectbox("Order", list(words.ORDERS), width=210, key="order", **bound),
            every=st.toggle("Right words too", key="every", **bound),
        )
        st.space("stretch")
        for kind, mime, write in (
            ("CSV", "text/csv", words.to_csv),
            ("JSON", "application/json", words.to_json),
        ):
            file = f"{name}.{kind.lower()}"
            # Written when it is asked for, not at each key stroke.
            st.download_button(kind, partial(write, kept), file, mime, on_click="ignore")
    return kept


def table(kept: pd.DataFrame) -> None:
    pages = -(-len(kept) // ROWS_A_PAGE)
    number = 1
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="quiet">{len(kept):,} words. Underlined letters differ.</p>')
        if pages > 1:
            number = st.number_input(
                f"Page of {pages}", 1, pages, width=150, key="page", bind="query-params"
            )
    shown = kept.iloc[(number - 1) * ROWS_A_PAGE : number * ROWS_A_PAGE]
    head = {"Question": "", "Expected": "word", "Predicted": "word", "Edit distance": "num"}
    rows = (
        [words.shown(r.question), *words.marked(r.expected, r.predicted), str(r.edit_distance)]
        for r in shown.itertuples()
    )
    st.html(parts.table(head, rows))


page()
