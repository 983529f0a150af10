"""Answers side by side, with the letters that differ marked, and the file of what failed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from src import paths
from src.errors import UserError, explain
from src.format import chance, counted, cut
from src.panel.ui import guarded, html, letters, navigation
from src.panel.ui.html import printable
from src.training.questions import Answer, QuestionError, Speller, keep_questions, missed

Rows = Sequence[Sequence[Answer]]
FILE = "missed.jsonl"
MAX_BESIDE = 3  # answers with their tokens
TOLD = "Under each answer stand its probability and the time that it took."
JUDGED = "Underlined letters differ from the right answer."
UNJUDGED = "Write the right answer behind a tab, and the letters that differ are underlined."
KEEP = "What was wrong can be kept as questions of a test file, to be scored again later."
KNOWN = {True: "right", False: "wrong", None: ""}


def answers(
    rows: Rows, spellers: Sequence[Speller], texts: Sequence[str], labels: Mapping[str, str]
) -> None:
    """Draw a table of all answers, how many were right, and more of a single text. `labels` are the
    names of adapters for people."""
    names = [labels.get(one.name, Path(one.name).name + " (base model)") for one in spellers]
    head = {"Text": "word", "Right answer": "word"} | dict.fromkeys(names, "word")
    cells = map(_cells, texts, rows)
    st.html(html.table(head, cells, name="words answers"))
    sums = "".join(_sums(rows, names))
    is_judged = any(one.expected is not None for row in rows for one in row)
    st.html(f'<p class="quiet">{sums}{TOLD} {JUDGED if is_judged else UNJUDGED}</p>')
    if len(rows) == 1:
        for place, name, answer in zip(_places(len(names)), names, rows[0], strict=True):
            with place:
                _draw_one(name, answer)
    _draw_keep(missed(rows, spellers))


def _cells(typed: str, row: Sequence[Answer]) -> Iterator[str]:
    query = {**st.query_params.to_dict(), "run": st.query_params.get_all("run"), "word": typed}
    yield navigation.link("try", cut(row[0].text, letters.MAX_SHOWN), query)
    known = dict.fromkeys(one.expected for one in row if one.expected is not None)
    right = (printable(cut(one, letters.MAX_SHOWN)) for one in known)
    yield "<br>".join(f"<bdi>{one}</bdi>" for one in right) or "–"
    yield from map(_cell, row)


def _cell(answer: Answer) -> str:
    # Where no right answer is known nothing differs from it.
    right = answer.predicted if answer.expected is None else answer.expected
    shown = letters.marked(right, answer.predicted)[1]
    parts = [KNOWN[answer.correct], chance(answer.probability), f"{answer.seconds:.2f} s"]
    return f"{shown}<small>{' · '.join(part for part in parts if part)}</small>"


def _sums(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        judged = [one.correct for one in column if one.correct is not None]
        if len(judged) > 1:
            yield escape(f"{name}: {sum(judged):,} of {len(judged):,} right. ")


def _places(count: int) -> list[DeltaGenerator]:
    """Where so many answers are drawn: beside each other while there is room."""
    return st.columns(count) if count <= MAX_BESIDE else [st.container() for _ in range(count)]


def _draw_one(name: str, answer: Answer) -> None:
    """Draw the likeliest answers of one speller and its tokens."""
    rows = [
        (
            letters.marked(one.answer, one.answer)[1],
            chance(one.probability),
            KNOWN[one.correct],
        )
        for one in answer.likeliest
    ]
    head = {"Likeliest answers": "word", "Probability": "num", "": "fit"}
    st.html(
        f"<h2>{escape(name)}</h2>{html.table(head, rows)}"
        f'<p class="quiet">Reads {counted(len(answer.prompt_tokens), "token")}</p>'
        f"{letters.pieces(answer.prompt_tokens)}"
        f'<p class="quiet">Writes {counted(len(answer.answer_tokens), "token")}</p>'
        f"{letters.pieces(answer.answer_tokens)}"
    )


def _draw_keep(failed: list[tuple[str, str]]) -> None:
    """Draw the field and button that keep what failed in a file of the home."""
    if not failed:
        return
    st.html(f'<p class="quiet">{KEEP}</p>')
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(
            "Test file",
            FILE,
            key="test file",
            width=240,
            help=f"In {paths.home() / 'data'}, for data.path and spelltune evaluate",
        )
        label = f"Add {counted(len(failed), 'wrong answer')}"
        guarded.button(label, on_click=_keep, args=(failed,))
    if told := st.session_state.pop("kept", None):
        st.html(f'<p class="quiet" role="status">{html.with_code(told)}</p>')
    if problem := st.session_state.pop("not kept", None):
        html.draw_problem(problem)


def _keep(failed: list[tuple[str, str]]) -> None:
    try:
        file = file_of(st.session_state["test file"])
        count = keep_questions(file, failed)
        known = len(failed) - count
        there = f", {known:,} stood there already" if known else ""
        told = f"`{file}` has {counted(count, 'new question')}{there}."
        st.session_state["kept"] = told
    except (UserError, OSError) as error:
        st.session_state["not kept"] = explain(error)


def file_of(name: str) -> Path:
    """The file of this name in the home's data folder. QuestionError for another kind of name."""
    if not re.fullmatch(r"[\w-][\w. -]{0,80}\.jsonl", name.strip()):
        raise QuestionError(
            f"{name[:40]!r} is no name for a test file; take letters and digits with .jsonl at "
            f"the end, such as {FILE}"
        )
    return paths.home() / "data" / name.strip()
