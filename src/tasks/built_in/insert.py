"""A letter put into a word: `Put the letter x after the second letter of word.` -> `woxrd`"""

import random
from string import ascii_lowercase

from src.tasks.letters import ordinal
from src.tasks.task import Asked, Task


def make(word: str, rng: random.Random) -> Asked:
    at, letter = rng.randint(1, len(word)), rng.choice(ascii_lowercase)
    return Asked(word[:at] + letter + word[at:], {"letter": letter, "place": ordinal(at)})


TASK = Task(
    name="insert",
    summary="a word with a letter put in after a place",
    phrasings=(
        "Put the letter {letter} after the {place} letter of {word}.",
        "Insert {letter} behind the {place} letter of the word {word}.",
        "Write {word} with the letter {letter} added after its {place} letter.",
    ),
    make=make,
)
