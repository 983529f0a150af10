"""Words that differ in one letter: `Which of these is one letter away from ...?`"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache

from src.tasks.letters import are_neighbours
from src.tasks.task import Asked, Task, shuffled
from src.tasks.words import real_words, split_of

OPTIONS = 4  # one of them is right
TRIES = 50  # words that are drawn for the wrong options


def _holes(word: str) -> Iterator[str]:
    """Patterns that words one letter apart have in common."""
    for at in range(len(word) + 1):
        yield f"{word[:at]}_{word[at:]}"
        if at < len(word):
            yield f"{word[:at]}_{word[at + 1 :]}"


@cache
def _known(split: str) -> tuple[Sequence[str], dict[str, list[str]]]:
    """The real words of a split, and those that fit each pattern of `_holes`."""
    words = sorted(word for word in real_words() if word.isascii() and split_of(word) == split)
    fits: dict[str, list[str]] = defaultdict(list)
    for word in words:
        for pattern in _holes(word):
            fits[pattern].append(word)
    return words, fits


def make(word: str, rng: random.Random) -> Asked | None:
    words, fits = _known(split_of(word))
    near = {other for pattern in _holes(word) for other in fits.get(pattern, ())}
    near = {other for other in near if are_neighbours(word, other)}
    if not near:
        return None
    right = rng.choice(sorted(near))
    wrong: set[str] = set()
    for other in (rng.choice(words) for _ in range(TRIES)):
        far = other != word and not are_neighbours(word, other)
        if far and abs(len(other) - len(word)) <= 1 and len(wrong) < OPTIONS - 1:
            wrong.add(other)
    if len(wrong) < OPTIONS - 1:
        return None
    return Asked(right, {"options": ", ".join(shuffled([right, *sorted(wrong)], rng))})


def kind(question: str, answer: str, prediction: str) -> str | None:
    fields = TASK.read(question)
    options = fields["options"].split(", ") if fields else []
    return "another option" if prediction.strip() in options else "none of the options"


TASK = Task(
    name="orthographic_neighbour",
    summary="which of four words differs from a word in one letter",
    phrasings=(
        "Which of these words is one letter away from {word}: {options}?",
        "One of these words differs from {word} in one letter; which one? {options}",
        "Choose the word that is spelled almost like {word}: {options}",
    ),
    make=make,
    kind=kind,
    kinds={
        "another option": "an option that differs in more than one letter",
        "none of the options": "something else than one of the words to choose from",
    },
    per_word=2,
)
