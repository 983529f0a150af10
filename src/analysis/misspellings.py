"""Misspellings of an evaluation: their kinds, and where in the word they are"""

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pandas as pd

from src.analysis.kinds import Description, describe_predictions, letters
from src.tasks import task_of
from src.text import composed_columns

# --- all answers of an evaluation -----------------------------------------------------------------


def with_kinds(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions with the columns that files of older versions lack.

    `edits` (as text), `kind` ("" where right) and `length` (letters of the expected answer).
    """
    if set(Description._fields) <= set(predictions.columns):
        return predictions
    read = {column: predictions[column].tolist() for column in predictions}
    columns = zip(*describe_predictions(read), strict=True) if len(predictions) else ([], [], [])
    return predictions.assign(**dict(zip(Description._fields, map(list, columns), strict=True)))


def read(path: str | Path) -> pd.DataFrame:
    """Predictions of a file, as of `with_kinds`; shared, so never change it in place."""
    return _read(str(path), os.stat(path).st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: str, changed: int) -> pd.DataFrame:
    frame = with_kinds(pd.read_parquet(path))
    # Older files have the Unicode form of their data.
    texts = [c for c in ("word", "question", "expected", "predicted") if c in frame]
    frame = composed_columns(frame, texts)
    if "task" in frame:
        return frame
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
    # Of the words in the frame alone: one without a length would make all lengths fractions.
    at = changes[["at"]].join(frame["length"], how="inner").reset_index().drop_duplicates()
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
