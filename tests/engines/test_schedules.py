"""Learning rates of the packed engine: those of transformers, to the bit."""

import math
from typing import Any, get_args

import pytest
import torch
from transformers import get_scheduler

from src.config.schema import SchedulerConfig
from src.training.schedules import schedule

NAMES = get_args(SchedulerConfig.model_fields["name"].annotation)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 12), (5, 12), (1, 300), (12, 12), (40, 12)])
@pytest.mark.parametrize("rate", [3e-3, 1.0])
def test_each_schedule_is_that_of_transformers(
    name: str, warmup: int, steps: int, rate: float
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    made: Any = get_scheduler(name, optimizer, warmup, steps)
    own = schedule(name, warmup_steps=warmup, max_steps=steps, learning_rate=rate)
    for step in range(steps + 3):
        if name == "polynomial" and step == warmup == steps:
            assert own(step) == 1  # where transformers divides by zero
        else:
            assert own(step) == made.lr_lambdas[0](step), step


def test_a_rate_below_the_end_of_a_polynomial_is_refused_as_transformers_does() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-7)
    with pytest.raises(ValueError, match="smaller than initial"):
        get_scheduler("polynomial", optimizer, 0, 10)
    with pytest.raises(ValueError, match="ends at a learning rate of 1e-07"):
        schedule("polynomial", warmup_steps=0, max_steps=10, learning_rate=1e-7)
    assert math.isclose(
        schedule("polynomial", warmup_steps=0, max_steps=10, learning_rate=1e-3)(10), 1e-4
    )
