"""Tells labels from spellings: answers of which no other one can be worked out

A word that training never saw can be spelled, as its question shows its letters. A label that
training never saw can only be guessed.
"""

from collections import defaultdict
from collections.abc import Sequence

from src.text import caseless

ROWS_PER_ANSWER = 2  # labels repeat: there are at least so many rows for each
ROWS_TRIED = 20  # of an answer
ANSWERS_TRIED = 300
OTHERS = 3  # answers that a question is compared with, besides its own
SHOWN = 0.75  # share of the questions that are nearest to their own answer, from which on it shows


def are_labels(questions: Sequence[str], answers: Sequence[str]) -> bool:
    """True if the answers repeat and the questions do not show how they are spelled.

    A question shows its answer if a part of it is nearer to that answer than to others; each answer
    counts the same, whatever its number of rows.
    """
    asked: dict[str, list[str]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        asked[_letters(answer)].append(question)
    if len(asked) < 2 or len(answers) < ROWS_PER_ANSWER * len(asked):
        return False
    distinct = sorted(asked)
    step = -(-len(distinct) // ANSWERS_TRIED)
    tried = range(0, len(distinct), step)
    shares = [_share_shown(distinct, place, asked[distinct[place]]) for place in tried]
    return sum(shares) / len(shares) < SHOWN


def _share_shown(distinct: Sequence[str], place: int, questions: Sequence[str]) -> float:
    """Share of the questions of the answer at `place` that are nearer to it than to its
    followers."""
    from rapidfuzz.fuzz import partial_ratio

    own = distinct[place]
    others = {distinct[(place + n) % len(distinct)] for n in range(1, OTHERS + 1)} - {own}
    sample = [_letters(question) for question in questions[:ROWS_TRIED]]
    nearer = (
        all(partial_ratio(text, own) > partial_ratio(text, other) for other in others)
        for text in sample
    )
    return sum(nearer) / len(sample)


def _letters(text: str) -> str:
    """Without spaces: `r e c e i v e` spells the word of its question."""
    return "".join(caseless(text).split())
