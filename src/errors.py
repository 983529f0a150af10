"""Errors that a person can mend, and the hint that they give for a misspelled word."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Its text says what can be done: the command line prints it, and nothing of the code."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the known word most like `word`, or nothing."""
    closest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {closest[0]!r}?" if closest else ""
