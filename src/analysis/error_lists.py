"""The answers of an adapter that are wrong, and those that another one fixed or broke"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from src import store
from src.analysis import exports, misspellings, paired
from src.errors import UserError
from src.models.metrics import SUITE
from src.store.tables import Evaluation


class UnknownSplit(UserError, ValueError):
    """No evaluation is of a split of that name."""


@dataclass(frozen=True)
class Misspelled:
    """The answers of an evaluation."""

    evaluation: Evaluation
    answers: pd.DataFrame
    listed: pd.DataFrame  # the wrong ones, or all

    @property
    def kinds(self) -> dict[str, int]:
        """{kind of error: how often}, most frequent first."""
        return misspellings.counts(self.answers)

    def document(self) -> list[dict[str, Any]]:
        """The document that `spelltune errors --json` prints."""
        return exports.records(self.listed)


@dataclass(frozen=True)
class Changed:
    """The questions that `after` answers otherwise than `before`, and those both have wrong."""

    before: str
    after: str
    split: str
    counts: Mapping[str, Any]  # of `paired.balance`
    groups: Mapping[str, pd.DataFrame]  # fixed, broken, still_wrong
    left_out: int  # questions that only one of them was asked

    def document(self) -> dict[str, Any]:
        """The document that `spelltune errors --vs --json` prints."""
        about = {"a": self.before, "b": self.after, "split": self.split, "counts": self.counts}
        return about | {group: exports.records(rows) for group, rows in self.groups.items()}


def split_of(name: str) -> str:
    """The split of that name: validation, test or, of a suite, suite/NAME. UnknownSplit."""
    split = {"val": "validation"}.get(name, name)
    if split not in ("validation", "test") and not split.startswith(SUITE):
        raise UnknownSplit(f"split {name}: it takes validation, test or suite/NAME")
    return split


def misspelled(name: str, split: str = "validation", *, all_words: bool = False) -> Misspelled:
    """The answers of `RUN` or `RUN@STEP` on a split. UnknownRun where it was not scored there."""
    with store.reading() as session:
        _, evaluation, _ = store.scored(session, name, split=split_of(split))
    answers = misspellings.read(evaluation.path)
    return Misspelled(evaluation, answers, answers if all_words else answers[~answers["correct"]])


def changed(name: str, other: str, split: str = "validation") -> Changed:
    """The answers of another adapter beside those of `misspelled`. UnknownRun where the two were
    asked no question in common."""
    split = split_of(split)
    with store.reading() as session:
        scored = [store.scored(session, one, split=split)[:2] for one in (name, other)]
    before, after = (f"{run.id}@{evaluation.step}" for run, evaluation in scored)
    frames = [misspellings.read(evaluation.path) for _, evaluation in scored]
    both = paired.pair_answers(*frames)
    if both.empty:
        raise store.UnknownRun(
            f"{before} and {after} have no {split} question in common, so nothing can be "
            "called fixed or broken; name two that were scored on the same data"
        )
    groups = {
        "fixed": both[both["outcome"] == "fixed"],
        "broken": both[both["outcome"] == "broken"],
        "still_wrong": both[both["outcome"].isin(["same mistake", "another mistake"])],
    }
    left_out = paired.unpaired(len(frames[0]), len(frames[1]), both)
    return Changed(before, after, split, paired.balance(both), groups, left_out)
