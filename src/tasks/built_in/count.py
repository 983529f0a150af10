"""Counts of letters: `How many r's are in strawberry?` -> `3`"""

import random
from string import ascii_lowercase

from src.tasks import numbers
from src.tasks.task import Asked, Task

ABSENT = 0.15  # share of the questions for one letter whose answer is 0


def make(word: str, rng: random.Random) -> Asked:
    variant = rng.choice(("letter", "letter", "letter", "distinct", "length"))
    if variant == "distinct":
        return Asked(str(len(set(word))), variant=variant)
    if variant == "length":
        return Asked(str(len(word)), variant=variant)
    others = [letter for letter in ascii_lowercase if letter not in word]
    # Each letter once: those that stand twice or more would else be asked too often.
    letter = rng.choice(others if rng.random() < ABSENT else sorted(set(word)))
    return Asked(str(numbers.times(word, letter)), {"letter": letter}, variant)


TASK = Task(
    name="count",
    summary="how often a letter stands in a word, how many letters it has, how many different ones",
    phrasings={
        "letter": (
            "How many {letter}'s are in {word}?",
            "How often does the letter {letter} stand in the word {word}?",
            "Count the letter {letter} in {word}.",
        ),
        "distinct": (
            "How many different letters are in {word}?",
            "How many distinct letters does the word {word} have?",
            "Count the different letters of {word}.",
        ),
        "length": (
            "How many letters are in {word}?",
            "How long is the word {word}, in letters?",
            "Count the letters of {word}.",
        ),
    },
    make=make,
    answers="number",
    is_right=numbers.is_same_number,
    kind=numbers.number_kind,
    kinds=numbers.NUMBER_KINDS,
)
