"""Kinds of misspelling, letter by letter, and where in the word they are.

A kind is decided on the letters alone: in a word spelled out ("r e c e i v e") the spaces are its
form, not part of it.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase
from unicodedata import category

import pandas as pd
from rapidfuzz.distance import Levenshtein

from src.analysis.sounds import sounds
from src.text import composed
from src.training.tasks import SPELLED_OUT, real_words, task_of

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
ADDED_COLUMNS = ["edits", "kind", "length"]  # by `with_kinds`

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
    return "".join(text.split()) if task_of(expected) == "spell out" else text.strip()


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
    """(letter, how often it follows itself) of each run of equal letters."""
    return [(letter, len(list(run))) for letter, run in groupby(word)]


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
    if task_of(expected) == "spell out":
        fits = len(predicted) == 1 or SPELLED_OUT.fullmatch(predicted) is not None
    else:
        fits = len(predicted.split()) == len(expected.split())
    return fits and all(category(c)[0] in "LM" or c in expected for c in predicted)


def _doubled(was: str, now: str) -> str:
    """`un-doubling`, `doubling` or `misplaced doubling` where that is all that differs, else ""."""
    whats = {what for what, *_ in _aligned_by_runs(was, now)}
    kinds = {"delete": "un-doubling", "insert": "doubling"}
    return "misplaced doubling" if len(whats) == 2 else "".join(kinds[what] for what in whats)


# --- all answers of an evaluation -----------------------------------------------------------------


def with_kinds(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions with the columns that files of older versions lack.

    `edits` (as text), `kind` ("" where right) and `length` (letters of the expected answer).
    """
    if set(ADDED_COLUMNS) <= set(predictions.columns):
        return predictions
    pairs = list(zip(predictions["expected"], predictions["predicted"], strict=True))
    pairs = [(composed(e).strip(), composed(p).strip()) for e, p in pairs]
    wrong = [e != p for e, p in pairs]
    changed = [edits(e, p) if w else [] for (e, p), w in zip(pairs, wrong, strict=True)]
    kinds = [
        _kind(e, p, found) if w else ""
        for (e, p), w, found in zip(pairs, wrong, changed, strict=True)
    ]
    return predictions.assign(
        edits=[" ".join(map(str, found)) for found in changed],
        kind=kinds,
        length=[len(letters(e, e)) for e, _ in pairs],
    )


def read(path: str | Path) -> pd.DataFrame:
    """Predictions of a file, as of `with_kinds`; shared, so never change it in place."""
    return _read(str(path), os.stat(path).st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: str, changed: int) -> pd.DataFrame:
    frame = with_kinds(pd.read_parquet(path))
    # Older files have the Unicode form of their data.
    texts = [c for c in ("word", "question", "expected", "predicted") if c in frame]
    frame = frame.assign(**{column: frame[column].map(composed) for column in texts})
    return frame.assign(task=[task_of(expected) for expected in frame["expected"]])


def read_edits(path: str | Path) -> pd.DataFrame:
    """The `edit_table` of a file's predictions; shared, so never change it in place."""
    return _read_edits(str(path), os.stat(path).st_mtime_ns)


@lru_cache(maxsize=64)
def _read_edits(path: str, changed: int) -> pd.DataFrame:
    return edit_table(_read(path, changed))


def counts(frame: pd.DataFrame) -> dict[str, int]:
    """{kind: number of errors} of `with_kinds` predictions, most frequent first."""
    return {str(k): int(n) for k, n in frame.loc[~frame["correct"], "kind"].value_counts().items()}


# --- where the letters go wrong -------------------------------------------------------------------


def edit_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per edit, indexed as the predictions: what, at, was, now.

    Answers in a wrong format have none: their letters say little.
    """
    texts = frame.loc[~frame["correct"] & (frame["kind"] != "wrong format"), "edits"]
    found = texts[texts != ""].str.split(" ").explode()
    table = found.str.extract(r"^(?P<what>[a-z]+)@(?P<at>\d+):(?P<first>.)>?(?P<second>.?)$")
    inserted = table["what"] == "insert"
    return pd.DataFrame(
        {
            "what": table["what"],
            "at": table["at"].astype(int),
            "was": table["first"].where(~inserted, ""),
            "now": table["second"].where(~inserted, table["first"]),
        }
    )


def position_map(frame: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """Error rate by word length (index) and letter position (columns, from 1), in [0, 1].

    The position beyond the last letter counts letters added there.
    """
    at = changes[["at"]].join(frame["length"]).reset_index().drop_duplicates()
    words = frame["length"].value_counts()
    return at.groupby(["length", "at"]).size().unstack(fill_value=0).div(words, axis=0).dropna()


def confusions(changes: pd.DataFrame) -> pd.DataFrame:
    """Confusion counts: expected letter (index) by predicted letter (columns).

    The column "" counts omitted letters, the index "" inserted ones. Swaps lose no letter and are
    not counted.
    """
    counted = changes[changes["what"] != "swap"]
    return pd.crosstab(counted["was"].str.lower(), counted["now"].str.lower())


def accuracy_by(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Columns right (share in [0, 1]) and words (count), for each value of a column."""
    groups = frame.groupby(column)["correct"]
    return pd.DataFrame({"right": groups.mean(), "words": groups.size()})


def accuracy_by_letter(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns right (share of the words with that letter), words, and share (of all letters), the
    most frequent letter first."""
    right: Counter[str] = Counter()
    words: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    for expected, correct in zip(frame["expected"], frame["correct"], strict=True):
        of_word = letters(expected, expected).lower()
        uses.update(of_word)
        words.update(set(of_word))
        if correct:
            right.update(set(of_word))
    known = [letter for letter, _ in uses.most_common() if not letter.isspace()]
    table = {"right": [right[c] / words[c] for c in known], "words": [words[c] for c in known],
             "share": [uses[c] / uses.total() for c in known]}  # fmt: skip
    return pd.DataFrame(table, index=pd.Index(known, dtype=object))
