"""Letters by their place in a word, and words that differ in few of them"""

from collections.abc import Mapping

from src.tasks.numbers import ORDINALS
from src.text import caseless

NEIGHBOUR, ANOTHER, ABSENT, NO_LETTER = (
    "neighbouring letter",
    "another letter of the word",
    "not in the word",
    "not one letter",
)
LETTER_KINDS = {
    NEIGHBOUR: "the letter before or after the one that was asked for",
    ANOTHER: "a letter of the word from farther away",
    ABSENT: "a letter that does not stand in the word",
    NO_LETTER: "something else than a single letter",
}


def ordinal(place: int) -> str:
    """`first` of 1."""
    return ORDINALS[place - 1] if place <= len(ORDINALS) else f"{place}th"


def place_of(text: str, word: str) -> int | None:
    """The place that `third` or `last` names in a word, from 1; None where it names none."""
    if text == "last":
        return len(word)
    if text in ORDINALS:
        return ORDINALS.index(text) + 1
    number = text.removesuffix("th")
    return int(number) if number.isdecimal() else None


def letter_kind(fields: Mapping[str, str] | None, prediction: str) -> str:
    """How far a wrong letter is from the place that was asked for."""
    said = caseless(prediction).strip().removesuffix(".")
    if len(said) != 1 or not said.isalpha():
        return NO_LETTER
    word = caseless(fields["word"]) if fields else ""
    if said not in word:
        return ABSENT
    at = place_of(fields["place"], word) if fields else None
    # An index of the letter itself and those beside it; at 0 there is none before.
    beside = word[max(0, at - 2) : at + 1] if at else ""
    return NEIGHBOUR if said in beside else ANOTHER


def are_neighbours(a: str, b: str) -> bool:
    """True for two words one letter apart: replaced, added or left out."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    at = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), None)
    if at is None:  # one is the other with a letter at its end
        return True
    return a[at + 1 :] == b[at + 1 :] or a[at + 1 :] == b[at:] or a[at:] == b[at + 1 :]
