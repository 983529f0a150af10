"""Numbers in questions and answers: how they are written, read and judged"""

import re

from src.tasks.task import TaskError
from src.text import caseless

# fmt: off
CARDINALS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth", "twentieth",
)
# fmt: on

OFF_BY_ONE, OFF_BY_MORE, NO_NUMBER = "off by one", "off by more", "not a number"
NUMBER_KINDS = {
    OFF_BY_ONE: "one more or one less than the right number",
    OFF_BY_MORE: "two or more away from the right number",
    NO_NUMBER: "something else than a number",
}


def number_in(text: str) -> int | None:
    """The number that a text is, in digits or as an English word, or None."""
    text = caseless(text).strip().removesuffix(".")
    if re.fullmatch("[0-9]{1,9}", text):
        return int(text)
    return CARDINALS.index(text) if text in CARDINALS else None


def is_same_number(question: str, answer: str, prediction: str) -> bool:
    """True for the right number, in digits or as a word."""
    return number_in(prediction) is not None and number_in(prediction) == number_in(answer)


def number_kind(question: str, answer: str, prediction: str) -> str:
    """How far a wrong number is from the right one."""
    said, right = number_in(prediction), number_in(answer)
    if said is None or right is None:
        return NO_NUMBER
    return OFF_BY_ONE if abs(said - right) == 1 else OFF_BY_MORE


def letter_of(text: str) -> str:
    """The letter that a question asks for; TaskError where it is not one letter."""
    if len(text) != 1 or not text.isalpha():
        raise TaskError(f"{text!r} is not one letter; ask for a single one, such as r")
    return text


def times(word: str, letter: str) -> int:
    """How often a letter stands in a word, regardless of case."""
    return caseless(word).count(caseless(letter_of(letter)))
