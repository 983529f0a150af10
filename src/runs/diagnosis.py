"""Diagnosis of a completed run that gave no right answer: why, and what to change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.config import ConfigError, RunConfig, stored_config
from src.format import number
from src.runs import launch_notes
from src.store.tables import Run, Status

METRICS = ("val/exact_match", "val/loss", "grad_norm")  # that a diagnosis reads
EXPLODED = 100  # times the first gradient norm
LOWER_RATE = 0.1
MORE_STEPS = 4


@dataclass(frozen=True)
class Diagnosis:
    """Why a run gave no right answer, and the setting that would mend it."""

    text: str
    setting: str
    value: float
    action: str  # `learning rate 0.002`


def diagnose(run: Run, curves: Mapping[str, Sequence[float]]) -> Diagnosis | None:
    """Why a completed run has no right answer; None for another run, or one that has some.

    `curves` are the values of METRICS, in the order of their steps.
    """
    scores = curves.get("val/exact_match", ())
    if run.status != Status.COMPLETED or len(scores) < 2 or any(score > 0 for score in scores):
        return None
    try:
        config = stored_config(run.config)
    except ConfigError:
        return None  # of another version, from which nothing can be launched
    losses, norms = curves.get("val/loss", ()), curves.get("grad_norm", ())
    reasons = _divergence(config, losses, norms)
    if reasons:
        rate = _lower_rate(config)
        text = (
            f"Completed, but learned nothing: accuracy is 0.0% at every evaluation"
            f"{''.join(f'; {reason}' for reason in reasons)}. A lower learning rate may mend it"
        )
        return Diagnosis(text, "training.learning_rate", rate, f"learning rate {rate:g}")
    steps = MORE_STEPS * config.training.max_steps
    fell = f", though the validation loss fell {_from_to(losses)}" if losses else ""
    text = (
        f"Completed, but no answer of the validation set is right yet{fell}. "
        f"{config.training.max_steps:,} steps may be too few"
    )
    return Diagnosis(text, "training.max_steps", steps, f"{steps:,} steps")


def _divergence(config: RunConfig, losses: Sequence[float], norms: Sequence[float]) -> list[str]:
    """The signs that a run diverged."""
    found = []
    if losses and not losses[-1] < losses[0]:  # also where it is nan
        found.append(f"the validation loss went {_from_to(losses)}")
    known = [norm for norm in norms if math.isfinite(norm)]
    if len(known) < len(norms):
        found.append("the gradient norm was no number any more")
    elif known and max(known) > EXPLODED * max(known[0], 1.0):
        found.append(f"the gradient norm rose from {number(known[0])} to {number(max(known))}")
    if launch_notes.is_rate_high(config):
        found.append(
            f"the learning rate of {config.training.learning_rate:g} is far above the usual"
        )
    return found


def _lower_rate(config: RunConfig) -> float:
    """A learning rate that is likelier to work: the usual one, or a tenth of the run's."""
    rate = config.training.learning_rate
    usual = launch_notes.usual_rate(config)
    if usual is not None and launch_notes.is_rate_high(config):
        return usual
    return float(f"{rate * LOWER_RATE:.3g}")


def _from_to(values: Sequence[float]) -> str:
    return f"from {number(values[0])} to {number(values[-1])}"
