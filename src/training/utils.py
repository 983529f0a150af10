"""Shared by both engines: the Reporter protocol, the result of a training, its errors."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class TrainingError(ValueError):
    """Settings that an engine cannot train, or that a library changed underneath."""


class Reporter(Protocol):
    """Where a training sends its metrics, predictions and checkpoints. The run table implements it.

    Steps are optimizer steps. No method may raise for a full disk or a locked database: training
    continues.
    """

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars by name (`train/loss`, `lr`, ...) at a step."""

    def evaluation(self, step: int, split: str, predictions: "pa.Table") -> None:
        """Store the predictions of one evaluation of `split` (validation or test), one row per
        question, as `ScoreSheet.summary` gives them."""

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        """Record a complete checkpoint directory."""

    def checkpoint_removed(self, step: int) -> None:
        """Forget a checkpoint that retention deleted."""

    def used(self, values: Mapping[str, Any]) -> None:
        """Record resolved settings (backend, versions, ...), merged over earlier calls."""

    def warning(self, step: int, text: str) -> None:
        """Record a failure that did not end the run."""

    def phase(self, text: str, *, scoring: bool = False) -> None:
        """Show what is being done now: `loading gpt2`, `validation 400 of 1,386`.

        `scoring` is true while a split is scored: what fails then is no matter of the training.
        """

    def stop_requested(self) -> bool:
        """True if a user asked this run to stop. Cheap: it looks at most once per second."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    stopped: bool  # by a user, before max_steps
    reason: str | None  # why it ended before max_steps: early stopping or a stop, else None
    step: int  # the last optimizer step
    best_step: int  # the step whose adapter was kept
    metrics: dict[str, float] = field(default_factory=dict)  # of the kept adapter

    @property
    def early_stopped(self) -> bool:
        """True if a criterion of early stopping ended it."""
        return self.reason is not None and not self.stopped


@contextmanager
def loading() -> Iterator[None]:
    """Import libraries in a fifth less time, in a process that then does nothing but train.

    Imports create a million objects that stay. Python's garbage collector would traverse them again
    and again during the imports, and in each full collection of the training.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
