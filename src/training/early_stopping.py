"""Which evaluation is the best so far, and whether to go on.

A criterion is a function that reads a `History` and returns why to stop, or None to go on. To add
one, write it here under `@criterion` and put its name into `early_stopping.criteria`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import Any

from src.config import EarlyStoppingConfig
from src.errors import did_you_mean

# Metrics that may be watched: those of an evaluation, and what the training logged last before it.
VALIDATION = ("val/loss", "val/token_accuracy", "val/exact_match", "val/cer", "val/edit_distance")
TRAINING = ("train/loss", "lr", "grad_norm", "tokens_per_second")
LOSS = VALIDATION[0]
# Less of these is better; of lr and tokens_per_second neither is.
LESS = ("val/loss", "val/cer", "val/edit_distance", "train/loss", "grad_norm")


class Diverged(ArithmeticError):
    """The training loss is no number any more."""


@dataclass(frozen=True)
class Rules:
    """The settings of early stopping: see EarlyStoppingConfig, whose fields these are."""

    metric: str
    mode: str  # min or max: whether less or more of the metric is better
    min_delta: float = 0.0
    warmup_evaluations: int = 0
    patience: int | None = None
    target: float | None = None
    divergence_factor: float | None = None
    plateau_evaluations: int | None = None
    criteria: tuple[str, ...] | list[str] = ()


@dataclass
class History:
    """What a training has recorded so far and which evaluation was the best; it travels in each
    checkpoint.

    The adapter before training takes no part: step 0 is the baseline, not a candidate.
    """

    rules: Rules
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
        """Take what is recorded as the evaluation of `step`; whether it is a new best. nan never
        is, and of equal ones that of the lower validation loss is."""
        self.evaluations.append((step, dict(self.recorded)))
        value = self.recorded.get(self.rules.metric, math.nan)
        better = not math.isnan(value) and (
            self.best_value is None or self.gain(self.best_value, value) > self.rules.min_delta
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
        """Whether the newest evaluation has a lower loss than the best one. Where no word is right
        yet, only the loss tells a trained adapter from a new one."""
        best = next(then for step, then in self.evaluations if step == self.best_step)
        return self.recorded.get(LOSS, math.nan) < best.get(LOSS, math.nan)

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is, in the metric's unit; negative where it is worse."""
        return before - after if self.rules.mode == "min" else after - before

    def values(self) -> list[float]:
        """The watched metric at each evaluation, oldest first."""
        return [then.get(self.rules.metric, math.nan) for _, then in self.evaluations]

    def verdict(self) -> str | None:
        """Why to stop after this evaluation, or None."""
        if len(self.evaluations) <= self.rules.warmup_evaluations:
            return None
        names = (*BUILT_IN, *self.rules.criteria)
        return next((why for name in names if (why := CRITERIA[name](self))), None)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, for `restore`."""
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
        # Checkpoints of the first release hold the best alone.
        self.lowest_loss = state.get("lowest_loss", math.inf)
        self.evaluations = [(step, dict(then)) for step, then in state.get("evaluations", [])]
        self.recorded = dict(state.get("recorded", {}))


Criterion = Callable[[History], str | None]
CRITERIA: dict[str, Criterion] = {}


def criterion(function: Criterion) -> Criterion:
    """Register a criterion under its function's name."""
    CRITERIA[function.__name__] = function
    return function


@criterion
def divergence(history: History) -> str | None:
    """The training loss is nan, or above a multiple of its lowest; looked at whenever it is
    logged."""
    factor, loss = history.rules.divergence_factor, history.recorded.get("train/loss")
    if factor is None or loss is None:
        return None
    if not math.isfinite(loss):
        return f"the training loss is {loss}"
    if loss > factor * history.lowest_loss:
        return (
            f"the training loss {loss:.4g} is above {factor:g} times its lowest, "
            f"{history.lowest_loss:.4g}"
        )
    return None


@criterion
def target_reached(history: History) -> str | None:
    target, value = history.rules.target, history.values()[-1]
    if target is not None and history.gain(target, value) >= 0:
        return f"{history.rules.metric} reached {value:.4g}, the target was {target:g}"
    return None


@criterion
def patience(history: History) -> str | None:
    limit = history.rules.patience
    if limit is not None and history.without_better >= limit:
        than = "ever" if history.best_step is None else f"than at step {history.best_step}"
        return (
            f"{history.rules.metric} was not better {than} in {history.without_better} evaluations"
        )
    return None


@criterion
def plateau(history: History) -> str | None:
    """The least-squares line through the last evaluations gains no more than min_delta from its
    first to its last."""
    window = history.rules.plateau_evaluations
    values = history.values()[-window:] if window else []
    if window is None or len(values) < window or not all(map(math.isfinite, values)):
        return None
    slope = linear_regression(range(window), values).slope
    gained = history.gain(0.0, slope) * (window - 1)
    if gained <= history.rules.min_delta:
        return f"{history.rules.metric} has a trend of {gained:+.4g} over {window} evaluations"
    return None


# They rest while their setting is empty; the names in `criteria` come after them.
BUILT_IN = ("divergence", "target_reached", "patience", "plateau")


def stopping_problems(asked: EarlyStoppingConfig) -> dict[str, str]:
    """A sentence for each setting that cannot be followed: {setting: sentence}."""
    problems = {}
    if asked.metric not in VALIDATION + TRAINING:
        names = ", ".join(VALIDATION + TRAINING)
        problems["early_stopping.metric"] = f"{asked.metric!r} is not recorded; take one of {names}"
    if unknown := [name for name in asked.criteria if name not in CRITERIA]:
        problems["early_stopping.criteria"] = (
            f"no criterion {unknown[0]!r}{did_you_mean(unknown[0], CRITERIA)}; registered are "
            f"{', '.join(CRITERIA)} (src/training/early_stopping.py)"
        )
    return problems
