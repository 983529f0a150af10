"""A letter replaced by another: `Replace every e in receive by a.` -> `racaiva`"""

import random
from string import ascii_lowercase

from src.tasks.task import Asked, Task


def make(word: str, rng: random.Random) -> Asked:
    letter = rng.choice(sorted(set(word)))
    other = rng.choice([one for one in ascii_lowercase if one != letter])
    return Asked(word.replace(letter, other), {"letter": letter, "other": other})


TASK = Task(
    name="substitute",
    summary="a word with one of its letters replaced by another, wherever that stands",
    phrasings=(
        "Replace every {letter} in {word} by {other}.",
        "Write {other} for each letter {letter} of the word {word}.",
        "Write {word} with {other} in place of {letter}.",
    ),
    make=make,
)
