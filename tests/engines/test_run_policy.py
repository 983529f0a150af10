"""What follows from a run's steps, evaluations and saves: the same in both engines."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from src.config import RunConfig
from src.training import checkpointing
from src.training.early_stopping import CRITERIA, Diverged, EarlyStopping, criterion
from tests.helpers import tiny
from tests.helpers.policy import EACH_STEP, StopsIn, kept, run, same_adapter

ENGINES = ("trl", "packed")


# --- divergence -----------------------------------------------------------------------------------

# Each step multiplies the weights by 1 - 10 * 10: soon no product of two is finite.
WILD = {
    "optimizer__name": "sgd",
    "optimizer__weight_decay": 10.0,
    "training__max_steps": 40,
    "training__learning_rate": 10.0,
    "training__max_grad_norm": 1e9,
    "scheduler__name": "constant_with_warmup",
    "scheduler__warmup_steps": 1,
    "evaluation__eval_steps": 1,
    "evaluation__max_rows": 1,
    "checkpointing__keep_last": 99,
}


def test_a_divergence_stops_early_and_keeps_the_best(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(**WILD, early_stopping__divergence_factor=5.0)
    result, reporter = run(settings, tmp_path)
    assert not result.stopped and result.step < 40
    assert result.reason is not None and result.reason.startswith("early stopping: the ")
    losses = reporter.curve("val/loss")
    assert result.best_step == min((step for step in losses if step), key=losses.__getitem__)
    assert same_adapter(tmp_path / "out/final", tmp_path / f"steps/step-{result.best_step}")
    assert math.isfinite(result.metrics["test/loss"])
    assert result.step not in kept(tmp_path) and result.step not in reporter.curve("val/loss")


@pytest.mark.parametrize(
    "changes",
    [
        {"early_stopping__divergence_factor": None},
        {"early_stopping__divergence_factor": 1e37, "supervision__self_heal": True},
        {"early_stopping__divergence_factor": 1e37, "evaluation__eval_steps": 40},
    ],
    ids=["no criterion", "heals", "no best yet"],
)
def test_a_divergence_is_an_error_where_nothing_else_is_to_be_done(
    config: Callable[..., RunConfig], tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(Diverged, match=r"at step \d+: the training diverged; lower training\.l"):
        run(config(**(WILD | {"supervision__self_heal": False} | changes)), tmp_path)
    assert not (tmp_path / "out/final").exists()


def test_no_checkpoint_holds_weights_that_are_not_finite(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Although the loss is logged more rarely than checkpoints are saved."""
    settings = WILD | {"evaluation__eval_steps": 40, "training__logging_steps": 100}
    with pytest.raises(Diverged):
        run(config(**settings, early_stopping__divergence_factor=None), tmp_path)
    for step in kept(tmp_path):
        tensors = load_file(tmp_path / f"steps/step-{step}/adapter_model.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())


# --- early stopping -------------------------------------------------------------------------------


@pytest.fixture
def second() -> Iterator[str]:
    """A criterion of a user, under its name."""

    @criterion
    def second_evaluation(run: EarlyStopping) -> str | None:
        return "it was the second" if len(run.evaluations) == 2 else None

    yield "second_evaluation"
    del CRITERIA["second_evaluation"]


@pytest.mark.parametrize(
    ("changes", "step", "best", "reason"),
    [
        ({"patience": 1, "min_delta": 100}, 8, 4, "val/loss was not better than at step 4 in 1"),
        ({"patience": 1, "min_delta": 100, "warmup_evaluations": 2}, 12, 4, None),
        ({"target": 100.0}, 4, 4, "val/loss reached"),
        ({"plateau_evaluations": 2, "min_delta": 100}, 8, 4, "val/loss has a trend of"),
        ({"criteria": ["second_evaluation"]}, 8, 8, "it was the second"),
    ],
    ids=["patience", "warm-up", "target", "plateau", "registered"],
)
def test_each_criterion_stops_the_run(
    config: Callable[..., RunConfig],
    tmp_path: Path,
    second: str,
    changes: dict[str, Any],
    step: int,
    best: int,
    reason: str | None,
) -> None:
    asked = {f"early_stopping__{name}": value for name, value in changes.items()}
    result, reporter = run(config(**asked), tmp_path)
    assert (result.step, result.best_step, result.stopped) == (step, best, False)
    if reason is None:
        assert result.reason is None
    else:
        assert result.reason is not None and result.reason.startswith(f"early stopping: {reason}")
    # The last step is saved, and the test set is scored with the best adapter.
    assert kept(tmp_path)[-1] == step
    assert same_adapter(tmp_path / "out/final", tmp_path / f"steps/step-{best}")
    assert set(reporter.curve("test/loss")) == {best}
    assert result.metrics["val/loss"] == pytest.approx(reporter.curve("val/loss")[best])


def test_the_loss_of_training_may_be_watched(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(early_stopping__metric="train/loss")
    result, reporter = run(settings, tmp_path)
    losses = reporter.curve("train/loss")
    assert result.best_step == min((4, 8, 12), key=losses.__getitem__)


def test_a_resume_goes_on_with_what_early_stopping_knew(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(
        training__max_steps=40,
        early_stopping__patience=2,
        early_stopping__min_delta=100,
        **EACH_STEP,
    )
    whole, _ = run(settings, tmp_path / "whole")
    first, _ = run(settings, tmp_path / "parts", stop_at=9)
    assert first.stopped and first.step == 10 and whole.step == 12
    second, _ = run(settings, tmp_path / "parts", resume=first.step)
    assert (second.step, second.best_step, second.reason) == (12, whole.best_step, whole.reason)
    assert second.metrics == pytest.approx(whole.metrics, rel=1e-4)


# --- stops ----------------------------------------------------------------------------------------


def test_the_best_is_restored_and_scored_again(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(early_stopping__min_delta=100, checkpointing__keep_last=2)
    result, reporter = run(settings, tmp_path)
    assert (result.step, result.best_step, result.reason) == (12, 4, None)
    assert same_adapter(tmp_path / "out/final", tmp_path / "steps/step-4")
    assert not same_adapter(tmp_path / "out/final", tmp_path / "steps/step-12")
    scored = [(step, split) for step, split, _ in reporter.evaluations]
    assert scored[-2:] == [(4, "validation"), (4, "test")]


def test_a_stop_keeps_the_best_and_leaves_the_test_set_alone(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    result, reporter = run(config(**EACH_STEP), tmp_path, stop_at=5)
    assert (result.stopped, result.step, result.best_step) == (True, 6, 4)
    assert result.reason == "stopped at step 6"
    assert kept(tmp_path)[-1] == 6
    assert same_adapter(tmp_path / "out/final", tmp_path / "steps/step-4")
    assert not any(split == "test" for _, split, _ in reporter.evaluations)
    assert result.metrics["val/loss"] == reporter.curve("val/loss")[4]


def test_a_stop_before_the_first_step_keeps_the_fresh_adapter(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    result, _ = run(config(), tmp_path, stop_at=0)
    assert (result.stopped, result.step, result.metrics) == (True, 0, {})
    assert (tmp_path / "out/final/adapter_model.safetensors").is_file()


def test_an_evaluation_that_a_stop_cut_short_is_made_up_for(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(evaluation__batch_size=1)
    whole, seen = run(settings, tmp_path / "whole")
    cut, first = run(settings, tmp_path / "cut", reporter=StopsIn("validation"))
    assert cut.stopped and cut.step == 4 and set(first.curve("val/loss")) == {0}
    assert checkpointing.verify(tmp_path / "cut/steps/step-4")["evaluation_owed"] is True
    second, again = run(settings, tmp_path / "cut", resume=4)
    # The checkpoint was there before anybody knew that it is the best.
    assert again.checkpoints[0] == (4, tmp_path / "cut/steps/step-4", True)
    losses = {step: value for step, value in seen.curve("val/loss").items() if step}
    assert again.curve("val/loss") == pytest.approx(losses, rel=1e-4)
    assert (second.step, second.best_step) == (whole.step, whole.best_step)
    assert same_adapter(tmp_path / "cut/out/final", tmp_path / "whole/out/final")


def test_a_stop_in_an_owed_evaluation_owes_it_still(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(evaluation__batch_size=1)
    run(settings, tmp_path, reporter=StopsIn("validation"))

    class Impatient(tiny.Recorder):
        def stop_requested(self) -> bool:
            return self.phases[-1].startswith("validation 2")

    again, _ = run(settings, tmp_path, reporter=Impatient(), resume=4)
    assert (again.stopped, again.step, again.best_step) == (True, 4, 4)
    assert checkpointing.verify(tmp_path / "steps/step-4")["evaluation_owed"] is True
    last, reporter = run(settings, tmp_path, resume=4)
    assert last.step == 12 and set(reporter.curve("val/loss")) >= {4, 8, 12}


def test_an_evaluation_that_was_due_at_a_stop_is_made_up_for(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Else the best could be another one than without the interruption."""
    settings = config(**EACH_STEP)
    whole, _ = run(settings, tmp_path / "whole")
    for stop_at in (3, 11):
        parts = tmp_path / f"stopped at {stop_at}"
        first, seen = run(settings, parts, stop_at=stop_at)
        assert first.stopped and first.step == stop_at + 1
        assert first.step not in seen.curve("val/loss")
        second, reporter = run(settings, parts, resume=first.step)
        assert first.step in reporter.curve("val/loss")
        assert (second.step, second.best_step, second.stopped) == (12, whole.best_step, False)
        assert second.metrics == pytest.approx(whole.metrics, rel=1e-4)


def test_a_stop_during_the_test_keeps_the_best_without_its_scores(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    result, reporter = run(config(evaluation__batch_size=1), tmp_path, reporter=StopsIn("test"))
    assert (result.stopped, result.step, result.reason) == (True, 12, "stopped at step 12")
    assert set(result.metrics) == {name for name in result.metrics if name.startswith("val/")}
    assert result.metrics and not reporter.curve("test/loss")
    assert same_adapter(tmp_path / "out/final", tmp_path / f"steps/step-{result.best_step}")


# --- speed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_tokens_and_speeds_are_those_of_the_whole_run(
    base: Path, tmp_path: Path, place: str
) -> None:
    """Also of the packed engine, which logs a block of steps in one moment."""
    curves = {}
    for engine in ENGINES:
        told = reported(base, tmp_path, engine, **{"training.logging_steps": 3})
        assert (told.values["device"] == "cpu") == (place == "cpu")
        curves[engine] = told.curve("tokens")
        steps, tokens = zip(*curves[engine].items(), strict=True)
        assert steps == (1, 3, 6, 9, 12) and list(tokens) == sorted(set(tokens))
        speeds = told.curve("tokens_per_second")
        new = [after - before for before, after in zip((0, *tokens), tokens, strict=False)]
        seconds = sum(count / speeds[step] for step, count in zip(steps, new, strict=True))
        spent = told.values["trainer_seconds"]["steps"]
        # TRL's loop does a little more than its steps.
        assert seconds <= 1.05 * spent + 0.01, (engine, seconds, spent)
        assert engine == "trl" or seconds >= 0.9 * spent - 0.01, (seconds, spent)
    assert curves["trl"] == curves["packed"]


@pytest.mark.parametrize("stop_at", [None, 5])
def test_the_last_step_is_logged_too(
    config: Callable[..., RunConfig], tmp_path: Path, stop_at: int | None
) -> None:
    """So that curves end where the run does, and each step is in a mean and in a rate."""
    asked = config(training__logging_steps=5, checkpointing__save_steps=1)
    result, reporter = run(asked, tmp_path, stop_at=stop_at)
    assert (result.step == 12) == (stop_at is None)
    for name in ("train/loss", "lr", "tokens", "tokens_per_second"):
        steps = {1, 5, 10, 12} if stop_at is None else {1, 5, result.step}
        assert set(reporter.curve(name)) == steps, name


def test_a_resume_goes_on_counting_tokens(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Also from a step that was not logged, and not at all from a checkpoint that does not tell."""
    asked = config(training__logging_steps=4)
    _, whole = run(asked, tmp_path)
    _, again = run(asked, tmp_path, resume=9)
    assert again.curve("tokens") == {12: whole.curve("tokens")[12]}
    manifest = checkpointing.verify(tmp_path / "steps/step-9")
    del manifest["tokens"]
    checkpointing.write_manifest(tmp_path / "steps/step-9", manifest)
    _, old = run(asked, tmp_path, resume=9)
    assert old.curve("tokens") == {} and set(old.curve("tokens_per_second")) == {12}


# --- what is reported and kept --------------------------------------------------------------------


def reported(base: Path, folder: Path, engine: str, **changes: object) -> tiny.Recorder:
    values = {"engine": engine, "lora.dropout": 0.0, "evaluation.max_rows": 3}
    _, reporter = run(tiny.config_of(base, **(values | changes)), folder / engine)
    return reporter


def test_both_engines_report_the_same(base: Path, tmp_path: Path) -> None:
    one, other = (
        reported(base, tmp_path, engine, **{"training.logging_steps": 3}) for engine in ENGINES
    )
    assert {name for _, name, _ in one.points} == {name for _, name, _ in other.points}
    for name in ("train/loss", "lr", "grad_norm", "val/loss", "val/cer", "test/exact_match"):
        assert one.curve(name) == pytest.approx(other.curve(name), rel=1e-4), name
    assert set(one.curve("train/loss")) == {1, 3, 6, 9, 12}
    assert all(value > 0 for value in other.curve("tokens_per_second").values())
    asked = [frame["question"].tolist() for _, split, frame in one.evaluations]
    assert asked == [frame["question"].tolist() for _, split, frame in other.evaluations]
    assert one.checkpoints == [
        (step, tmp_path / "trl" / path.relative_to(tmp_path / "packed"), best)
        for step, path, best in other.checkpoints
    ]
    assert set(one.values) - {"trainer"} == set(other.values) - {"slots"}
    different = {"engine", "engine_note", "slots", "trainer", "trainer_seconds"}
    assert {k: v for k, v in one.values.items() if k not in different} == {
        k: v for k, v in other.values.items() if k not in different
    }


def test_both_engines_keep_the_same_of_a_run_in_a_checkpoint(base: Path, tmp_path: Path) -> None:
    for engine in ENGINES:
        reported(base, tmp_path, engine)
    one, other = (checkpointing.verify(tmp_path / engine / "steps/step-12") for engine in ENGINES)
    assert set(one) == set(other) - {"engine", "arithmetic"}
    for name in ("step", "evaluation_owed", "data", "tokenizer", "device", "versions"):
        assert one[name] == other[name], name
    assert one["best"]["step"] == other["best"]["step"]
    assert one["best_values"] == pytest.approx(other["best_values"], rel=1e-4)
    shutil.rmtree(tmp_path / "trl")
