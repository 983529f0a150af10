"""Letters that a word has or not: `Does receive contain the letter c?` -> `yes`"""

import random
from string import ascii_lowercase

from src.tasks.task import Asked, Task
from src.text import caseless

OPPOSITE, NEITHER = "the opposite", "neither yes nor no"


def make(word: str, rng: random.Random) -> Asked:
    has = rng.random() < 0.5
    letter = rng.choice([one for one in ascii_lowercase if (one in word) == has])
    return Asked("yes" if has else "no", {"letter": letter})


def _said(prediction: str) -> str:
    return caseless(prediction).strip().removesuffix(".")


def is_right(question: str, answer: str, prediction: str) -> bool:
    """True for the right word in whatever case."""
    return _said(prediction) == answer


def kind(question: str, answer: str, prediction: str) -> str:
    return OPPOSITE if _said(prediction) in ("yes", "no") else NEITHER


TASK = Task(
    name="contains",
    summary="yes or no: whether a letter stands in a word; half of the answers are yes",
    phrasings=(
        "Does {word} contain the letter {letter}?",
        "Is there a letter {letter} in the word {word}?",
        "Does the letter {letter} stand in {word}?",
    ),
    make=make,
    answers="choice",
    is_right=is_right,
    kind=kind,
    kinds={OPPOSITE: "yes for no, or no for yes", NEITHER: "something else than yes or no"},
)
