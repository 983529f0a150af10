"""Scores on suites: when each is due in a run, and the metrics and judgements of its answers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from src.config import RunConfig
from src.training.suites import Suite

if TYPE_CHECKING:
    import pyarrow as pa

BITS = "bits_per_character"
CONTINUED = "another continuation"  # kind of the answers to running text
METRICS = ("exact_match", "token_accuracy", "cer", "edit_distance", "loss")
# Of a suite that asks misspelled words and right ones.
CORRECTIONS = ("mends", "leaves_alone")


class SuiteScores:
    """The suites of one run, by split: which are due, and the scores of each one's last adapter."""

    def __init__(self, config: RunConfig):
        every, evaluation = config.evaluation.suite_every, config.evaluation.eval_steps
        self._interval = every and every * evaluation
        self.by_split: Mapping[str, Suite] = {}
        self._last: dict[str, tuple[int, dict[str, float]]] = {}

    def due(self, step: int) -> list[str]:
        """The splits to score at the evaluation of a step."""
        now = step == 0 or (self._interval is not None and step % self._interval == 0)
        return list(self.by_split) if now else []

    def is_scored(self, split: str, step: int) -> bool:
        """True if the adapter of this step was the last that was scored on a suite."""
        return split in self._last and self._last[split][0] == step

    def of_step(self, step: int) -> dict[str, float]:
        """The scores of this step's adapter, by the names of their metrics."""
        found: dict[str, float] = {}
        for split in self._last:
            if self.is_scored(split, step):
                found |= self._last[split][1]
        return found

    def judged(
        self, split: str, step: int, found: Mapping[str, float], predictions: "pa.Table"
    ) -> tuple[dict[str, float], "pa.Table"]:
        """The metrics of an adapter on a suite by their recorded names, and its predictions as the
        suite judges them."""
        values, table = judged(self.by_split[split], found, predictions)
        values = {f"{split}/{name}": value for name, value in values.items()}
        self._last[split] = step, values
        return values, table


def judged(
    suite: Suite, found: Mapping[str, float], predictions: "pa.Table"
) -> tuple[dict[str, float], "pa.Table"]:
    """The metrics of a suite by name, and its predictions with the columns that it adds."""
    import pyarrow as pa

    if "seen" in suite.frame:
        samples = len(predictions) // max(len(suite.frame), 1)  # of each row
        seen = suite.frame["seen"].repeat(samples)
        predictions = predictions.append_column("seen", pa.array(seen, pa.bool_()))
    if suite.is_text:
        kinds = ["" if right else CONTINUED for right in predictions["correct"].to_pylist()]
        values = {BITS: bits_per_character(predictions), "loss": found["loss"]}
        return values, _with_kinds(predictions, kinds)
    names = (*METRICS, *(name for name in CORRECTIONS if name in found))
    return {name: found[name] for name in names}, predictions


def bits_per_character(predictions: "pa.Table") -> float:
    """Mean bits that the model needs for each character of the texts, the space before them
    included; nan for no text."""
    nats = -sum(predictions["log_probability"].to_pylist())
    characters = sum(len(text) + 1 for text in predictions["expected"].to_pylist())
    return nats / math.log(2) / characters if characters else math.nan


def _with_kinds(predictions: "pa.Table", kinds: Sequence[str | None]) -> "pa.Table":
    """Predictions with kinds of error of their own, in the columns of `analysis.predictions`; None
    stands for a misspelling, which is described there."""
    import pyarrow as pa

    lengths = [len(text) for text in predictions["expected"].to_pylist()]
    columns: dict[str, Any] = {
        "edits": pa.array([""] * len(kinds), pa.string()),
        "kind": pa.array(kinds, pa.string()),
        "length": pa.array(lengths, pa.int64()),
    }
    for name, values in columns.items():
        predictions = predictions.append_column(name, values)
    return predictions
