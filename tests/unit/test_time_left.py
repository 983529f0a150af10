"""Time left: steps, evaluations, the test and the queue, worked out by hand and on stored runs."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest import approx
from sqlalchemy import update

from src import store
from src.config import RunConfig, load_config, stored_config
from src.runs import launcher, machine, time_left
from src.runs.time_left import Plan, Slot, _start, of_all, of_queue, of_run, remaining
from src.store.tables import Run, Status
from tests.golden import commands
from tests.helpers.pages import html, show
from tests.helpers.store import fill_run, fill_usage
from tests.helpers.sweeps import measured

pytestmark = pytest.mark.skipif(machine.slot_count() > 1, reason="several slots share a queue")

EVERY_10 = {"training.max_steps": 40, "evaluation.eval_steps": 10, "evaluation.max_rows": None}


def left(
    steps: Sequence[tuple[int, float]], scored: dict[int, float], now: float, **columns: Any
) -> float | None:
    """Of a run of 40 steps that is scored every 10, with a test twice as long as validation."""
    config = load_config(overrides=EVERY_10)
    rows = {"rows": {"validation": 20, "test": 40}}
    run = Run(
        id="r", name="r", status=Status.RUNNING, config={}, max_steps=40, created_at=0, used=rows,
        **columns,
    )  # fmt: skip
    return remaining(run, config, steps, scored, now)


# --- a run that trains ----------------------------------------------------------------------------


def test_a_step_a_second_and_evaluations_of_four_seconds() -> None:
    steps = [(5, 5.0), (10, 10.0), (15, 19.0)]
    scored = {0: 0.0, 10: 14.0}
    # 25 steps; evaluations at 20, 30 and 40, that of the best again, and a test of two of them.
    assert left(steps, scored, 19.0) == 25 + 4 * (3 + 1 + 2)
    assert left(steps, scored, 22.0) == 46  # it goes on between two logged steps
    assert left(steps, scored, 1e9) == 1
    # The evaluation of step 20 is under way.
    assert left([*steps, (20, 24.0)], scored, 24.0) == 20 + 4 * (3 + 1 + 2)
    assert left([*steps, (20, 24.0)], scored | {20: 28.0}, 28.0) == 20 + 4 * (2 + 1 + 2)


def test_after_the_last_step_only_what_is_scored_at_the_end_is_left() -> None:
    steps, scored = [(30, 30.0), (40, 44.0)], {30: 34.0, 40: 48.0}
    assert left(steps, scored, 48.0, best_step=40) == 8
    assert left(steps, scored, 48.0, best_step=30) == 12
    assert left(steps, {30: 34.0}, 46.0, best_step=30) == 4 + 4 + 8 - 2


def test_evaluations_between_logged_steps_are_not_counted_twice() -> None:
    # Of the one at 20 only the end is known: it took as long as that at 10.
    assert left([(10, 10.0), (25, 33.0)], {10: 14.0, 20: 28.0}, 33.0) == 15 + 4 * (2 + 1 + 2)


def test_before_two_steps_and_before_the_first_evaluation() -> None:
    assert left([], {}, 0.0) is None and left([(1, 1.0)], {}, 1.0) is None
    assert left([(1, 1.0), (2, 2.0)], {0: 0.0}, 2.0) == 38  # what one takes is not known yet


def test_of_a_real_run_it_was_right(tmp_path: Path) -> None:
    """A run of the golden store at its half: what it said then, and how it went on."""
    with commands.unpacked(tmp_path), store.reading() as session:
        run = store.find(session, "whole-trl")
        config = stored_config(run.config)
        points = {
            name: store.moments(session, run.id, 1, [name], limit=1000)
            for name in ("train/loss", "val/loss", "test/exact_match")
        }
    half = dict(points["val/loss"])[20]
    steps = [(step, at) for step, at in points["train/loss"] if at <= half]
    scored = {step: at for step, at in points["val/loss"] if at <= half}
    ((_, end),) = points["test/exact_match"]
    assert remaining(run, config, steps, scored, half) == pytest.approx(end - half, rel=0.25)


# --- the queue ------------------------------------------------------------------------------------


def test_runs_alone_start_one_after_the_other_on_the_slot_that_is_free_first() -> None:
    slots = [Slot(), Slot()]
    slots[0].add(None, 0, 100)
    slots[1].add(None, 0, 30)
    assert [_start(slots, None, 1, 50) for _ in range(3)] == [30, 80, 100]
    slots[0].add(None, 0, math.inf)
    assert _start(slots, None, 1, None) == 130  # its own length is not known, and of the next...
    assert math.isinf(_start(slots, None, 1, 50))


def test_runs_join_the_pack_that_trains_and_wait_for_its_places() -> None:
    slots = [Slot()]
    key = ("packed",)
    for end in (100, 20):
        slots[0].add(key, 0, end)
    assert _start(slots, key, 3, 50) == 0  # there is room for a third
    assert _start(slots, key, 3, 50) == 20  # it takes the place of the first that ends
    assert _start(slots, ("other",), 3, 10) == 100  # when the whole process has ended
    assert _start(slots, ("other",), 3, 10) == 100  # beside it


def test_a_queued_run_waits_for_what_trains_by_what_earlier_ones_took(home: Path) -> None:
    fill_usage(fill_run(name="earlier"))  # 96 s
    first = fill_run(name="first", status=Status.RUNNING, steps=300, curves=False)
    waiting = [fill_run(name=f"next {n}", status=Status.QUEUED) for n in range(3)]
    launcher.hold([waiting[1]], held=True)
    size = {"training__per_device_train_batch_size": 16}
    other = fill_run(name="other", status=Status.QUEUED, **size)
    now = store_started(first) + 40
    with store.reading() as session:
        found = of_all(session, now)
        assert found[first] == time_left.TimeLeft(0, pytest.approx(56))
        assert found[waiting[0]] == time_left.TimeLeft(pytest.approx(56), pytest.approx(152))
        assert found[waiting[2]] == time_left.TimeLeft(pytest.approx(152), pytest.approx(248))
        assert waiting[1] not in found and found[other] is None
        assert of_run(session, store.find(session, waiting[1]), now) is None
        assert of_queue(session) is None
    with store.reading() as session:
        config = stored_config(store.find(session, other).config)
    with store.reading() as session:
        shorter = config.model_copy(
            update={"training": config.training.model_copy(update={"max_steps": 60})}
        )
        earlier = time_left.Earlier(session)
        assert earlier.of_config(shorter) == (None, False)
        # A quarter of the steps of the run that took 96 s; of a tenth most would be its start.
        for steps, told in ((150, (pytest.approx(24), True)), (60, (None, False))):
            own = {"training": load_config().training.model_copy(update={"max_steps": steps})}
            assert earlier.of_config(load_config().model_copy(update=own)) == told
    measured(config, 1, 0.1, 1.0)  # now it is known, at most
    with store.reading() as session:
        known = of_all(session, now)[other]
        assert known and known.starts == pytest.approx(248) and of_queue(session)
    body = html(show("monitor", run=waiting[0]))
    assert "<dt>all runs end in</dt><dd>≈ " in html(show("machine"))
    assert "<dt>starts in</dt><dd>≈ " in body and "<dt>time left</dt><dd>≈ " in body


def test_of_a_silent_run_and_of_what_waits_for_it_no_time_left_is_known(home: Path) -> None:
    fill_usage(fill_run(name="earlier"))  # tells how long the one that waits takes
    silent = fill_run(name="silent", status=Status.RUNNING, steps=300)
    waits = fill_run(name="waits", status=Status.QUEUED)
    for ago, is_known in ((1, True), (60, False)):
        with store.writing() as session:
            store.find(session, silent).heartbeat_at = time.time() - ago
        with store.reading() as session:
            found = of_all(session)
            assert (found[silent] is not None) == is_known
            told = time_left.document(session, store.find(session, silent))
            assert (told["seconds_left"] is not None) == is_known
            assert (found[waits] is not None) == is_known
            assert (of_queue(session) is not None) == is_known
    assert "all runs end in" not in html(show("machine"))


def store_started(run_id: str) -> float:
    with store.reading() as session:
        started = store.find(session, run_id).started_at
    assert started is not None
    return started


# --- several runs ---------------------------------------------------------------------------------


def config_of(**overrides: Any) -> RunConfig:
    return load_config(overrides={name.replace("__", "."): v for name, v in overrides.items()})


def of_several(configs: Sequence[RunConfig]) -> time_left.Needed | None:
    with store.reading() as session:
        return time_left.Earlier(session).of_all(configs)


def test_runs_of_a_pack_share_its_time_and_others_follow_each_other(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = {"engine": "packed", "pack_size": 4}
    # Four runs that one process trained, in 96 s; their ends are those of fill_run.
    for seed in range(4):
        fill_usage(fill_run(training__seed=seed, **packed))
    with store.writing() as session:
        session.execute(update(Run).values(token="a pack"))
    fill_usage(fill_run(training__max_steps=400))  # alone, in 66 s
    alone = config_of(training__max_steps=400)
    assert of_several([alone] * 3) == time_left.Needed(approx(3 * 66), approx(3 * 66))
    pack = [config_of(training__seed=seed, **packed) for seed in range(9)]
    assert of_several(pack[:4]) == time_left.Needed(approx(96), approx(96))
    # Fewer may take less, which nobody has seen; a fifth waits for the next process.
    assert of_several(pack[:2]) == time_left.Needed(approx(96), approx(96))
    assert of_several(pack[:5]) == time_left.Needed(approx(2 * 96), approx(2 * 96))
    # Of a pack of eight the runs are not known to take less of its time than of one of four.
    wider = [one.model_copy(update={"pack_size": 8}) for one in pack[:8]]
    assert of_several(wider) == time_left.Needed(approx(2 * 96), approx(2 * 96))
    assert of_several([*pack[:4], alone]) == time_left.Needed(approx(162), approx(162))
    assert of_several([alone, config_of(training__max_steps=7)]) is None
    with store.reading() as session:
        earlier = time_left.Earlier(session)
        assert earlier.of_config(pack[0]) == (approx(96), False)  # alone it takes that at most
        assert earlier.of_config(alone) == (approx(66), True)
        # The same holds of half the steps, of which their pace tells.
        half = [config_of(training__seed=n, training__max_steps=300, **packed) for n in range(4)]
        assert earlier.of_config(half[0]) == (approx(48), False)
        assert earlier.of_all(half) == time_left.Needed(approx(48), approx(48))
    monkeypatch.setattr(time_left, "slot_count", lambda: 2)
    assert of_several([alone] * 3) == time_left.Needed(approx(2 * 66), approx(1.5 * 66))


def test_runs_that_came_one_after_the_other_to_a_pack_shared_it_with_those_beside_them(
    home: Path,
) -> None:
    packed = {"engine": "packed", "pack_size": 2}
    for seed in range(8):  # in two places of one process, each in 96 s
        fill_usage(fill_run(training__seed=seed, **packed))
    with store.writing() as session:
        session.execute(update(Run).values(token="a pack"))
    wider = [config_of(training__seed=seed, **packed | {"pack_size": 8}) for seed in range(8)]
    assert of_several(wider) == time_left.Needed(approx(8 * 48), approx(8 * 48))


def test_a_run_with_the_id_of_a_deleted_one_is_planned_by_its_own_settings(home: Path) -> None:
    deleted = fill_run(training__max_steps=400, created_at=1e9, engine="packed")
    with store.writing() as session:
        assert time_left.plan_of(store.find(session, deleted)).pack is not None
        store.delete_rows(session, deleted)
    again = fill_run(training__max_steps=200, created_at=1e9 + 0.5)
    assert again == deleted
    with store.reading() as session:
        plan = time_left.plan_of(store.find(session, again))
    alone = config_of(training__max_steps=200)
    assert plan == Plan(time_left.length_of(alone), time_left.pace_of(alone), None, alone.pack_size)
