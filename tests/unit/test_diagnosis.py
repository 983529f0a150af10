"""Runs that completed without a right answer: why, and what would mend it."""

import math
from pathlib import Path
from typing import Any

import pytest

from src import store
from src.runs.diagnosis import Diagnosis, diagnose
from src.store.tables import Status
from tests.helpers.store import fill_run

FELL = [9.7, 2.4, 1.2]


def diagnosed(
    scores: list[float], losses: list[float], norms: list[float], **changes: Any
) -> Diagnosis | None:
    run_id = fill_run(steps=0, **changes)
    with store.reading() as session:
        run = store.find(session, run_id)
    return diagnose(run, {"val/exact_match": scores, "val/loss": losses, "grad_norm": norms})


@pytest.mark.parametrize(
    ("losses", "norms"),
    [
        ([9.6, 5.6, 9.7], [10.0, 12.0]),
        ([9.6, 5.6, 7.4], [10.0, 2.2e6]),
        ([9.6, 5.6, math.nan], [10.0, 12.0]),
        (FELL, [10.0, math.inf]),
    ],
)
def test_a_run_that_diverged_is_offered_a_lower_rate(
    home: Path, losses: list[float], norms: list[float]
) -> None:
    found = diagnosed([0.0, 0.0], losses, norms, training__learning_rate=0.02)
    assert found is not None and "learned nothing" in found.text
    assert (found.setting, found.value) == ("training.learning_rate", 0.002)
    assert found.action == "learning rate 0.002"


def test_a_rate_far_above_the_presets_gets_that_of_a_preset(home: Path) -> None:
    found = diagnosed([0.0, 0.0], FELL, [10.0, 5.0], training__learning_rate=9.0)
    assert found is not None and found.value == 0.003 and "far above the usual" in found.text


def test_a_run_that_was_too_short_is_offered_more_steps(home: Path) -> None:
    found = diagnosed([0.0, 0.0, 0.0], FELL, [10.0, 1.4], training__max_steps=80)
    assert found is not None
    assert (found.setting, found.value, found.action) == ("training.max_steps", 320, "320 steps")
    assert (
        "no answer of the validation set is right yet" in found.text
        and "fell from 9.7 to 1.2" in found.text
    )


def test_a_run_with_a_right_answer_or_without_an_end_has_no_diagnosis(home: Path) -> None:
    assert diagnosed([0.0, 0.01, 0.0], FELL, [10.0, 1e9]) is None
    assert diagnosed([0.0], FELL[:1], [10.0]) is None  # scored before its first step alone
    assert diagnosed([], [], []) is None
    for status in (Status.STOPPED, Status.FAILED, Status.RUNNING):
        assert diagnosed([0.0, 0.0], FELL, [10.0, 1.4], status=status) is None
