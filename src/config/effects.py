"""Effects of a setting, as its field declares them: comparison, packs, resume and forms follow."""

from typing import Literal, get_args

from pydantic import JsonValue

Effect = Literal[
    "weights",  # the adapter after a given step
    "data",  # the rows that are trained and scored, and their tokens
    "scores",  # what is scored, which adapter is kept as the best, and when training ends
    "cost",  # memory or time of the start, a step or a batch of answers
    "checkpoint",  # what the weights and the optimizer state in a checkpoint are made for
    "pack",  # what all runs that the packed engine trains in one process have in common
    "disk",  # which checkpoints there are
]
EFFECTS: frozenset[Effect] = frozenset(get_args(Effect))

# Settings that people change most: the form shows them open, the others folded.
BASIC: dict[str, JsonValue] = {"basic": True}


def affects(*effects: Effect) -> dict[str, JsonValue]:
    """Metadata of a field, or of a section for those of its fields that have none; without an
    effect, runs that differ in nothing else are repetitions of each other.

    A setting that declares nothing counts as affecting everything: the safe side of each use.
    """
    return {"affects": list(effects)}
