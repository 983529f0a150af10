"""Early stopping: the best evaluation so far, and whether the run is to end.

A criterion is a function that reads an `EarlyStopping` and returns why to stop, or None. To add
one, write it here under `@criterion` and put its name into `early_stopping.criteria`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import Any

from src.config import EarlyStoppingConfig
from src.errors import did_you_mean
from src.models.metrics import MONITORED

LOSS = "val/loss"


class Diverged(ArithmeticError):
    """The training loss, a gradient or a weight is not finite."""


@dataclass
class EarlyStopping:
    """The metrics that a run has recorded and its best evaluation; saved in each checkpoint.

    The adapter before training is not a candidate: step 0 is the baseline.
    """

    settings: EarlyStoppingConfig
    recorded: dict[str, float] = field(default_factory=dict)  # the newest value of each metric
    # (step, each metric's value then), one an evaluation
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best_step: int | None = None
    best_value: float | None = None
    without_better: int = 0  # evaluations since the best one
    lowest_loss: float = math.inf  # of training

    def record(self, values: Mapping[str, float]) -> None:
        self.recorded.update(values)
        # min() would keep a nan.
        if values.get("train/loss", math.inf) < self.lowest_loss:
            self.lowest_loss = values["train/loss"]

    def evaluated(self, step: int) -> bool:
        """Take what is recorded as the evaluation of `step`; True if it is the new best. nan never
        is; of equal values the one with the lower validation loss is."""
        self.evaluations.append((step, dict(self.recorded)))
        value = self.recorded.get(self.settings.metric, math.nan)
        better = not math.isnan(value) and (
            self.best_value is None or self.gain(self.best_value, value) > self.settings.min_delta
        )
        if better:
            self.best_value, self.best_step, self.without_better = value, step, 0
            return True
        self.without_better += 1
        if value == self.best_value and self._has_lower_loss():
            self.best_step = step
            return True
        return False

    def _has_lower_loss(self) -> bool:
        """True if the newest evaluation has a lower loss than the best one. While no word is right,
        only the loss tells a trained adapter from a fresh one."""
        best = next(then for step, then in self.evaluations if step == self.best_step)
        return self.recorded.get(LOSS, math.nan) < best.get(LOSS, math.nan)

    def gain(self, before: float, after: float) -> float:
        """Improvement from `before` to `after` in the metric's unit; negative if it is worse."""
        return before - after if self.settings.mode == "min" else after - before

    def values(self) -> list[float]:
        """The monitored metric at each evaluation, oldest first."""
        return [then.get(self.settings.metric, math.nan) for _, then in self.evaluations]

    def stop_reason(self) -> str | None:
        """Why to stop after the newest evaluation, or None."""
        if len(self.evaluations) <= self.settings.warmup_evaluations:
            return None
        names = (*BUILT_IN, *self.settings.criteria)
        return next((why for name in names if (why := CRITERIA[name](self))), None)

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint's manifest, for `restore`."""
        return {
            "best": {
                "step": self.best_step,
                "value": self.best_value,
                "without_better": self.without_better,
            },
            "lowest_loss": self.lowest_loss,
            "evaluations": self.evaluations,
            "recorded": self.recorded,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        best = state["best"]
        self.best_step, self.best_value = best["step"], best["value"]
        self.without_better = best["without_better"]
        self.lowest_loss = state["lowest_loss"]
        self.evaluations = [(step, dict(then)) for step, then in state["evaluations"]]
        self.recorded = dict(state["recorded"])

    def withdraw(self, best: Mapping[str, Any]) -> None:
        """Undo that the newest evaluation is the best: `best` is that part of an earlier state."""
        self.restore(self.state() | {"best": best})
        self.without_better += 1


Criterion = Callable[[EarlyStopping], str | None]
CRITERIA: dict[str, Criterion] = {}


def criterion(function: Criterion) -> Criterion:
    """Register a criterion under its function's name."""
    CRITERIA[function.__name__] = function
    return function


@criterion
def divergence(stopping: EarlyStopping) -> str | None:
    """The training loss is nan, or above a multiple of its lowest; checked at each logging step."""
    factor, loss = stopping.settings.divergence_factor, stopping.recorded.get("train/loss")
    if factor is None or loss is None:
        return None
    if not math.isfinite(loss):
        return f"the training loss is {loss}"
    if loss > factor * stopping.lowest_loss:
        return (
            f"the training loss {loss:.4g} is above {factor:g} times its lowest, "
            f"{stopping.lowest_loss:.4g}"
        )
    return None


@criterion
def target_reached(stopping: EarlyStopping) -> str | None:
    target, value = stopping.settings.target, stopping.values()[-1]
    if target is not None and stopping.gain(target, value) >= 0:
        return f"{stopping.settings.metric} reached {value:.4g}, the target was {target:g}"
    return None


@criterion
def patience(stopping: EarlyStopping) -> str | None:
    limit = stopping.settings.patience
    if limit is not None and stopping.without_better >= limit:
        than = "ever" if stopping.best_step is None else f"than at step {stopping.best_step}"
        name, count = stopping.settings.metric, stopping.without_better
        return f"{name} was not better {than} in {count} evaluations"
    return None


@criterion
def plateau(stopping: EarlyStopping) -> str | None:
    """The least-squares line through the last evaluations gains no more than min_delta from its
    first to its last."""
    window = stopping.settings.plateau_evaluations
    values = stopping.values()[-window:] if window else []
    if window is None or len(values) < window or not all(map(math.isfinite, values)):
        return None
    slope = linear_regression(range(window), values).slope
    gained = stopping.gain(0.0, slope) * (window - 1)
    if gained <= stopping.settings.min_delta:
        return f"{stopping.settings.metric} has a trend of {gained:+.4g} over {window} evaluations"
    return None


# Inactive while their setting is empty; the names in `criteria` come after them.
BUILT_IN = ("divergence", "target_reached", "patience", "plateau")


def stopping_problems(asked: EarlyStoppingConfig) -> dict[str, str]:
    """A sentence for each setting that cannot be followed: {setting: sentence}."""
    problems = {}
    if asked.metric not in MONITORED:
        names = ", ".join(MONITORED)
        problems["early_stopping.metric"] = f"{asked.metric!r} is not recorded; take one of {names}"
    if unknown := [name for name in asked.criteria if name not in CRITERIA]:
        problems["early_stopping.criteria"] = (
            f"no criterion {unknown[0]!r}; registered in src/training/early_stopping.py are "
            f"{', '.join(CRITERIA)}{did_you_mean(unknown[0], CRITERIA)}"
        )
    return problems
