"""Metrics over predicted and expected answers; nan for empty lists: no words is not a score."""

import math

from rapidfuzz.distance import OSA, Levenshtein


def exact_match(predicted: list[str], expected: list[str]) -> float:
    """Fraction of words spelled exactly right, in [0, 1].

    Case counts; surrounding spaces do not.
    """
    pairs = list(zip(predicted, expected, strict=True))
    return sum(p.strip() == e.strip() for p, e in pairs) / len(pairs) if pairs else math.nan


def token_accuracy(hits: int, tokens: int) -> float:
    """Fraction of the answers' tokens that the model ranks first, each after the true tokens before
    it."""
    return hits / tokens if tokens else math.nan


def edit_distance(predicted: str, expected: str) -> int:
    """Fewest insertions, deletions, substitutions and swaps of neighbours that turn one into the
    other (optimal string alignment), without surrounding spaces."""
    return OSA.distance(predicted.strip(), expected.strip())


def mean_edit_distance(predicted: list[str], expected: list[str]) -> float:
    """Mean of `edit_distance` over the words."""
    distances = [edit_distance(p, e) for p, e in zip(predicted, expected, strict=True)]
    return sum(distances) / len(distances) if distances else math.nan


def character_error_rate(predicted: list[str], expected: list[str]) -> float:
    """Insertions, deletions and substitutions over all words, for each expected character; above 1
    where much is added.

    nan when no character is expected.
    """
    pairs = [(p.strip(), e.strip()) for p, e in zip(predicted, expected, strict=True)]
    characters = sum(len(e) for _, e in pairs)
    edits = sum(Levenshtein.distance(p, e) for p, e in pairs)
    return edits / characters if characters else math.nan
