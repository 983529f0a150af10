"""The answers to one question at each checkpoint of a run, and in other runs of the same data."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import pandas as pd
import streamlit as st

from src import store
from src.analysis import paired
from src.panel.errors.links import FilterLinks
from src.panel.ui import html, navigation
from src.store.tables import Evaluation, Run

MAX_STEPS = 40  # of a run, the last ones
MAX_SEARCHED = 50  # newest runs that are searched for ones with the same data
MAX_RUNS = 10  # with the same data, shown below the chosen ones

MEANING = {
    "learned": "wrong at first, right at the end",
    "forgotten": "right once, wrong at the end",
    "never": "wrong at every checkpoint",
    "always right": "right at every checkpoint",
}


def draw(run: Run, known: Sequence[Evaluation], other: Run | None, questions: pd.Series) -> None:
    """Draw the history of the question in `?word=`, with links to those before and after it in
    `questions`; nothing if there is none."""
    question = st.query_params.get("word")
    if not question:
        return
    split = known[0].split
    told = [(run, known)]
    with store.reading() as session:
        alike = [r for r in store.list_runs(session, limit=MAX_SEARCHED) if _same_data(r, run)]
        more = [other] if other and other.id != run.id else []
        more += [r for r in alike if r.id not in {run.id, *(m.id for m in more)}][:MAX_RUNS]
        told += [(one, store.list_evaluations(session, one.id, split=split)) for one in more]
    labels = store.labels_of([one for one, _ in told])
    rows = [_row(one, labels[one.id], scored, question) for one, scored in told]
    found = [row for row in rows if row is not None]
    title = html.printable(question)
    right = next((one for _, scored in told if (one := _right_answer(scored, question))), question)
    if right != question:
        title += f" <small>right: <b>{html.printable(right)}</b></small>"
    title = f"<h2>{title} {_around(question, questions)}</h2>"
    if not found:
        st.html(
            f'<section class="history">{title}<p class="quiet">No run was asked it.</p></section>'
        )
        return
    head = {"Run": "", "Outcome": "fit", "Answers by step": ""}
    st.html(f'<section class="history">{title}{html.table(head, found)}</section>')


def _same_data(run: Run, shown: Run) -> bool:
    read = [one.used.get("data_fingerprint") for one in (run, shown)]
    return bool(read[0] == read[1] if all(read) else run.config["data"] == shown.config["data"])


def _around(question: str, questions: Iterable[str]) -> str:
    """HTML: links to the word before and the word after, which the arrow keys follow (links.js),
    and one that closes the history."""
    links = FilterLinks()
    questions = list(dict.fromkeys(questions))  # own data may ask one twice
    place = questions.index(question) if question in questions else None
    parts = []
    for text, side, step, key in (("Previous", "before", -1, "←"), ("Next", "after", 1, "→")):
        to = None if place is None else place + step
        if to is not None and 0 <= to < len(questions):
            title = f"The word {side} it, key {key}"
            link = links.link(text, title, {"word": questions[to]})
            parts.append(f'<span class="{text.lower()}">{link}</span>')
    return "".join([*parts, links.link("Close", "Close the history", {"word": None})])


def _row(run: Run, label: str, known: Sequence[Evaluation], question: str) -> list[str] | None:
    """Cells of a table: the run, the outcome, and the answer at each step; None if never asked."""
    answers = list(_answers(known[-MAX_STEPS:], question))
    if not answers:
        return None
    story = paired.history([right for *_, right in answers])
    cells = []
    for step, predicted, right in answers:
        sign = "✓" if right else "✗"
        text = html.printable(predicted) or "<i>nothing</i>"
        tone = "good" if right else "bad"
        cells.append(f'<span class="{tone}"><small>{step:,}</small>{sign} <bdi>{text}</bdi></span>')
    told = f'<b class="{story.split()[0]}">{story}</b><small>{MEANING[story]}</small>'
    name = navigation.link("errors", label, {"run": run.id, "word": question})
    return [name, told, f'<div class="steps">{"".join(cells)}</div>']


def _right_answer(known: Sequence[Evaluation], question: str) -> str | None:
    """The expected answer to a question, by the last evaluation; None if it was not asked."""
    with suppress(OSError):
        found = paired.answer(known[-1].path, question) if known else None
        return found[0] if found else None
    return None


def _answers(known: Iterable[Evaluation], question: str) -> Iterable[tuple[int, str, bool]]:
    """(step, answer, is it right) of each evaluation that asked the question."""
    for evaluation in known:
        try:
            found = paired.answer(evaluation.path, question)
        except OSError:
            continue  # its file is gone
        if found:
            yield evaluation.step, found[1], found[2]
