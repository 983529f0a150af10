"""Sweeps for tests: files, rows and trials, and waiting for them."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from click.testing import Result
from typer.testing import CliRunner

from src import paths, store
from src.cli import app
from src.config import RunConfig
from src.paths import CONFIGS
from src.runs import estimate
from src.runs.locks import holder
from src.store.tables import Run, Sweep, SweepStatus
from src.sweeps.file import (
    SweepConfig,
    parse_sweep,
)


def sweep_of(**changes: Any) -> SweepConfig:
    """A random search of two settings, with changes."""
    values: dict[str, Any] = {
        "name": "small",
        "method": "random",
        "space": {
            "lora.r": [2, 4, 8],
            "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "budget": "6 trials",
    }
    return parse_sweep(yaml.safe_dump(values | changes, sort_keys=False), "small.yaml")


def written(home: Path, base: dict[str, Any], **changes: Any) -> Path:
    """A sweep file of six trials over these base settings."""
    values = {
        "name": "six",
        "base": {"overrides": base},
        "method": "grid",
        "space": {"lora.r": [2, 4, 8], "training.learning_rate": [1e-3, 1e-2]},
    }
    file = home / "six.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(values | changes)), sort_keys=False))
    return file


def sweep_row(sweep_id: str) -> Sweep:
    with store.reading() as session:
        return store.find_sweep(session, sweep_id)


def trials_of(sweep_id: str) -> list[Run]:
    with store.reading() as session:
        return list(store.list_trials(session, sweep_id))


def until(sweep_id: str, seen: Callable[[list[Run]], bool], seconds: float = 300) -> list[Run]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if seen(trials := trials_of(sweep_id)):
            return trials
        time.sleep(0.1)
    log = paths.sweep_log(sweep_id)
    told = [(run.id, run.status, run.reason) for run in trials_of(sweep_id)]
    raise AssertionError(f"{sweep_row(sweep_id)}\n{told}\n{log.read_text()}")


def completed(sweep_id: str) -> Callable[[list[Run]], bool]:
    return lambda _: sweep_row(sweep_id).status == SweepStatus.COMPLETED


def driver_of(sweep_id: str) -> int:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if pid := holder(paths.driver_lock(sweep_id)):
            return pid
        time.sleep(0.1)
    raise AssertionError(paths.sweep_log(sweep_id).read_text())


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


TINY = CONFIGS / "sweeps" / "tiny.yaml"


def measured(config: RunConfig, adapters: int, step: float, gib: float) -> None:
    """As if that had been measured on this machine."""
    file = estimate.measurement_file(config, adapters)
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {"validation": 400, "test": 400}
    found = estimate.Measurement(True, adapters, "packed", gib, 16.0, rows, 8.0, step, 0.5)
    file.write_text(json.dumps(asdict(found)))
