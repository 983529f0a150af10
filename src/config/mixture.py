"""`data.mix`: shares of built-in tasks that a run is trained on together"""

import math
from collections.abc import Mapping
from typing import Any

from src.errors import did_you_mean
from src.tasks import TASKS

EXAMPLE = "{spell_out: 0.7, correct: 0.3}"
DIGITS = 6  # of a share
ROUNDED = 1e-4  # by which shares of so many digits may miss 1


def mixture(value: Any) -> Any:
    """{task: share} of weights above 0, the largest share first; equal for equal mixtures."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"takes built-in tasks with their weights, as {EXAMPLE}; got {value!r}")
    weights = {task: _weight(task, given) for task, given in value.items()}
    total = sum(weights.values())
    if abs(total - 1) > ROUNDED:
        weights = {task: float(f"{weight / total:.{DIGITS}g}") for task, weight in weights.items()}
    return dict(sorted(weights.items(), key=lambda one: (-one[1], one[0])))


def _weight(task: Any, given: Any) -> float:
    """The weight of a task, which has to be one."""
    if task not in TASKS:
        near = did_you_mean(str(task), TASKS) or f"; there are {', '.join(TASKS)}"
        raise ValueError(f"has no built-in task {task!r}{near}")
    try:
        weight = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ValueError(f"takes a number above 0 as the weight of {task}; got {given!r}")
    return weight


def trained_on(data: Mapping[str, Any]) -> str:
    """The task that the values of a run's data name, or its mixture: `70% spell_out, 30% count`."""
    mix = data.get("mix")
    if not mix:
        return str(data["task"])
    if len(mix) == 1:
        return str(next(iter(mix)))
    return ", ".join(f"{100 * share:.3g}% {task}" for task, share in mix.items())
