"""The score of always giving the most frequent answer, which others have to beat.

To "How many e's are in pieces?" the answer `1` is right in 4 of 10 cases.
"""

import pandas as pd

MIN_SHARE = 0.02  # of the questions; where each has its own answer, who guesses knows none


def frequent_answer(expected: pd.Series) -> str | None:
    """The most frequent of the expected answers; None where even that is rare."""
    counts = expected.value_counts()
    if not len(counts) or counts.iloc[0] < max(2, MIN_SHARE * len(expected)):
        return None
    return str(counts.index[0])


def constant_share(expected: pd.Series) -> float | None:
    """The share of questions, in [0, 1], that the most frequent answer answers right."""
    frequent = frequent_answer(expected)
    return None if frequent is None else float((expected == frequent).mean())


def sentence(constant: float | None) -> str:
    """The words for that share beside a score; empty where there is none."""
    return f"always the most frequent answer: {constant:.1%}" if constant is not None else ""
