"""A dictionary method that corrects a word without a model: the baseline of a correction task"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa

from src.models import metrics
from src.tasks.built_in.correct import asked_word, asks_right_word
from src.tasks.words import real_words

AT_ONCE = 200  # words that are compared with all of the dictionary


def nearest_words(texts: Sequence[str]) -> list[str]:
    """Each text itself where it is a word, else the word with the fewest edits (a swap of
    neighbours is one); of several the one most alike by Jaro and Winkler, which weighs the first
    letters."""
    known = real_words()
    unknown = tuple(sorted({text for text in texts if text not in known}))
    nearest = _nearest(unknown) if unknown else {}
    return [nearest.get(text, text) for text in texts]


@lru_cache(maxsize=8)  # a sweep asks the same words in each of its trials
def _nearest(texts: tuple[str, ...]) -> dict[str, str]:
    from rapidfuzz import process
    from rapidfuzz.distance import OSA, JaroWinkler

    words, nearest = sorted(real_words()), {}
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        edits = process.cdist(part, words, scorer=OSA.distance, dtype=np.uint32)
        for text, row in zip(part, edits, strict=True):
            alike = [words[place] for place in np.flatnonzero(row == row.min())]
            nearest[text] = max(alike, key=lambda word: JaroWinkler.similarity(text, word))
    return nearest


def dictionary_answers(questions: Sequence[str]) -> list[str] | None:
    """The answer of the dictionary method to each question of the task `correct`; None where there
    are other questions."""
    asked = [asked_word(question) for question in questions]
    words = [word for word in asked if word is not None]
    return nearest_words(words) if len(words) == len(asked) else None


def dictionary_scores(predictions: pa.Table) -> dict[str, float]:
    """The metrics of the dictionary method on the questions of some predictions, with the ending
    `/dictionary`; none where they are not corrections."""
    questions, expected = (tuple(predictions[c].to_pylist()) for c in ("question", "expected"))
    return dict(_scores_of(questions, expected))


@lru_cache(maxsize=8)  # as the nearest words
def _scores_of(questions: tuple[str, ...], expected: tuple[str, ...]) -> dict[str, float]:
    answers = dictionary_answers(questions)
    if answers is None:
        return {}
    right = [metrics.same(answer, true) for answer, true in zip(answers, expected, strict=True)]
    values = {"exact_match": metrics.share_right(right)}
    values |= correction_shares(asked_right(questions, expected), right)
    return {f"{name}/dictionary": value for name, value in values.items()}


def asked_right(questions: Sequence[str], expected: Sequence[str]) -> list[bool | None]:
    """`asks_right_word` of each question."""
    return [asks_right_word(*one) for one in zip(questions, expected, strict=True)]


def correction_shares(asked: Sequence[bool | None], right: Sequence[bool]) -> dict[str, float]:
    """Of corrections, where some of the words are right already (`asked_right`): the share of the
    misspelled ones that are mended, if there are any, and of the right ones that are left alone, by
    which answers are `right`. Nothing for other questions."""
    shares: dict[bool | None, list[bool]] = defaultdict(list)
    for kind, own in zip(asked, right, strict=True):
        shares[kind].append(own)
    if True not in shares:
        return {}
    mends = {"mends": metrics.share_right(shares[False])} if shares[False] else {}
    return mends | {"leaves_alone": metrics.share_right(shares[True])}
