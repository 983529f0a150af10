"""Learning rates as transformers schedules them: its optimization.py, whose import takes PEFT's and
SciPy's with it, a second before each first step"""

import math
from collections.abc import Callable

# Of a schedule that does not end: transformers' default where there is no warm-up.
TIMESCALE = 10_000
END_OF_POLYNOMIAL = 1e-7  # learning rate

# Schedules that do not know when a training ends.
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")


def schedule(
    name: str, *, warmup_steps: int, max_steps: int, learning_rate: float
) -> Callable[[int], float]:
    """The factor of the learning rate at each step (from 0) under the setting scheduler.name."""
    decay = _DECAYS[name]
    if name == "constant":
        return lambda step: 1.0
    if name == "polynomial" and learning_rate <= END_OF_POLYNOMIAL:
        raise ValueError(
            f"scheduler polynomial ends at a learning rate of {END_OF_POLYNOMIAL:g}, and "
            f"training.learning_rate is {learning_rate:g}: raise it, or take another scheduler"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / max(1, warmup_steps)
        return decay(step, warmup_steps, max_steps, learning_rate)

    return factor


def _constant(step: int, warmup: int, end: int, rate: float) -> float:
    return 1.0


def _linear(step: int, warmup: int, end: int, rate: float) -> float:
    return max(0.0, (end - step) / max(1, end - warmup))


def _cosine(step: int, warmup: int, end: int, rate: float) -> float:
    """Half a wave."""
    done = (step - warmup) / max(1, end - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * done)))


def _polynomial(step: int, warmup: int, end: int, rate: float) -> float:
    """Of the first degree: a line to END_OF_POLYNOMIAL."""
    if step > end:
        return END_OF_POLYNOMIAL / rate
    left = 1 - (step - warmup) / max(1, end - warmup)
    return ((rate - END_OF_POLYNOMIAL) * left + END_OF_POLYNOMIAL) / rate


def _inverse_sqrt(step: int, warmup: int, end: int, rate: float) -> float:
    scale = warmup or TIMESCALE
    return 1.0 / math.sqrt((step + scale - warmup) / scale)


_DECAYS = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
}
