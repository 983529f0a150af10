"""Text as it is compared: in one Unicode form, and regardless of case where case does not count"""

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd


def composed(text: str) -> str:
    """`text` in Unicode form NFC, in which an accented letter is one character if there is one.

    Scores, splits, leaks, duplicates, kinds of error and searches compare texts in this form. What
    a model is trained on keeps the form of its file.
    """
    return unicodedata.normalize("NFC", text)


def composed_columns(frame: "pd.DataFrame", names: "Iterable[str]") -> "pd.DataFrame":
    """The frame with each text in these columns as of `composed`."""
    # Most columns are ASCII, which is composed: asking pandas takes a quarter of the time.
    other = [name for name in names if not frame[name].str.isascii().all()]
    return frame.assign(**{name: frame[name].map(composed) for name in other}) if other else frame


def caseless(text: str) -> str:
    """A key that is equal for texts that differ in case or Unicode form alone."""
    # Not composed again after folding: the splits of built-in tasks are cut by this key.
    return composed(text).casefold()
