"""Which trials are pruned, and that a new driver decides the same."""

from typing import Any

import pytest

from src.store.tables import Run, Status
from src.sweeps.file import (
    base_config,
)
from src.sweeps.pruning import Pruning
from tests.helpers.sweeps import sweep_of


def a_trial(number: int, status: Status = Status.RUNNING, **columns: Any) -> Run:
    return Run(
        id=f"t{number}", name="t", status=status, max_steps=90, created_at=0.0, number=number,
        **columns,
    )  # fmt: skip


def reports_of(
    curves: dict[int, list[float]], every: int = 10
) -> list[tuple[str, int, float, float]]:
    """(run, step, value, at), in which all trials train side by side."""
    return [
        (f"t{number}", (place + 1) * every, value, 100.0 * place + number)
        for number, curve in curves.items()
        for place, value in enumerate(curve)
    ]


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_a_trial_that_falls_behind_is_pruned_and_a_new_driver_says_the_same(pruner: str) -> None:
    sweep = sweep_of(pruner=pruner, base={"overrides": {"evaluation.eval_steps": 10,
                                                        "training.max_steps": 90}})  # fmt: skip
    base = base_config(sweep)
    good = {n: [0.3 + 0.1 * p + n / 100 for p in range(8)] for n in range(5, 10)}
    curves = good | {10: [0.01] * 8, 11: [2.0] * 8}
    done = [a_trial(n, Status.COMPLETED, ended_at=1.0) for n in range(5)]
    trials = [*done, *(a_trial(n) for n in curves)]
    ended = {n: [0.3 + 0.1 * p for p in range(9)] for n in range(5)}
    early = [(run, step, value, -1.0) for run, step, value, _ in reports_of(ended)]
    later = sorted(reports_of(curves), key=lambda report: report[3])

    def said(parts: int) -> list[str]:
        """What a driver decides that hears of the reports bit by bit."""
        pruning = Pruning("sweep", sweep, base)
        for part in range(parts):
            heard = later[: len(later) * (part + 1) // parts]
            behind = pruning.look(trials, early + heard)
        return [run.id for run in behind]

    whole = said(1)
    assert "t10" in whole and "t11" not in whole
    assert said(2) == said(7) == said(len(later)) == whole


def test_what_has_ended_or_is_asked_to_is_not_pruned() -> None:
    sweep = sweep_of(pruner="asha", base={"overrides": {"evaluation.eval_steps": 10}})
    pruning = Pruning("sweep", sweep, base_config(sweep))
    curves = {0: [0.9], 1: [0.1], 2: [0.1], 3: [0.1]}
    trials = [
        a_trial(0),
        a_trial(1),
        a_trial(2, stop_requested_at=1.0),
        a_trial(3, Status.COMPLETED, ended_at=500.0),
    ]
    assert [run.id for run in pruning.look(trials, reports_of(curves))] == ["t1"]
