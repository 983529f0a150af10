"""What follows from a run's steps, evaluations and saves: the same in both engines."""

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file

from src.config import RunConfig
from src.training import checkpointing
from src.training.early_stopping import CRITERIA, Diverged, EarlyStopping, criterion
from src.training.train import train
from src.training.utils import TrainingResult
from tests.helpers import tiny
from tests.helpers.live import mounted

ENGINES = ("trl", "packed")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(base: Path, engine: str) -> Callable[..., RunConfig]:
    """Settings of 12 steps, evaluated every 4 and saved every 3; changes with __ for the dot."""

    def made(**changes: object) -> RunConfig:
        values = {"engine": engine, "lora.dropout": 0.0, "checkpointing.keep_last": 9}
        return tiny.config_of(
            base, **(values | {name.replace("__", "."): v for name, v in changes.items()})
        )

    return made


def run(
    config: RunConfig,
    folder: Path,
    *,
    stop_at: int | None = None,
    reporter: tiny.Recorder | None = None,
    resume: int | None = None,
) -> tuple[TrainingResult, tiny.Recorder]:
    reporter = reporter or tiny.Recorder(stop_at)
    result = train(
        config,
        reporter,
        output_dir=folder / "out",
        checkpoints_dir=folder / "steps",
        resume_from=None if resume is None else folder / f"steps/step-{resume}",
    )
    return result, reporter


# Between events the packed engine takes several steps at a time, and looks for a stop after them.
EACH_STEP = {"checkpointing__save_steps": 1}


class StopsIn(tiny.Recorder):
    """Asks to stop in the middle of an evaluation of `split` after a step of the training."""

    def __init__(self, split: str):
        super().__init__()
        self.split, self.asked = split, False

    def stop_requested(self) -> bool:
        now = self.phases[-1].startswith(f"{self.split} 2") and bool(self.curve("train/loss"))
        self.asked = self.asked or now
        return self.asked


def same_adapter(one: Path, other: Path) -> bool:
    here, there = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    return here.keys() == there.keys() and all(
        (here[key] - there[key]).abs().max() < 1e-5 for key in here
    )


def kept(folder: Path) -> list[int]:
    """Steps with a checkpoint, each as it was written."""
    steps = checkpointing.steps(folder / "steps")
    assert all(checkpointing.is_verified(folder / f"steps/step-{step}") for step in steps)
    return steps


# --- saves that fail ------------------------------------------------------------------------------

WRITE_ERRORS = {
    "system": OSError(errno.ENOSPC, "No space left on device"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
    "torch, closing": RuntimeError("basic_ios::clear: iostream error"),
    "safetensors": SafetensorError('Error while serializing: I/O error: "No space left on device"'),
    "tokenizers": Exception("No space left on device (os error 28)"),
}


def failing_at(monkeypatch: pytest.MonkeyPatch, error: BaseException, *steps: int) -> None:
    """Saves at these steps raise `error` when half of their files are there."""
    original = checkpointing.commit

    def commit(written: Path, target: Path, *arguments: Any) -> Path:
        if target.name in {f"step-{step}" for step in steps}:
            raise error
        return original(written, target, *arguments)

    monkeypatch.setattr(checkpointing, "commit", commit)


@pytest.mark.parametrize("error", WRITE_ERRORS.values(), ids=WRITE_ERRORS)
def test_a_save_that_cannot_be_written_is_a_warning(
    config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    failing_at(monkeypatch, error, 4, 6)
    result, reporter = run(config(), tmp_path)
    assert (result.step, result.stopped) == (12, False)
    assert kept(tmp_path) == [3, 8, 9, 12]
    assert [step for step, _ in reporter.warnings] == [4, 6]
    (_, best), (_, other) = reporter.warnings
    assert best.startswith("no checkpoint at step 4: ") and "No space left" in best
    assert best.endswith("; its adapter was the best so far, and is not kept")
    assert "best" not in other
    assert not (tmp_path / "steps" / checkpointing.STAGING).exists()


PASSING = {
    "system": OSError(errno.EIO, "Input/output error"),
    "network disk": OSError(errno.ETIMEDOUT, "Connection timed out"),
    "safetensors": SafetensorError("I/O error: Stale file handle (os error 116)"),
    "tokenizers": Exception("Input/output error (os error 5)"),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_a_save_is_tried_again_where_the_error_of_the_disk_passes(
    config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    failed: list[str] = []
    for name in ("commit", "commit_adapter"):
        original = getattr(checkpointing, name)

        def once(written: Path, target: Path, *arguments: Any, original: Any = original) -> Any:
            if target.name in ("step-4", "final") and target.name not in failed:
                failed.append(target.name)
                raise error
            return original(written, target, *arguments)

        monkeypatch.setattr(checkpointing, name, once)
    result, reporter = run(config(), tmp_path)
    assert failed == ["step-4", "final"] and not reporter.warnings
    assert result.step == 12 and 4 in kept(tmp_path)
    checkpointing.verify_adapter(tmp_path / "out/final")


def test_a_disk_without_room_for_the_folder_of_a_save_is_a_warning(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpointing.stage

    def stage(folder: Path) -> Path:
        if folder.name == "steps" and kept(tmp_path) == [3]:
            raise WRITE_ERRORS["system"]
        return original(folder)

    monkeypatch.setattr(checkpointing, "stage", stage)
    result, reporter = run(config(), tmp_path)
    assert result.step == 12 and kept(tmp_path) == [3]
    assert [step for step, _ in reporter.warnings] == [4, 6, 8, 9, 12]
    assert all("No space left" in text for _, text in reporter.warnings)


def test_the_best_is_never_one_that_was_not_saved(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_at(monkeypatch, WRITE_ERRORS["torch"], 8, 12)
    result, reporter = run(config(), tmp_path)
    losses = reporter.curve("val/loss")
    assert losses[12] < losses[8] < losses[4]
    assert result.best_step == 4
    assert same_adapter(tmp_path / "out/final", tmp_path / "steps/step-4")
    assert result.metrics["val/loss"] == pytest.approx(losses[4])


@pytest.mark.parametrize("error", [MemoryError("no memory"), KeyError("a bug")])
def test_what_says_nothing_of_the_disk_ends_the_run(
    config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    failing_at(monkeypatch, error, 4)
    with pytest.raises(type(error)):
        run(config(), tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("kib", [40, 90, 170, 400])
def test_a_full_disk_leaves_what_was_saved_and_the_run_goes_on(
    config: Callable[..., RunConfig], tmp_path: Path, kib: int
) -> None:
    """Whichever file of a checkpoint is the first that has no room."""
    with mounted(tmp_path / "steps", "1100k"):
        filler = tmp_path / "steps" / "filler"
        filler.write_bytes(os.urandom(1100 * 1024 - 4096 - kib * 1024))
        result, reporter = run(config(), tmp_path)
        assert (result.step, result.stopped) == (12, False)
        assert reporter.warnings
        assert all("No space left" in text for _, text in reporter.warnings)
        there = kept(tmp_path)
        assert result.best_step in there or not there
        assert not (tmp_path / "steps" / checkpointing.STAGING).exists()


@pytest.mark.root
@pytest.mark.parametrize("inodes", [3, 8])
def test_a_disk_without_free_inodes_costs_checkpoints_and_not_the_run(
    config: Callable[..., RunConfig], tmp_path: Path, inodes: int
) -> None:
    with mounted(tmp_path / "steps", "20m", f"nr_inodes={inodes}"):
        result, reporter = run(config(), tmp_path)
        assert (result.step, result.stopped, kept(tmp_path)) == (12, False, [])
        assert reporter.warnings
        assert all("No space left" in text for _, text in reporter.warnings)


def test_a_checkpoint_that_cannot_be_removed_is_a_warning(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpointing.remove_folder

    def remove(folder: Path) -> None:
        if folder.name == "step-3":
            raise OSError(errno.EROFS, "Read-only file system")
        original(folder)

    monkeypatch.setattr(checkpointing, "remove_folder", remove)
    result, reporter = run(config(checkpointing__keep_last=2), tmp_path)
    assert result.step == 12
    assert reporter.warnings and "Read-only file system" in reporter.warnings[0][1]
    assert [step for step, _, _ in reporter.checkpoints] == [3, 4, 6, 8, 9, 12]


# --- retention ------------------------------------------------------------------------------------


def test_the_newest_and_the_best_and_a_forks_checkpoint_are_kept(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    class Forks(tiny.Recorder):
        def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
            super().checkpoint(step, path, is_best)
            if step == 3:
                checkpointing.keep_for_fork(path.parent, step)

    # The first evaluation stays the best: no later one is better by so much.
    settings = config(checkpointing__keep_last=2, early_stopping__min_delta=100)
    result, reporter = run(settings, tmp_path, reporter=Forks())
    assert result.best_step == 4
    assert kept(tmp_path) == [3, 4, 9, 12]
    assert [step for step, _, best in reporter.checkpoints if best] == [4]
    assert reporter.removed == [6]


def test_a_quota_keeps_the_best_and_the_last_two(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(checkpointing__max_gib=1e-6, early_stopping__min_delta=100)
    _, reporter = run(settings, tmp_path)
    assert kept(tmp_path) == [4, 9, 12]
    assert sorted(reporter.removed) == [3, 6]


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


@pytest.mark.parametrize("stop_at", [3, 11])
def test_an_evaluation_that_was_due_at_a_stop_is_made_up_for(
    config: Callable[..., RunConfig], tmp_path: Path, stop_at: int
) -> None:
    """Else the best could be another one than without the interruption."""
    settings = config(**EACH_STEP)
    whole, _ = run(settings, tmp_path / "whole")
    first, seen = run(settings, tmp_path / "parts", stop_at=stop_at)
    assert first.stopped and first.step == stop_at + 1
    assert first.step not in seen.curve("val/loss")
    second, reporter = run(settings, tmp_path / "parts", resume=first.step)
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
