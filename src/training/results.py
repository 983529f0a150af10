"""The result files of a run: eval_results.yaml, its metrics file, its entry in the summary."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from src.files import alone, read_text, write_atomic
from src.training.utils import TrainingResult


@dataclass(frozen=True)
class FailedTraining:
    """A training that ended with an error, or that was given up."""

    reason: str | None


# libyaml's emitter, which takes a tenth of the time of Python's.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def write_results(
    outcome: TrainingResult | FailedTraining,
    *,
    run_id: str,
    output_dir: Path,
    metrics_file: Path,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the metrics file of a run and, for a training with a result, eval_results.yaml; returns
    the run's entry in the summary of all experiments."""
    entry: dict[str, Any] = {"run": run_id, "output_dir": str(output_dir)}
    if isinstance(outcome, TrainingResult):
        entry |= asdict(outcome)
        write_atomic(output_dir / "eval_results.yaml", _as_yaml(entry))
    else:
        entry |= {"failed": True, "reason": outcome.reason, "metrics": {}}
    write_atomic(metrics_file, json.dumps(entry, indent=2) + "\n")
    return entry | {"config": dict(config)}


def enter_in_summary(summary_file: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Put what `write_results` returned for these runs into the summary of all experiments, in the
    place of their earlier entries. The file is written whole: once for all that end together."""
    _replace_in_summary(summary_file, {str(entry["run"]) for entry in entries}, entries)


def forget_results(run_ids: Collection[str], summary_file: Path) -> None:
    """Remove deleted runs from the summary of all experiments."""
    if run_ids and summary_file.exists():
        _replace_in_summary(summary_file, run_ids, [])


def _replace_in_summary(
    summary_file: Path, run_ids: Collection[str], added: Sequence[Mapping[str, Any]]
) -> None:
    # Two runs may end in the same second.
    with alone(summary_file.with_suffix(".lock")):
        text = read_text(summary_file) if summary_file.exists() else ""
        # As text: parsing the entries of a sweep's thousands of trials takes longer than a trial.
        _, *entries = re.split(r"^(?=- )", text, flags=re.MULTILINE)
        own = tuple(_as_yaml([{"run": run_id}]) for run_id in run_ids)
        entries = [one for one in entries if not one.startswith(own)]
        entries += [_as_yaml([entry]) for entry in added]
        listed = "\n" + "".join(entries) if entries else " []\n"
        write_atomic(summary_file, f"experiments:{listed}")


def _as_yaml(document: object) -> str:
    text: str = yaml.dump(document, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    return text
