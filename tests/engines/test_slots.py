"""The slots of a pack: who has one, who shares one, and how many there are."""

from pathlib import Path
from typing import Any

import pytest
import torch

from src.models.multi_lora.step import Pack
from src.training.packed.batches import MAX_EXACT_LENGTHS, BatchBuilder, padded_length
from src.training.packed.engine import train_pack
from src.training.packed.run import RunSpec
from src.workers import memory_probe
from tests.engines.test_packed_runs import difference, recorder, result, spec, trial_config


@pytest.mark.parametrize("stop_at", [None, 5])
def test_runs_that_differ_in_max_steps_alone_share_their_steps(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int | None
) -> None:
    """Each has what it has alone, to the bit: one ends first, or is stopped, and its best adapter
    is not its newest."""
    steady: dict[str, Any] = {
        "scheduler__name": "constant", "evaluation__eval_steps": 3, "training__learning_rate": 4.0,
        "early_stopping__metric": "val/loss", "early_stopping__mode": "min",
    }  # fmt: skip
    configs = {
        "short": trial_config(base, **steady, training__max_steps=13),
        "long": trial_config(base, **steady, training__max_steps=16),
        "another rate": trial_config(
            base, **(steady | {"training__learning_rate": 0.2}), training__max_steps=8
        ),
        "knows its end": trial_config(
            base, **(steady | {"scheduler__name": "linear"}), training__max_steps=8
        ),
    }
    stops = {} if stop_at is None else {"short": stop_at}
    taken: list[int] = []
    original = BatchBuilder.step

    def step(self: BatchBuilder, runs: Any, slots: int, offset: int) -> Any:
        taken.append(len(runs))
        return original(self, runs, slots, offset)

    monkeypatch.setattr(BatchBuilder, "step", step)
    together = {
        name: spec(config, tmp_path / "together" / name, stops.get(name))
        for name, config in configs.items()
    }
    found = {id(one): outcome for one, outcome in train_pack(together.values())}
    assert taken[0] == 3 and taken[-1] == 1
    short = result(found[id(together["short"])])
    assert stop_at or short.best_step < short.step
    assert short.stopped == bool(stops)
    for name in configs.keys() - stops.keys():  # a stop is seen between two blocks of steps
        alone = spec(configs[name], tmp_path / "alone" / name)
        ((_, outcome),) = train_pack([alone])
        mine, solo = result(found[id(together[name])]), result(outcome)
        assert mine == solo
        here, there = recorder(together[name]), recorder(alone)
        for curve in ("train/loss", "lr", "grad_norm", "val/loss", "val/exact_match", "test/loss"):
            assert here.curve(curve) == there.curve(curve), curve
        assert [(s, best) for s, _, best in here.checkpoints] == [
            (s, best) for s, _, best in there.checkpoints
        ]
        final = "out/final/adapter_model.safetensors"
        places = [tmp_path / how / name / final for how in ("together", "alone")]
        assert places[0].read_bytes() == places[1].read_bytes()


def test_a_free_slot_is_refilled(base: Path, tmp_path: Path) -> None:
    """Also by a run of larger rank, with dropout, which the pack was not made for."""
    waiting = [
        spec(trial_config(base, lora__r=32, lora__dropout=0.1), tmp_path / "large"),
        spec(trial_config(base, training__seed=4), tmp_path / "last"),
    ]
    first = [
        spec(trial_config(base, lora__r=4, training__max_steps=steps), tmp_path / f"first{steps}")
        for steps in (3, 9)
    ]
    solo = spec(trial_config(base, training__seed=4), tmp_path / "solo")
    train_pack([solo])
    largest = []

    def more() -> RunSpec | None:
        return waiting.pop(0) if waiting else None

    original = Pack.run

    def run(self: Pack, steps: Any) -> torch.Tensor:
        largest.append((self.slots, self.rank))
        return original(self, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "run", run)
        found = train_pack(first, slots=2, more=more)
    assert [result(outcome).step for _, outcome in found] == [3, 9, 12, 12]
    assert list(dict.fromkeys(largest)) == [(2, 4), (2, 32), (1, 32)]
    assert difference(tmp_path / "last/out/final", tmp_path / "solo/out/final") < 1e-5


def test_a_run_that_is_over_at_once_gives_its_slot_to_the_next(base: Path, tmp_path: Path) -> None:
    stopped = [spec(trial_config(base), tmp_path / str(n), stop_at=0) for n in range(2)]
    last = spec(trial_config(base, training__max_steps=3), tmp_path / "last")
    found = train_pack([*stopped, last], slots=1)
    assert [(one, result(outcome).step) for one, outcome in found] == [
        *((one, 0) for one in stopped), (last, 3)
    ]  # fmt: skip


def test_a_pack_grows_with_what_waits(base: Path, tmp_path: Path) -> None:
    """Who comes first must not decide that all the others train one after the other."""
    late = [spec(trial_config(base, training__seed=n), tmp_path / f"late{n}") for n in (4, 5)]
    solo = spec(trial_config(base, training__seed=4), tmp_path / "solo")
    train_pack([solo])
    first = spec(trial_config(base, training__max_steps=30), tmp_path / "first")
    found = train_pack([first], more=lambda: late.pop(0) if late else None)
    assert [result(outcome).step for _, outcome in found] == [12, 12, 30]
    assert difference(tmp_path / "late4/out/final", tmp_path / "solo/out/final") < 1e-5


def test_only_large_packs_take_rows_at_their_own_length() -> None:
    """On a GPU each length is a graph: few of them, whatever the data are."""
    assert padded_length(29, rows=16) == 32 and padded_length(32, rows=16) == 32
    assert padded_length(29, rows=1024) == 29
    many = range(60, 60 + MAX_EXACT_LENGTHS)
    assert padded_length(29, rows=1024, known=many) == 32
    assert padded_length(61, rows=16, known=many) == 61
    assert padded_length(290, rows=1024, exact=16, multiple=64) == 304
    assert padded_length(290, rows=16, exact=16, multiple=64) == 320
    assert padded_length(290, rows=16, known=[304], exact=16, multiple=64) == 304


def test_a_pack_shrinks_with_what_is_left(base: Path, tmp_path: Path) -> None:
    """On a GPU empty slots take as long as full ones."""
    solo = spec(trial_config(base, training__seed=4, training__max_steps=20), tmp_path / "solo")
    train_pack([solo])
    last = spec(trial_config(base, training__seed=4, training__max_steps=20), tmp_path / "last")
    first = [spec(trial_config(base, training__seed=n), tmp_path / f"{n}") for n in range(3)]
    original, slots = Pack.run, []

    def run(self: Pack, steps: Any) -> torch.Tensor:
        slots.append(self.slots)
        return original(self, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "run", run)
        found = train_pack([*first, last])
    assert [result(outcome).step for _, outcome in found] == [12, 12, 12, 20]
    assert list(dict.fromkeys(slots)) == [4, 1]
    assert difference(tmp_path / "last/out/final", tmp_path / "solo/out/final") < 1e-5


def test_a_pack_that_memory_cannot_hold_is_made_smaller(base: Path, tmp_path: Path) -> None:
    """Also where a run of a higher rank joins: then the others keep training."""
    original, refused = Pack.__init__, []

    def make(self: Pack, base: Any, slots: int, rank: int, **options: Any) -> None:
        if slots * rank > 16:
            refused.append((slots, rank))
            raise torch.OutOfMemoryError("no memory")
        original(self, base, slots, rank, **options)

    specs = [spec(trial_config(base, lora__r=4, training__seed=n), tmp_path / f"{n}")
              for n in range(5)]  # fmt: skip
    wide = spec(trial_config(base, lora__r=16), tmp_path / "wide")
    late = [wide]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "__init__", make)
        found = train_pack(specs, slots=5, more=lambda: late.pop() if late else None)
    assert {result(outcome).step for _, outcome in found} == {12} and len(found) == 6
    # Five of rank 4; once two of these have room, rank 16 for all of them, and for one.
    assert refused[0] == (5, 4) and {rank for _, rank in refused} == {4, 16}
    for one in (*specs, wide):
        assert any("out of GPU memory" in text for _, text in recorder(one).warnings)


def test_what_is_measured_of_a_pack_is_of_all_that_was_asked_for(
    base: Path, tmp_path: Path
) -> None:
    original = Pack.__init__

    def make(self: Pack, base: Any, slots: int, rank: int, **options: Any) -> None:
        if slots > 2:
            raise torch.OutOfMemoryError("no memory")
        original(self, base, slots, rank, **options)

    timers = [memory_probe.StepTimer() for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "__init__", make)
        with pytest.raises(MemoryError, match="so many at once"):
            memory_probe._train(trial_config(base, training__max_steps=2), timers, tmp_path)


def test_out_of_memory_halves_the_pack_and_goes_on(base: Path, tmp_path: Path) -> None:
    solo = spec(trial_config(base, training__seed=3), tmp_path / "solo")
    train_pack([solo])
    original, steps_seen = Pack.run, []

    def run(self: Pack, steps: Any) -> torch.Tensor:
        steps = list(steps)
        steps_seen.append(self.slots)
        if self.slots > 1 and len(steps_seen) > 2:
            raise torch.OutOfMemoryError("no memory")
        return original(self, steps)

    specs = [spec(trial_config(base, training__seed=s), tmp_path / str(s)) for s in range(5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "run", run)
        found = train_pack(specs, slots=4)
    assert {result(outcome).step for _, outcome in found} == {12} and len(found) == 5
    assert set(steps_seen) == {4, 2, 1}
    assert difference(tmp_path / "3/out/final", tmp_path / "solo/out/final") < 1e-5
    assert all("out of GPU memory" in recorder(one).warnings[0][1] for one in specs[:4])
