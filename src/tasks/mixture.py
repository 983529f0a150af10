"""A mixture of built-in tasks: rows of several, in given shares"""

import math
from collections.abc import Mapping
from fractions import Fraction

from src.tasks.registry import examples
from src.tasks.task import Example, TaskError, TaskSettings
from src.tasks.words import text_hash


def mixed(
    weights: Mapping[str, float], split: str, *, seed: int = 0, settings: TaskSettings | None = None
) -> list[Example]:
    """The rows of a split of a mixture, the same in each process: as many as there are without one
    that stands twice. TaskError where a task has none.

    Splits are cut by the hash of the word in every task, so that a word that is held out in one is
    held out in all. Sorted by the hash of their questions, as the rows of one task are.
    """
    found = {task: examples(task, split, seed=seed, settings=settings) for task in weights}
    counts = row_counts(weights, {task: len(rows) for task, rows in found.items()})
    if none := [task for task, count in counts.items() if count == 0]:
        raise TaskError(
            f"the mixture has {sum(counts.values()):,} {split} rows, and at its weight "
            f"{none[0]} has none of them; raise its weight, or leave it out"
        )
    # The first rows of a task are a sample of it.
    rows = [row for task, count in counts.items() for row in found[task][:count]]
    return sorted(rows, key=lambda row: (text_hash(row.question), row.task))


def row_counts(weights: Mapping[str, float], available: Mapping[str, int]) -> dict[str, int]:
    """{task: rows} of the largest sample whose tasks have these weights, each of up to as many rows
    as are available. Fractions of a row go to the tasks that lost the most to rounding."""
    exact = {task: Fraction(str(weight)) for task, weight in weights.items()}
    shares = {task: weight / sum(exact.values()) for task, weight in exact.items()}
    total = math.floor(min(available[task] / share for task, share in shares.items()))
    counts = {task: math.floor(total * share) for task, share in shares.items()}
    lost = {task: total * share - counts[task] for task, share in shares.items()}
    left = total - sum(counts.values())
    for task in sorted(lost, key=lambda task: (-lost[task], task))[:left]:
        counts[task] += 1
    return counts
