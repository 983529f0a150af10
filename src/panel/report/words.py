"""The words of a report: kinds of error, and twenty words with what each config answered."""

from collections.abc import Sequence
from functools import reduce
from html import escape

import pandas as pd

from src.analysis.paired import KEY
from src.format import counted, cut
from src.models.metrics import split_label
from src.panel.report.content import Answers, Content
from src.panel.ui import html, letters

MAX_CONFIGS = 4  # whose answers stand beside each other
MAX_WORDS = 20


def kinds(content: Content) -> str:
    """HTML: how often each kind of error is made, by config."""
    answers = content.answers[:MAX_CONFIGS]
    names = dict.fromkeys(kind for one in answers for kind in one.kinds)
    order = sorted(names, key=lambda kind: -sum(one.kinds.get(kind, 0) for one in answers))
    if not order:
        return '<p class="quiet">No answer is wrong.</p>'
    most = max(one.kinds[kind] for one in answers for kind in one.kinds)
    rows = [
        [escape(kind), *(_bar(one.kinds.get(kind, 0), most) for one in answers)] for kind in order
    ]
    head = {"Kind": "fit"} | {_heading(one, answers): "" for one in answers}
    several = any(one.seeds > 1 for one in answers)
    mean = " Counts are means over the seeds of a config." if several else ""
    asked = ", ".join(dict.fromkeys(f"{len(one.frame):,}" for one in answers))
    told = f"Of {asked} {split_label(content.split)} answers.{mean}{_left_out(content)}"
    return f'{html.table(head, rows)}<p class="quiet">{escape(told)}</p>'


def _heading(one: Answers, answers: Sequence[Answers]) -> str:
    return one.group.name if len(answers) > 1 else "Errors"


def _bar(count: float, most: float) -> str:
    text = f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"
    return (
        f'<span class="count"><b>{text}</b><span class="bar active"><i style="width:'
        f'{count / most:.1%}"></i></span></span>'
    )


def _left_out(content: Content) -> str:
    more = len(content.answers) - MAX_CONFIGS
    return f" {counted(more, 'more config')} are not shown here." if more > 0 else ""


def words(content: Content) -> str:
    """HTML: at most MAX_WORDS words that some config got wrong, those first that not all did."""
    answers = content.answers[:MAX_CONFIGS]
    frame = _beside(answers)
    wrong = frame[~frame["all_right"]]
    if wrong.empty:
        return '<p class="quiet">Every word is right.</p>'
    rows = [
        [html.printable(cut(row["question"], letters.MAX_SHOWN)), *_cells(row, len(answers))]
        for row in wrong.head(MAX_WORDS).to_dict("records")
    ]
    if len(answers) == 1:
        head = {"Question": "", "Expected": "word", "Answer": "word", "Kind": "fit"}
    else:
        head = {"Question": "", "Expected": "word"} | {one.group.name: "word" for one in answers}
    note = escape(_note(content, wrong))
    return f'{html.table(head, rows, name="words")}<p class="quiet">{note}</p>'


def _note(content: Content, wrong: pd.DataFrame) -> str:
    answers = content.answers[:MAX_CONFIGS]
    shown = min(len(wrong), MAX_WORDS)
    of = f"{shown} of the {len(wrong):,} words" if shown < len(wrong) else f"All {shown} words"
    order = "those first on which the configs differ" if len(answers) > 1 else "most edits first"
    whose = "; ".join(f"{one.run.id} at step {one.step:,}" for one in answers)
    return (
        f"{of} of the {split_label(content.split)} set that are wrong, {order}. "
        f"Underlined letters differ. Answers of {whose}.{_left_out(content)}"
    )


def _beside(answers: Sequence[Answers]) -> pd.DataFrame:
    """One row a question that all were asked, those first on which they differ, then by edits."""
    own = ["predicted", "correct", "kind", "edit_distance"]
    frames = [
        one.frame[[*KEY, *own]].drop_duplicates(KEY).rename(columns={c: f"{c} {n}" for c in own})
        for n, one in enumerate(answers)
    ]
    frame = reduce(lambda a, b: a.merge(b, on=KEY), frames)
    right = frame[[f"correct {n}" for n in range(len(answers))]].astype(bool)
    edits = frame[[f"edit_distance {n}" for n in range(len(answers))]].sum(axis=1)
    frame = frame.assign(all_right=right.all(axis=1), differ=right.nunique(axis=1) > 1, edits=edits)
    order = ["differ", "edits", *KEY]
    return frame.sort_values(order, ascending=[False, False, True, True], kind="stable")


def _cells(row: dict[str, object], many: int) -> list[str]:
    """HTML: the expected answer and each one that was given, with its wrong letters marked."""
    expected, cells = str(row["expected"]), []
    for n in range(many):
        predicted = letters.marked(expected, str(row[f"predicted {n}"]))[1]
        kind = escape(str(row[f"kind {n}"] or "right"))
        cells.append(predicted if many == 1 else f"{predicted}<small>{kind}</small>")
    if many == 1:
        return [letters.marked(expected, str(row["predicted 0"]))[0], *cells, kind]
    return [html.printable(cut(expected, letters.MAX_SHOWN)), *cells]
