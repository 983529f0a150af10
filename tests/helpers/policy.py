"""Trainings whose lives tests of the run policy follow."""

from pathlib import Path

from safetensors.torch import load_file

from src.config import RunConfig
from src.training import checkpointing
from src.training.train import train
from src.training.utils import TrainingResult
from tests.helpers import tiny

# Between events the packed engine takes several steps at a time, and looks for a stop after them.
EACH_STEP = {"checkpointing__save_steps": 1}


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
