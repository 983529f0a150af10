"""Kinds of misspelling: what is wrong with one answer, letter by letter.

A kind is decided on the letters alone: in a word spelled out ("r e c e i v e") the spaces are its
form, not part of it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from string import ascii_lowercase
from typing import Any, NamedTuple
from unicodedata import category

from rapidfuzz.distance import Levenshtein

from src.analysis.sounds import sounds
from src.memo import Memo
from src.tasks import TASKS
from src.tasks.registry import separator_of
from src.tasks.words import real_words
from src.text import composed

Answer = tuple[str, str]  # the expected one, the predicted one

MAX_KNOWN = 300_000  # answers whose description is remembered

# In the order of precedence: the first that fits is the kind of an error.
KINDS = {
    "wrong format": "not in the form that was asked for, or wrong in upper and lower case only",
    "stopped early": "right as far as it goes, then it ends; also no answer at all",
    "ran on": "the whole right answer, then more letters",
    "another real word": "a word that exists, but not the one asked for",
    "un-doubling": "one letter where the word has it twice",
    "doubling": "a letter twice where the word has it once",
    "misplaced doubling": "one letter twice that the word has once, another once that it has twice",
    "transposition": "two neighbouring letters swapped",
    "vowel swap": "only vowels are replaced, each by another vowel",
    "phonetic twin": "sounds the same though a consonant differs",
    "wrong ending": "the first half or more is right, the end is not, by two edits or more",
    "substitution": "most edits replace a letter by another",
    "omission": "most edits leave a letter out",
    "insertion": "most edits put a letter in",
}
VOWELS = frozenset("aeiouy")
CONSONANTS = frozenset(ascii_lowercase) - VOWELS | {"ß"}


@dataclass(frozen=True)
class Edit:
    """One edit from the expected letters to the predicted ones.

    `at` counts expected letters from 1. An insertion is placed before its letter; at the end, one
    beyond the last.
    """

    what: str  # replace, delete, insert or swap
    at: int
    was: str
    now: str

    def __str__(self) -> str:
        change = {"replace": f"{self.was}>{self.now}", "delete": self.was}
        return re.sub(r"\s", "␣", f"{self.what}@{self.at}:{change.get(self.what, self.now)}")


# --- one answer -----------------------------------------------------------------------------------


def letters(text: str, expected: str) -> str:
    """The letters of an answer to a question whose right answer is `expected`; an accented letter
    is one letter."""
    text = composed(text)
    separator = separator_of(expected)
    if separator is None:
        return text.strip()
    return "".join(text.replace(separator.strip() or " ", " ").split())


def edits(expected: str, predicted: str) -> list[Edit]:
    """A shortest list of letter edits (Levenshtein), with a swap of two neighbours as one edit."""
    was, now = letters(expected, expected), letters(predicted, expected)
    found: list[Edit] = []
    rest = _aligned(was, now)
    while rest:
        tag, i, j = rest.pop(0)
        # A swap is two edits side by side, however they are aligned: both replaced, or one letter
        # taken from one side of its neighbour and put on the other.
        pair = was[i : i + 2]
        if rest and len(pair) == 2 and pair[0] != pair[1]:
            other, k, m = rest[0]
            swapped = {
                ("replace", "replace"): (k, m) == (i + 1, j + 1),
                ("delete", "insert"): (k, m) == (i + 2, j + 1),
                ("insert", "delete"): (k, m) == (i + 1, j + 2),
            }.get((tag, other), False)
            if swapped and now[j : j + 2] == pair[::-1]:
                found.append(Edit("swap", i + 1, pair, pair[::-1]))
                rest.pop(0)
                continue
        gone = was[i] if tag != "insert" else ""
        found.append(Edit(tag, i + 1, gone, now[j] if tag != "delete" else ""))
    return found


def _aligned(was: str, now: str) -> list[tuple[str, int, int]]:
    """Triples (tag, index in `was`, index in `now`) of a shortest Levenshtein alignment.

    That of doubled letters, where it is one; else the leftmost or the rightmost one, whichever
    replaces fewer vowels by consonants and vice versa.
    """
    doubled = _aligned_by_runs(was, now)
    if doubled and len(doubled) == Levenshtein.distance(was, now):
        return doubled
    left = [(op.tag, op.src_pos, op.dest_pos) for op in Levenshtein.editops(was, now)]
    mirrored = [
        (op.tag, len(was) - op.src_pos - (op.tag != "insert"),
         len(now) - op.dest_pos - (op.tag != "delete"))
        for op in Levenshtein.editops(was[::-1], now[::-1])
    ]  # fmt: skip

    def odd(steps: list[tuple[str, int, int]]) -> int:
        replaced = [(was[i], now[j]) for tag, i, j in steps if tag == "replace"]
        return sum((a.lower() in VOWELS) != (b.lower() in VOWELS) for a, b in replaced)

    return min(left, mirrored[::-1], key=odd)


def _aligned_by_runs(was: str, now: str) -> list[tuple[str, int, int]]:
    """The alignment of words that differ only in how often a letter is repeated; else nothing."""
    runs, others = _runs(was), _runs(now)
    if [letter for letter, _ in runs] != [letter for letter, _ in others]:
        return []
    steps, i, j = [], 0, 0
    for (_, had), (_, has) in zip(runs, others, strict=True):
        both = min(had, has)
        steps += [("delete", i + n, j + both) for n in range(both, had)]
        steps += [("insert", i + both, j + n) for n in range(both, has)]
        i, j = i + had, j + has
    return steps


def _runs(word: str) -> list[tuple[str, int]]:
    """(letter, how often it follows itself) of each run of equal letters, in either case."""
    return [(letter, len(list(run))) for letter, run in groupby(word, key=str.lower)]


def kind_of(expected: str, predicted: str) -> str:
    """The kind of a wrong answer, one of KINDS; "" for the right one."""
    expected, predicted = composed(expected).strip(), composed(predicted).strip()
    return "" if predicted == expected else _kind(expected, predicted, edits(expected, predicted))


def _kind(expected: str, predicted: str, found: Sequence[Edit]) -> str:
    was, now = letters(expected, expected), letters(predicted, expected)
    if not now:
        return "stopped early"
    if not _in_form(expected, predicted) or now.lower() == was.lower():
        return "wrong format"
    doubled = _doubled(was, now)
    if was.startswith(now) and not (doubled and len(found) == 1):
        return "stopped early"
    if now.startswith(was) and not (doubled and len(found) == 1):
        return "ran on"
    if now.casefold() in real_words():
        return "another real word"
    if doubled:
        return doubled
    whats = [edit.what for edit in found]
    if set(whats) == {"swap"}:
        return "transposition"
    if all(e.what == "replace" and {e.was.lower(), e.now.lower()} <= VOWELS for e in found):
        return "vowel swap"
    touched = "".join(e.was + e.now for e in found).lower()
    # Only of these letters is the sound known: not of others, nor of a hyphen.
    consonants = set(touched) & CONSONANTS
    if consonants and sounds(was) & sounds(now):
        return "phonetic twin"
    right = len(os.path.commonprefix([was, now]))
    if len(found) > 1 and 2 * right >= len(was) and was[-1] != now[-1]:
        return "wrong ending"
    # Several different edits: the most frequent, of equally frequent ones the first here.
    order = {"replace": "substitution", "delete": "omission", "insert": "insertion"}
    return order[max(order, key=whats.count)] if set(whats) & set(order) else "transposition"


def _in_form(expected: str, predicted: str) -> bool:
    """True if an answer has the expected form.

    As many words, or single letters with one space between, and no characters but letters and
    those of the expected answer.
    """
    if separator := separator_of(expected):
        fits = len(predicted) == 1 or separator_of(predicted) == separator
    else:
        fits = len(predicted.split()) == len(expected.split())
    return fits and all(category(c)[0] in "LM" or c in expected for c in predicted)


def _doubled(was: str, now: str) -> str:
    """`un-doubling`, `doubling` or `misplaced doubling` where that is all that differs, else ""."""
    whats = {what for what, *_ in _aligned_by_runs(was, now)}
    kinds = {"delete": "un-doubling", "insert": "doubling"}
    return "misplaced doubling" if len(whats) == 2 else "".join(kinds[what] for what in whats)


# --- many answers ---------------------------------------------------------------------------------


class Description(NamedTuple):
    """An answer as a table of predictions describes it."""

    edits: str  # each `Edit` as text, with a space between; "" for the right answer
    kind: str  # as of `kind_of`
    length: int  # letters of the expected answer


_known: Memo[Answer, Description] = Memo(MAX_KNOWN)


def describe(answers: Sequence[Answer]) -> list[Description]:
    """The description of each answer. Equal answers are described once in the life of a process:
    the adapters of a sweep make the same mistakes."""
    return _known.of(answers, lambda new: [_describe(*answer) for answer in new])


def _describe(expected: str, predicted: str) -> Description:
    expected, predicted = composed(expected).strip(), composed(predicted).strip()
    length = len(letters(expected, expected))
    if expected == predicted:
        return Description("", "", length)
    found = edits(expected, predicted)
    return Description(" ".join(map(str, found)), _kind(expected, predicted, found), length)


def describe_predictions(columns: Mapping[str, Sequence[Any]]) -> list[Description]:
    """The description of each row of a table of predictions; of a task with kinds of its own, such
    as `off by one`, by that task."""
    answers = list(zip(columns["expected"], columns["predicted"], strict=True))
    found = describe(answers)
    if "task" not in columns or "question" not in columns or "correct" not in columns:
        return found
    rows = zip(columns["task"], columns["question"], columns["correct"], answers, strict=True)
    for place, (name, question, correct, (expected, predicted)) in enumerate(rows):
        task = TASKS.get(name)
        if task is None:
            continue
        if correct:  # also in other words than those of the right answer
            found[place] = found[place]._replace(edits="", kind="")
        elif task.kind and (kind := task.kind(question, expected, predicted)):
            found[place] = found[place]._replace(edits="", kind=kind)
    return found
