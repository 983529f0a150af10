"""Scores of the base model that an earlier run computed, taken from the disk by the next one."""

import os
from pathlib import Path
from typing import Any

import pytest

from src.training.base_scores import KEPT
from src.training.train import train
from tests.helpers import tiny

ONE_STEP = {"training.max_steps": 1, "evaluation.eval_steps": 1, "scheduler.warmup_steps": 0}


@pytest.fixture
def own(base: Path, tmp_path: Path) -> Path:
    """A base model and words that a test may change."""
    tiny.save_model(tmp_path / "gpt2", "gpt2")
    tiny.data(tmp_path / "words")
    return tmp_path


def trained(own: Path, name: str, *, scores: Path | None, **changes: Any) -> tiny.Recorder:
    recorder = tiny.Recorder()
    train(
        tiny.config_of(own, **ONE_STEP | changes),
        recorder,
        output_dir=own / name,
        checkpoints_dir=own / name / "checkpoints",
        base_scores=scores,
    )
    return recorder


def scorings(recorder: tiny.Recorder) -> int:
    """How often the run computed scores of its validation rows: at steps 0 and 1."""
    phases = [phase for phase in recorder.phases if phase.startswith("validation ")]
    first = min(phases, key=lambda phase: int(phase.split()[1]))
    return phases.count(first)


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_the_next_run_takes_the_scores_of_its_base_from_the_disk(own: Path, engine: str) -> None:
    scores = own / "scores"
    first = trained(own, "a", scores=scores, engine=engine)
    assert scorings(first) == 2 and len(list(scores.glob("*.parquet"))) == 1
    other = {"training.seed": 7, "training.learning_rate": 1e-3, "lora.r": 2}
    second = trained(own, "b", scores=scores, engine=engine, **other)
    assert scorings(second) == 1
    for name in ("val/loss", "val/exact_match", "val/token_accuracy", "val/cer"):
        assert second.curve(name)[0] == first.curve(name)[0]
    (step, split, table), *_ = second.evaluations
    assert (step, split) == (0, "validation") and table.equals(first.evaluations[0][2])
    # They are those that it would have computed.
    alone = trained(own, "c", scores=None, engine=engine, **other)
    assert scorings(alone) == 2
    assert alone.curve("val/loss") == second.curve("val/loss")
    assert alone.evaluations[0][2].equals(table) and not list(own.glob("c/**/*.parquet"))


def test_scores_are_those_of_the_same_base_rows_settings_and_engine(own: Path) -> None:
    scores = own / "scores"

    def computes(name: str, **changes: Any) -> bool:
        return scorings(trained(own, name, scores=scores, **changes)) == 2

    assert computes("a") and not computes("b")
    assert computes("c", engine="packed")
    assert computes("d", **{"evaluation.batch_size": 3})
    assert computes("e", **{"evaluation.max_new_tokens": 5})
    assert computes("f", **{"data.template": "Spell {question}:"})
    weights = own / "gpt2" / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert computes("g") and not computes("h")
    for file in scores.glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-1])
    assert computes("i") and not computes("j")


def test_a_resumed_run_does_not_take_them_for_its_own(own: Path) -> None:
    scores = own / "scores"
    first = trained(own, "a", scores=scores)
    (_, checkpoint, _) = first.checkpoints[-1]
    again = tiny.Recorder()
    train(
        tiny.config_of(own, **ONE_STEP | {"training.max_steps": 2}),
        again,
        output_dir=own / "a",
        checkpoints_dir=own / "a" / "checkpoints",
        resume_from=checkpoint,
        base_scores=scores,
    )
    assert 0 not in again.curve("val/loss")
    assert len(list(scores.glob("*"))) == 1


def test_a_folder_that_takes_no_files_changes_nothing(own: Path) -> None:
    (own / "scores").write_text("a file")
    first = trained(own, "a", scores=own / "scores", engine="packed")
    assert scorings(first) == 2


def test_the_oldest_files_are_removed(own: Path) -> None:
    scores = own / "scores"
    scores.mkdir()
    for age in range(KEPT):
        file = scores / f"{age}.parquet"
        file.touch()
        os.utime(file, (age, age))
    trained(own, "a", scores=scores, engine="packed")
    left = {file.name for file in scores.iterdir()}
    assert len(left) == KEPT and "0.parquet" not in left and "1.parquet" in left
