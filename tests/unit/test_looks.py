"""Looks at two configs: how many the run table says there were."""

from typing import Any

import pytest

from src.analysis.estimates import share
from src.analysis.looks import Look, last_look
from src.store.tables import Run, Status


def seed(
    name: str, launched: float, ended: float | None, *, status: str | None = None, **fields: Any
) -> Run:
    return Run(
        id=name,
        name=name[0],
        status=status or (Status.RUNNING if ended is None else Status.COMPLETED),
        created_at=launched,
        ended_at=ended,
        max_steps=1,
        config={},
        **fields,
    )


def seeds(*moments: tuple[float, float], **fields: Any) -> tuple[list[Run], list[Run]]:
    """Two configs, each with one completed seed of each (launched, ended)."""
    sides = [
        [seed(f"{side}{i}", *moment, **fields) for i, moment in enumerate(moments)] for side in "ab"
    ]
    return sides[0], sides[1]


def looked(sides: tuple[list[Run], list[Run]], *others: Run) -> Look:
    return last_look(sides, [*sides[0], *sides[1], *others])


def test_the_shares_of_all_looks_sum_to_one():
    assert [share(look) for look in (1, 2, 3)] == pytest.approx([1 / 2, 1 / 6, 1 / 12])
    assert 0.999 < sum(map(share, range(1, 2000))) < 1


def test_seeds_that_were_launched_together_are_one_look():
    assert looked(seeds(*[(0, 9)] * 8)).number == 1
    # One slot trains them one after the other.
    assert looked(seeds(*[(0, 10 * i) for i in range(1, 9)])).number == 1
    # A script launches them within a minute, before the third has ended.
    assert looked(seeds(*[(i, 20 + 10 * i) for i in range(8)])).number == 1


def test_each_launch_at_the_sight_of_scores_is_one_more_look():
    advised = [*[(0, 9)] * 3, *[(20, 29)] * 4]
    assert looked(seeds(*advised)).number == 2
    assert looked(seeds(*advised, (40, 49))).number == 3
    one_at_a_time = [*[(0, 9)] * 3, *[(10 * i, 10 * i + 9) for i in range(1, 20)]]
    assert looked(seeds(*one_at_a_time)).number == 20
    # While others train the scores that are there can be seen as well.
    assert looked(seeds(*[(0, 9)] * 3, (0, 99), (20, 29))).number == 2


def test_what_grows_only_one_side_is_a_look_too():
    a, b = seeds(*[(0, 9)] * 3)
    assert looked((a, [*b, seed("b9", 20, 29)])).number == 2


def test_before_both_sides_have_three_seeds_there_is_nothing_to_look_at():
    a, b = seeds(*[(10 * i, 10 * i + 9) for i in range(3)])
    assert looked((a, b)).number == 1
    eight = [seed(f"a{i}", 0, 9) for i in range(8)]
    assert looked((eight, b)).number == 1


def test_a_look_is_complete_when_its_seeds_have_ended():
    sides = seeds(*[(0, 9)] * 4)
    everything = frozenset(run.id for side in sides for run in side)
    late = seed("b9", 0, None)
    assert looked(sides, late) == Look(0, everything, 1)
    waits = seed("a9", 20, None, status=Status.QUEUED)
    assert looked(sides, waits) == Look(1, everything, 1), "it belongs to the second look"
    more = seeds(*[(0, 9)] * 4, (20, 29))
    assert looked(more, waits) == Look(1, everything, 1), "the second is not complete"
    assert looked(more).number == 2 and len(looked(more).runs) == 10


def test_seeds_that_bring_no_score_are_no_look():
    sides = seeds(*[(0, 9)] * 3)
    failed = [seed(f"b{i}", 20 + i, 25 + i, status=Status.FAILED) for i in range(5)]
    assert looked(sides, *failed).number == 1


def test_trials_were_planned_with_their_sweep():
    a, b = seeds(*[(10 * i, 10 * i + 9) for i in range(6)])
    for number, run in enumerate([*a, *b]):
        run.number = number
    assert looked((a, b)).number == 1
    assert looked((a, [*b, seed("b9", 90, 99)])).number == 2


def test_stopping_seeds_at_the_sight_of_scores_is_a_look():
    sides = seeds(*[(0, 9)] * 3)
    stopped = {"status": Status.STOPPED, "stop_requested_at": 15.0}
    cancelled = seed("a9", 0, 15, status=Status.CANCELLED)
    assert looked(sides, seed("b9", 0, 16, **stopped)).number == 2
    assert looked(sides, seed("b9", 0, 16, **stopped), cancelled).number == 2, "at one sight"
    assert looked(sides, seed("b9", 0, 16, **stopped | {"stop_requested_at": 5.0})).number == 1
    pruned = {"stop_reason": "pruned: it was behind"}
    assert looked(sides, seed("b9", 0, 16, **stopped | pruned)).number == 1
