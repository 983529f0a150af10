"""A letter taken out of a word: `Remove every e from receive.` -> `rciv`"""

import random

from src.tasks.task import Asked, Task


def make(word: str, rng: random.Random) -> Asked | None:
    letter = rng.choice(sorted(set(word)))
    rest = word.replace(letter, "")
    return Asked(rest, {"letter": letter}) if rest else None


TASK = Task(
    name="delete",
    summary="a word without one of its letters, wherever that stands",
    phrasings=(
        "Remove every {letter} from {word}.",
        "Leave out each letter {letter} of the word {word}.",
        "Write {word} without the letter {letter}.",
    ),
    make=make,
)
