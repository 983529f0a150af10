"""Experiment management: what a training reports, and the files that it leaves in its output
folder."""

import fcntl
import gc
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

if TYPE_CHECKING:
    import pandas as pd


class Reporter(Protocol):
    """Where a training sends what it learns. The run table implements it; a test may collect lists.

    Steps are optimizer steps. No method may raise for a full disk or a locked database: training
    goes on.
    """

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars by name (`train/loss`, `lr`, ...) at a step."""

    def evaluation(self, step: int, split: str, predictions: "pd.DataFrame") -> None:
        """Keep the predictions of one evaluation of `split` (validation or test), one row a
        question."""

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        """Record a complete checkpoint directory."""

    def checkpoint_removed(self, step: int) -> None:
        """Forget a checkpoint that retention deleted."""

    def used(self, values: Mapping[str, Any]) -> None:
        """Record what the trainer really used (backend, versions, resolved settings), merged over
        earlier calls."""

    def warning(self, step: int, text: str) -> None:
        """Tell of something that failed and did not end the run."""

    def phase(self, text: str) -> None:
        """Say in a few words what goes on now: `loading gpt2`, `validation 400 of 1,386`."""

    def stop_requested(self) -> bool:
        """Whether a person asked this run to stop. Cheap: it looks at most once a second."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    stopped: bool  # a person asked for it, before max_steps
    reason: str | None  # why it ended before max_steps: early stopping or a stop, else None
    step: int  # the last optimizer step
    best_step: int  # the step whose adapter was kept
    metrics: dict[str, float] = field(default_factory=dict)  # of the kept adapter


@contextmanager
def loading() -> Iterator[None]:
    """Import libraries in a fifth less time. For a process that then does nothing but train.

    They make a million objects that stay. Python's collector would look through all of them again
    and again while they come, and at each full collection of the training.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def write_results(
    result: TrainingResult,
    *,
    run_id: str,
    output_dir: Path,
    metrics_file: Path,
    summary_file: Path,
    config: Mapping[str, Any],
) -> None:
    """Write eval_results.yaml, the metrics file, and this run's entry in the summary of all
    experiments."""
    entry = {"run": run_id, "output_dir": str(output_dir), **asdict(result)}
    write_atomic(output_dir / "eval_results.yaml", yaml.safe_dump(entry, sort_keys=False))
    write_atomic(metrics_file, json.dumps(entry, indent=2) + "\n")
    _replace_in_summary(summary_file, run_id, entry | {"config": dict(config)})


def write_failure(
    reason: str | None,
    *,
    run_id: str,
    output_dir: Path,
    metrics_file: Path,
    summary_file: Path,
    config: Mapping[str, Any],
) -> None:
    """Write the metrics file and the entry in the summary of a run that was given up."""
    entry = {"run": run_id, "output_dir": str(output_dir), "failed": True, "reason": reason}
    write_atomic(metrics_file, json.dumps(entry | {"metrics": {}}, indent=2) + "\n")
    _replace_in_summary(summary_file, run_id, entry | {"metrics": {}, "config": dict(config)})


def forget_results(run_id: str, summary_file: Path) -> None:
    """Take a deleted run out of the summary of all experiments."""
    if summary_file.exists():
        _replace_in_summary(summary_file, run_id, None)


def _replace_in_summary(summary_file: Path, run_id: str, entry: Mapping[str, Any] | None) -> None:
    summary_file.parent.mkdir(parents=True, exist_ok=True)
    # Two runs may end in the same second: read, change and write under one lock.
    with open(summary_file.with_suffix(".lock"), "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        text = summary_file.read_text(encoding="utf-8") if summary_file.exists() else ""
        # As text: to parse the entries of a sweep's thousands of trials takes longer than a trial.
        _, *entries = re.split(r"^(?=- )", text, flags=re.MULTILINE)
        mine = yaml.safe_dump([{"run": run_id}])
        entries = [one for one in entries if not one.startswith(mine)]
        if entry is not None:
            entries.append(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True))
        listed = "\n" + "".join(entries) if entries else " []\n"
        write_atomic(summary_file, f"experiments:{listed}")


def write_atomic(path: Path, text: str) -> None:
    """Write a file that is either the old one or the new one, whatever dies in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with open(staged, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
