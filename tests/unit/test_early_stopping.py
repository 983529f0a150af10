"""The criteria of early stopping against hand-made curves, and in a training."""

import json
import math
from pathlib import Path

import pytest

from src.config import load_config
from src.training import early_stopping
from src.training.early_stopping import CRITERIA, EarlyStopping, criterion
from src.training.train import train
from src.training.utils import TrainingError
from tests.helpers import tiny


def stopping(metric: str = "val/loss", mode: str = "min", **changes: object) -> EarlyStopping:
    """Early stopping of which nothing is on but what `changes` says."""
    nothing = {"min_delta": 0.0, "patience": None, "warmup_evaluations": 0}
    values = nothing | {"metric": metric, "mode": mode} | changes
    overrides = {f"early_stopping.{name}": value for name, value in values.items()}
    return EarlyStopping(load_config(overrides=overrides).early_stopping)


def fed(values: list[float], metric: str = "val/loss", mode: str = "min", **rules: object) -> str:
    """The first verdict over these evaluations at steps 1, 2, ..., as `step: reason`."""
    history = stopping(metric, mode, **rules)
    for step, value in enumerate(values, start=1):
        history.record({metric: value})
        history.evaluated(step)
        if why := history.stop_reason():
            return f"{step}: {why}"
    return "goes on"


def test_the_best_needs_the_smallest_change_and_is_never_nan() -> None:
    history = stopping("val/loss", "min", min_delta=0.1)
    seen = []
    for step, value in enumerate([1.0, 0.95, 0.8, math.nan, 0.75]):
        history.record({"val/loss": value})
        seen.append(history.evaluated(step))
    assert seen == [True, False, True, False, False]
    assert (history.best_step, history.best_value, history.without_better) == (2, 0.8, 2)


def test_of_equal_scores_that_of_the_lower_loss_is_the_best() -> None:
    """At first no word is right; the newest adapter is still far better than the first."""
    history = stopping("val/exact_match", "max")
    for step, (score, loss) in enumerate([(0, 9.7), (0, 2.4), (0, 3.1), (0, 1.4)], start=1):
        history.record({"val/exact_match": score, "val/loss": loss})
        history.evaluated(step)
    assert (history.best_step, history.without_better) == (4, 3)
    assert not stopping("val/cer", "max").evaluated(1)  # nobody recorded it


@pytest.mark.parametrize(
    ("values", "rules", "verdict"),
    [
        ([3, 2, 2, 2], {"patience": 2}, "4: val/loss was not better than at step 2 in 2"),
        ([3, 2, 2, 1, 2], {"patience": 2}, "goes on"),
        ([3, 3, 3, 3], {"patience": 1, "warmup_evaluations": 3}, "4: val/loss was not better"),
        ([math.nan] * 3, {"patience": 2}, "2: val/loss was not better ever in 2"),
        ([3, 2, 1], {"target": 2.0}, "2: val/loss reached 2, the target was 2"),
        ([3, 2, 1], {"target": 0.5}, "goes on"),
        ([4, 3, 2, 1], {"plateau_evaluations": 3}, "goes on"),
        ([4, 3, 3.1, 2.95, 3], {"plateau_evaluations": 4, "min_delta": 0.2}, "5: val/loss has a"),
        ([4, 3], {"plateau_evaluations": 3}, "goes on"),
    ],
)
def test_criteria_on_a_falling_loss(
    values: list[float], rules: dict[str, object], verdict: str
) -> None:
    assert fed(values, **rules).startswith(verdict)


def test_more_may_be_better() -> None:
    assert fed([0.1, 0.9], "val/exact_match", "max", target=0.8).startswith("2: ")
    rising = [0.1, 0.2, 0.3, 0.4]
    assert fed(rising, "val/exact_match", "max", plateau_evaluations=3, patience=1) == "goes on"
    assert fed(rising[::-1], "val/exact_match", "max", plateau_evaluations=3).startswith("3: ")


def test_divergence_compares_with_the_lowest_loss() -> None:
    history = stopping("val/loss", "min", divergence_factor=2.0)
    found = []
    for loss in (3.0, 1.0, 1.9, 2.1, math.nan):
        history.record({"train/loss": loss})
        found.append(early_stopping.divergence(history))
    assert found[:3] == [None] * 3
    assert found[3] == "the training loss 2.1 is above 2 times its lowest, 1"
    assert found[4] == "the training loss is nan" and history.lowest_loss == 1.0


def test_a_history_survives_a_checkpoint() -> None:
    history = stopping("val/loss", "min", patience=3)
    for step, value in enumerate([3.0, 2.0, 2.5], start=1):
        history.record({"train/loss": value, "val/loss": value})
        history.evaluated(step)
    copy = EarlyStopping(history.settings)
    copy.restore(json.loads(json.dumps(history.state())))
    assert copy.state() == history.state()


def test_a_training_stops_by_the_criterion_of_a_user(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(early_stopping, "CRITERIA", CRITERIA)

    @criterion
    def second_evaluation(run: EarlyStopping) -> str | None:
        return "it was the second" if len(run.evaluations) == 2 else None

    try:
        config = tiny.config_of(base, **{"early_stopping.criteria": ["second_evaluation"]})
        result = train(
            config, tiny.Recorder(), output_dir=tmp_path / "out", checkpoints_dir=tmp_path / "steps"
        )
    finally:
        del CRITERIA["second_evaluation"]
    assert (result.step, result.stopped) == (8, False)
    assert result.reason == "early stopping: it was the second"
    with pytest.raises(TrainingError, match="no criterion 'second_evaluation'"):
        train(config, tiny.Recorder(), output_dir=tmp_path, checkpoints_dir=tmp_path)


def test_a_diverging_training_ends_with_its_best_adapter(base: Path, tmp_path: Path) -> None:
    settings = {
        "optimizer.name": "sgd",
        "optimizer.weight_decay": 2.0,  # makes it certain, however this processor rounds
        "training.learning_rate": 10.0,
        "training.max_grad_norm": 1e9,
        "training.max_steps": 60,
        "scheduler.name": "constant_with_warmup",
        "scheduler.warmup_steps": 50,
        "evaluation.eval_steps": 1,
        "early_stopping.patience": None,
    }
    recorder = tiny.Recorder()
    result = train(
        tiny.config_of(base, **settings, **{"early_stopping.divergence_factor": 1.5}),
        recorder, output_dir=tmp_path / "out", checkpoints_dir=tmp_path / "steps",
    )  # fmt: skip
    assert result.reason and "early stopping: the training loss" in result.reason
    assert result.best_step < result.step < 60
    lowest = min(
        recorder.curve("val/loss"), key=lambda s: recorder.curve("val/loss")[s] if s else 9e9
    )
    assert result.best_step == lowest and math.isfinite(result.metrics["test/loss"])


def test_the_best_may_be_named_by_a_training_metric(base: Path, tmp_path: Path) -> None:
    config = tiny.config_of(base, **{"early_stopping.metric": "train/loss"})
    recorder = tiny.Recorder()
    result = train(
        config, recorder, output_dir=tmp_path / "out", checkpoints_dir=tmp_path / "steps"
    )
    losses = recorder.curve("train/loss")
    assert result.best_step == min((4, 8, 12), key=losses.__getitem__)
    with pytest.raises(TrainingError, match="'train/los' is not recorded"):
        wrong = tiny.config_of(base, **{"early_stopping.metric": "train/los"})
        train(wrong, recorder, output_dir=tmp_path, checkpoints_dir=tmp_path)
