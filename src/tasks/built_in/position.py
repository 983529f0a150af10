"""Letters by their place: `What is the third letter of receive?` -> `c`"""

import random

from src.tasks import letters, numbers
from src.tasks.task import Asked, Task
from src.text import caseless


def make(word: str, rng: random.Random) -> Asked | None:
    # A letter that stands twice has no one place.
    once = [letter for letter in word if word.count(letter) == 1]
    if once and rng.random() < 0.3:
        letter = rng.choice(once)
        return Asked(str(word.index(letter) + 1), {"letter": letter}, "place")
    at = rng.choice((1, len(word), rng.randint(1, len(word)), rng.randint(1, len(word))))
    name = "last" if at == len(word) else letters.ordinal(at)
    return Asked(word[at - 1], {"place": name}, "letter")


def is_right(question: str, answer: str, prediction: str) -> bool:
    """True for the right letter in whatever case, or the right number."""
    if numbers.number_in(answer) is not None:
        return numbers.is_same_number(question, answer, prediction)
    return caseless(prediction).strip().removesuffix(".") == caseless(answer).strip()


def kind(question: str, answer: str, prediction: str) -> str:
    if numbers.number_in(answer) is not None:
        return numbers.number_kind(question, answer, prediction)
    return letters.letter_kind(TASK.read(question), prediction)


TASK = Task(
    name="position",
    summary="the letter at a place of a word (nth, first, last), or the place of a letter",
    phrasings={
        "letter": (
            "What is the {place} letter of {word}?",
            "Which letter stands at the {place} place in the word {word}?",
            "Give the {place} letter of the word {word}.",
        ),
        "place": (
            "Which place has the letter {letter} in {word}?",
            "At which position is {letter} in the word {word}?",
            "Give the number of the place of {letter} in {word}.",
        ),
    },
    make=make,
    answers="letter",
    is_right=is_right,
    kind=kind,
    kinds=letters.LETTER_KINDS | numbers.NUMBER_KINDS,
)
