"""The result files of a run: eval_results.yaml, its metrics file, its entry in the summary."""

import fcntl
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from src.files import read_text, write_atomic
from src.training.utils import TrainingResult


@dataclass(frozen=True)
class FailedTraining:
    """A training that ended with an error, or that was given up."""

    reason: str | None


def write_results(
    outcome: TrainingResult | FailedTraining,
    *,
    run_id: str,
    output_dir: Path,
    metrics_file: Path,
    summary_file: Path,
    config: Mapping[str, Any],
) -> None:
    """Write the metrics file, the run's entry in the summary of all experiments and, for a training
    with a result, eval_results.yaml."""
    entry: dict[str, Any] = {"run": run_id, "output_dir": str(output_dir)}
    if isinstance(outcome, TrainingResult):
        entry |= asdict(outcome)
        write_atomic(output_dir / "eval_results.yaml", yaml.safe_dump(entry, sort_keys=False))
    else:
        entry |= {"failed": True, "reason": outcome.reason, "metrics": {}}
    write_atomic(metrics_file, json.dumps(entry, indent=2) + "\n")
    _replace_in_summary(summary_file, run_id, entry | {"config": dict(config)})


def forget_results(run_id: str, summary_file: Path) -> None:
    """Remove a deleted run from the summary of all experiments."""
    if summary_file.exists():
        _replace_in_summary(summary_file, run_id, None)


def _replace_in_summary(summary_file: Path, run_id: str, entry: Mapping[str, Any] | None) -> None:
    summary_file.parent.mkdir(parents=True, exist_ok=True)
    # Two runs may end in the same second: read, change and write under one lock.
    with open(summary_file.with_suffix(".lock"), "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        text = read_text(summary_file) if summary_file.exists() else ""
        # As text: parsing the entries of a sweep's thousands of trials takes longer than a trial.
        _, *entries = re.split(r"^(?=- )", text, flags=re.MULTILINE)
        own = yaml.safe_dump([{"run": run_id}])
        entries = [one for one in entries if not one.startswith(own)]
        if entry is not None:
            entries.append(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True))
        listed = "\n" + "".join(entries) if entries else " []\n"
        write_atomic(summary_file, f"experiments:{listed}")
