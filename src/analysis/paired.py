"""Answers of two models, or of several checkpoints, to the same questions."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from src.models.intervals import paired_interval
from src.tasks.words import real_words
from src.text import composed

# Outcomes of a question from one model to another.
OUTCOMES = ["fixed", "broken", "same mistake", "another mistake", "right in both"]
NO_WORD = "no word any more"  # beside OUTCOMES, with which it shares words
KEY = ["question", "expected"]


def no_words(both: pd.DataFrame) -> pd.Series:
    """Which answers were a word that exists, the right one or another, and are none any more."""
    known = real_words()  # a set, which pandas would copy for `isin`

    def is_word(end: str) -> pd.Series:
        exists = [text.strip().casefold() in known for text in both[f"predicted{end}"]]
        return both[f"correct{end}"] | pd.Series(exists, both.index, dtype=bool)

    return is_word("_a") & ~is_word("_b")


def pair_answers(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """One row per question that both answered, with `outcome`, one of OUTCOMES.

    Columns that differ between the two end in _a and _b.
    """
    own = ["predicted", "correct", "kind", "edits", "edit_distance", "log_probability"]
    asked = [*KEY, "word", "task", "length", "answer_tokens"]
    left = a[[c for c in (*asked, *own) if c in a]].drop_duplicates(KEY)
    right = b[[c for c in (*KEY, *own) if c in b]].drop_duplicates(KEY)
    both = left.merge(right, on=KEY, suffixes=("_a", "_b"))
    before, after = both["correct_a"], both["correct_b"]
    tests = [~before & after, before & ~after, before & after,
             both["predicted_a"] == both["predicted_b"]]  # fmt: skip
    names = ["fixed", "broken", "right in both", "same mistake"]
    return both.assign(outcome=np.select(tests, names, "another mistake"))


def balance(both: pd.DataFrame) -> dict[str, Any]:
    """Counts of `pair_answers` that add up: `difference` is (fixed - broken) / questions, with its
    95% interval."""
    n = {outcome: int((both["outcome"] == outcome).sum()) for outcome in OUTCOMES}
    questions = max(len(both), 1)
    low, high = paired_interval(
        both["correct_a"].to_numpy(dtype=bool),
        both["correct_b"].to_numpy(dtype=bool),
        pd.factorize(both["word"])[0],
    )
    return {
        "questions": len(both),
        "fixed": n["fixed"],
        "broken": n["broken"],
        "still_wrong": n["same mistake"] + n["another mistake"],
        "same_mistake": n["same mistake"],
        "another_mistake": n["another mistake"],
        "exact_match_a": int(both["correct_a"].sum()) / questions,
        "exact_match_b": int(both["correct_b"].sum()) / questions,
        "difference": (n["fixed"] - n["broken"]) / questions,
        "ci_low": low,
        "ci_high": high,
    }


def unpaired(a: int, b: int, both: pd.DataFrame) -> int:
    """The number of the `a` and `b` questions that only one side was asked."""
    return max(a + b - 2 * len(both), 0)


def answer(path: str | Path, question: str) -> tuple[str, str, bool] | None:
    """(expected, predicted, correct) of one question in a file of predictions; None where it was
    not asked."""
    return _answer(str(path), os.stat(path).st_mtime_ns, question)


@lru_cache(maxsize=4096)
def _answer(path: str, changed: int, question: str) -> tuple[str, str, bool] | None:
    table = pq.read_table(path, columns=["question", "expected", "predicted", "correct"])
    wanted = composed(question)
    for place, asked in enumerate(table["question"].to_pylist()):
        if composed(asked) == wanted:
            row = table.slice(place, 1).to_pylist()[0]
            return composed(row["expected"]), composed(row["predicted"]), row["correct"]
    return None


def history(right: Sequence[bool]) -> str:
    """The history of a word over ordered checkpoints: never, learned, forgotten or always right."""
    if not any(right):
        return "never"
    if not right[-1]:
        return "forgotten"
    return "always right" if all(right) else "learned"
