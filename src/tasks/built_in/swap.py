"""Two letters that change places: `Swap the first and the third letter of word.` -> `rowd`"""

import random

from src.tasks.letters import ordinal
from src.tasks.task import Asked, Task


def make(word: str, rng: random.Random) -> Asked | None:
    places = range(len(word))
    # Of equal letters nothing would change.
    pairs = [(i, j) for i in places for j in places[i + 1 :] if word[i] != word[j]]
    if not pairs:
        return None
    i, j = rng.choice(pairs)
    swapped = word[:i] + word[j] + word[i + 1 : j] + word[i] + word[j + 1 :]
    return Asked(swapped, {"place": ordinal(i + 1), "other": ordinal(j + 1)})


TASK = Task(
    name="swap",
    summary="a word with two of its letters in each other's place",
    phrasings=(
        "Swap the {place} and the {other} letter of {word}.",
        "Exchange the {place} with the {other} letter of the word {word}.",
        "Write {word} with its {place} and {other} letters swapped.",
    ),
    make=make,
)
