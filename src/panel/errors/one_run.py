"""The misspelled words of one evaluation: numbers, charts that filter, and the table of words."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import streamlit as st

from src.analysis import misspellings
from src.format import counted, number, percent
from src.models.metrics import METRICS
from src.panel.errors import charts, filters, table
from src.panel.errors.links import FilterLinks
from src.panel.ui import html, letters, navigation
from src.store.tables import Evaluation, Run

CHARTS = ["Kinds and places", "Letters and lengths"]
HEAD = {"Question": "", "Expected": "word", "Predicted": "word", "Kind": "", "Edit distance": "num"}


def draw(
    run: Run,
    evaluation: Evaluation,
    frame: pd.DataFrame,
    draw_history: Callable[[pd.Series], None],
) -> None:
    """Draw one evaluation; `draw_history` comes above the table."""
    edits = misspellings.read_edits(evaluation.path)
    wrong = frame.loc[~frame["correct"], "edit_distance"]
    # Of a task whose answers are numbers, say, no letter is in a wrong place.
    spelled = wrong.empty or not edits.empty
    share = evaluation.correct / evaluation.rows if evaluation.rows else None
    facts = [(METRICS["exact_match"].title, percent(share))]
    many = f"{len(wrong):,} of {evaluation.rows:,}"
    if spelled:
        facts += [
            ("misspelled words", many),
            ("one edit away", counted(int((wrong == 1).sum()), "word")),
            ("edit distance, median", number(wrong.median(), "g")),
        ]
    else:
        facts.append(("wrong answers", many))
    st.html(html.facts([*facts, ("scored at step", f"{evaluation.step:,}")]))
    active, order = filters.draw(frame)
    masks = filters.masks(frame, edits, active)
    words = filters.ordered(filters.passing(masks, frame), order)
    links = FilterLinks()
    beside, place = table.columns()
    with beside:
        _draw_charts(links, frame, edits, masks)
    with place:
        draw_history(words["question"])
        if words.empty:
            table.draw_none("No word is wrong." if wrong.empty else "No word fits these filters.")
            return
        _draw_words(run, evaluation, words, links)


def _draw_words(run: Run, evaluation: Evaluation, words: pd.DataFrame, links: FilterLinks) -> None:
    start = table.shared_start(words["question"])

    def cells(row: Any) -> Iterable[str]:
        expected, predicted = letters.marked(row.expected, row.predicted)
        link = table.question(links, row.question, start)
        return link, expected, predicted, row.kind, str(row.edit_distance)

    table.draw(
        words, HEAD, cells, file_name=f"{run.id}-{evaluation.step}-{evaluation.split}", start=start
    )


def _draw_charts(
    links: FilterLinks, frame: pd.DataFrame, edits: pd.DataFrame, masks: dict[str, pd.Series]
) -> None:
    """Draw a row of charts, each of the words that pass all filters except its own."""

    def without(*names: str) -> pd.DataFrame:
        return filters.passing(masks, frame, ignoring=names)

    def with_right_words(*names: str) -> pd.DataFrame:
        return without(*filters.OF_ERRORS, *names)

    def edits_of(words: pd.DataFrame) -> pd.DataFrame:
        return edits[edits.index.isin(words.index)]

    shown = navigation.segments("Charts", CHARTS, key="map")
    if shown == CHARTS[0]:
        cards = [charts.kinds(links, misspellings.counts(without("kind")))]
        if not edits.empty:
            changes = edits_of(without("at", "length"))
            cards.append(charts.positions(links, with_right_words("length"), changes))
        st.html(charts.grid(cards))
        return
    columns = {
        "length": ("Accuracy by length, letters", "length"),
        "tokens": ("Accuracy by length, tokens", "answer_tokens"),
        "task": ("Accuracy by task", "task"),
    }
    if "answer_tokens" not in frame:
        del columns["tokens"]
    if frame["task"].nunique() <= 1:
        del columns["task"]
    by_letter = misspellings.accuracy_by_letter(with_right_words("letter"))
    stacked = [
        charts.accuracy(links, "Accuracy by letter, most frequent first", "letter", by_letter)
    ]
    for name, (title, column) in columns.items():
        accuracy = misspellings.accuracy_by(with_right_words(name), column)
        stacked.append(charts.accuracy(links, title, name, accuracy))
    confusions = charts.confusions(links, edits_of(without("letters")))
    st.html(charts.grid([confusions, *stacked]))
