"""The words beside a run's curves: those it gets wrong now, and those it just learned."""

import os
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from itertools import accumulate

import pandas as pd

from src import store
from src.analysis import misspellings, paired
from src.format import cut
from src.panel.ui import letters, navigation
from src.store.tables import Evaluation, Run, Status

ROOM = 10  # lines of words beside the charts
MAX_LEARNED = 4  # lines of those
WIDE = 15  # letters of an answer beside which the other has no room
LETTERS = 48  # of an answer
HEADS = '<p class="heads"><span>expected</span><span>written</span></p>'
SOON = "The words that it gets wrong stand here from its first evaluation on."

Words = tuple[tuple[str, str, str], ...]  # (question, right answer, given answer)


def read(session: store.Session, run: Run) -> list[Evaluation]:
    """The evaluation that tells best what a run can, and the one before it, if there are some."""
    known = store.list_evaluations(session, run.id, split="validation")
    if Status(run.status).ended and (kept := store.final_evaluation(session, run)):
        known = [one for one in known if one.step <= kept.step]
    return list(known[-2:])


def shown(run: Run, evaluations: Sequence[Evaluation]) -> str | None:
    """HTML of the part; None where there is and will be nothing to show."""
    if not evaluations:
        told = f'<p class="quiet">{SOON}</p>'
        return None if Status(run.status).ended else _card("Words", "", told)
    now = evaluations[-1]
    before = evaluations[0] if len(evaluations) > 1 else None
    files = [one.path for one in (before, now) if one]
    try:
        learned, wrong = _words(tuple((file, os.stat(file).st_mtime_ns) for file in files))
    except OSError:
        return None  # the predictions are gone
    several = navigation.link("errors", "All words", {"run": run.id, "step": now.step})
    parts, room = [], ROOM
    if before:
        since = f"Learned since step {before.step:,}"
        few = _fitting(learned, MAX_LEARNED)
        parts.append(_part(run, since, learned, few, "None of those it missed then."))
        room -= max(1, sum(_lines(word) for word in learned[:few]))
    title = "Still wrong" if before else "Wrong"
    few = _fitting(wrong, room)
    parts.append(_part(run, title, wrong, few, "Every answer is right.", HEADS))
    return _card(f"Words at step {now.step:,}", several, "".join(parts))


def _card(title: str, link: str, body: str) -> str:
    head = f"<header><h3>{escape(title)}</h3>{link}</header>"
    return f'<section class="card words-now">{head}{body}</section>'


def _lines(word: tuple[str, str, str]) -> int:
    """Lines that the answers to a word take: one where both fit beside each other."""
    _, expected, predicted = word
    return 1 + (expected != predicted and max(len(expected), len(predicted)) > WIDE)


def _fitting(words: Words, room: int) -> int:
    """The number of words, from the first one on, that have room in so many lines."""
    taken = accumulate(_lines(word) for word in words[:room])
    return sum(lines <= room for lines in taken)


def _part(run: Run, title: str, words: Words, most: int, none: str, heads: str = "") -> str:
    """HTML: a heading with the number of words, and some of them below `heads`."""
    head = f"<h4>{escape(title)} <b>{len(words):,}</b></h4>"
    if not words:
        return f'{head}<p class="quiet">{none}</p>'
    rows = []
    for question, expected, predicted in words[:most]:
        right, given = letters.marked(expected[:LETTERS], predicted[:LETTERS])
        answers = f"<span>{right}</span>"
        answers += f"<span>{given}</span>" if expected != predicted else ""
        href = escape(navigation.address("errors", {"run": run.id, "word": question}))
        title = escape(f"How {cut(question, letters.MAX_SHOWN)} went over the checkpoints")
        rows.append(f'<a href="{href}" target="_self" title="{title}">{answers}</a>')
    return head + heads + "".join(rows)


@lru_cache(maxsize=64)
def _words(files: tuple[tuple[str, int], ...]) -> tuple[Words, Words]:
    """Words that the last of the files has right and the one before it wrong, and those that the
    last has wrong. Keyed by the time at which each was written."""
    frames = [misspellings.read(file) for file, _ in files]
    last = frames[-1]
    wrong = last[~last["correct"]]
    learned = last.iloc[:0]
    if len(frames) > 1:
        both = paired.pair_answers(*frames)
        fixed = both[both["outcome"] == "fixed"]
        learned = fixed.assign(predicted=fixed["predicted_b"])
    return _rows(learned), _rows(wrong)


def _rows(frame: pd.DataFrame) -> Words:
    columns = frame[["question", "expected", "predicted"]].astype(str)
    return tuple(columns.itertuples(index=False, name=None))
