"""Two evaluations beside each other: what the second fixed and broke, and both answers per word."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from src.analysis import misspellings, paired
from src.format import counted, percent, points
from src.models.metrics import METRICS
from src.panel.errors import charts, filters, table
from src.panel.errors.links import FilterLinks
from src.panel.ui import html, letters, navigation
from src.store.tables import Evaluation, Run

Side = tuple[Run, Evaluation]
History = Callable[[pd.Series], None]  # draws that of a word, among these questions


def draw(before: Side, after: Side, both: pd.DataFrame, draw_history: History) -> None:
    """Draw two evaluations; `both` is `paired.pair_answers` of them, whose columns end in _a for
    the first and _b for the second. `draw_history` comes above the table."""
    if both.empty:
        html.draw_empty("Nothing in common", "These two were scored on different questions.")
        return
    names = [f"{run.label} @{evaluation.step:,}" for run, evaluation in (before, after)]
    balance = paired.balance(both)
    _draw_balance(balance, names, paired.unpaired(before[1].rows, after[1].rows, both))
    if before[0].id != after[0].id:
        query = {"run": [before[0].id, after[0].id]}
        settings = navigation.link("compare", "Compare their settings", query)
        st.html(
            '<p class="quiet">The difference is of these two adapters; whether their settings '
            f"differ takes several seeds of each. {settings}</p>"
        )
    answers = [_answers(both, end) for end in ("_a", "_b")]
    edits = pd.concat([misspellings.edit_table(own) for own in answers])
    active, order = filters.draw(both)
    masks = filters.masks(both, edits, active)
    ranks = {outcome: place for place, outcome in enumerate(paired.OUTCOMES)}
    words = filters.ordered(filters.passing(masks, both), order)
    words = words.sort_values("outcome", key=lambda c: c.map(ranks), kind="stable")
    of_any_kind = filters.passing(masks, both, ignoring=("kind",))
    kinds = [misspellings.counts(own.loc[of_any_kind.index]) for own in answers]
    of_any_outcome = filters.passing(masks, both, ignoring=("outcome", "wrong"))
    links = FilterLinks()
    cards = [charts.outcomes(links, of_any_outcome), charts.kinds_beside(links, *kinds)]
    beside, place = table.columns()
    beside.html(charts.grid(cards))
    with place:
        draw_history(words["question"])
        if words.empty:
            table.draw_none("No word fits these filters.")
            return
        _draw_words(before, after, names, words, links)


def _draw_words(
    before: Side, after: Side, names: Sequence[str], words: pd.DataFrame, links: FilterLinks
) -> None:
    start = table.shared_start(words["question"])

    def cells(row: Any) -> Iterable[str]:
        first = _answer(row.expected, row.predicted_a, row.kind_a)
        second = _answer(row.expected, row.predicted_b, row.kind_b)
        link = table.question(links, row.question, start)
        outcome = f'<span class="outcome {row.outcome.split()[0]}">{escape(row.outcome)}</span>'
        return link, html.printable(row.expected), first, second, outcome

    head = {"Question": "", "Expected": "word", f"A: {names[0]}": "word",
            f"B: {names[1]}": "word", "Outcome": "fit"}  # fmt: skip
    ends = "-".join(f"{run.id}-{evaluation.step}" for run, evaluation in (before, after))
    table.draw(words, head, cells, file_name=ends, start=start)


def _draw_balance(balance: Mapping[str, Any], names: list[str], left_out: int) -> None:
    """Draw the counts of words fixed and broken, and their sum in a sentence."""
    accuracy = METRICS["exact_match"].title
    st.html(
        html.facts(
            [
                (f"{accuracy}, A", percent(balance["exact_match_a"])),
                (f"{accuracy}, B", percent(balance["exact_match_b"])),
                ("fixed", counted(balance["fixed"], "word")),
                ("broken", counted(balance["broken"], "word")),
                ("still wrong", counted(balance["still_wrong"], "word")),
                ("of them the same mistake", counted(balance["same_mistake"], "word")),
            ]
        )
    )
    gain = balance["fixed"] - balance["broken"]
    size, low, high = (points(balance[k], plus=True) for k in ("difference", "ci_low", "ci_high"))
    total = f"= {gain:+,} of {balance['questions']:,} questions".replace("-", "−")
    total += f", {size} points (95% CI {low} to {high})"
    rest = f" {left_out:,} questions that only one of them was asked are left out."
    st.html(
        f'<p class="quiet">From <b>A</b> ({escape(names[0])}) to <b>B</b> ({escape(names[1])}): '
        f"{balance['fixed']:,} fixed − {balance['broken']:,} broken {total}."
        f"{rest if left_out else ''}</p>"
    )


def _answers(both: pd.DataFrame, end: str) -> pd.DataFrame:
    """The answers of one of the two, as `misspellings.edit_table` takes them."""
    own = both[[f"correct{end}", f"kind{end}", f"edits{end}"]]
    return own.rename(columns=lambda name: name.removesuffix(end))


def _answer(expected: str, predicted: str, kind: str) -> str:
    """HTML: an answer with its wrong letters marked, over its kind of error."""
    return letters.marked(expected, predicted)[1] + f"<small>{escape(kind or 'right')}</small>"
