"""The first steps that a waiting trainer takes for nobody leave no trace in the run that comes."""

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.config import RunConfig
from src.models import preloaded
from src.training import threads
from src.training.packed.engine import train_one
from src.training.packed.rehearsal import rehearse
from src.training.packed.run import RunSpec
from src.training.packed.shared_base import read_ahead
from tests.helpers import tiny

Settings = Callable[..., RunConfig]


@pytest.fixture
def settings(base: Path) -> Settings:
    return lambda **more: tiny.config_of(base, **{"engine": "packed", "lora.dropout": 0.1, **more})


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    """Leave threads to the next test as they were."""
    number, interval = torch.get_num_threads(), sys.getswitchinterval()
    yield
    torch.set_num_threads(number)
    sys.setswitchinterval(round(interval, 6))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary ones are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def trained(config: RunConfig, folder: Path, cache: Path | None) -> tuple[Any, dict[str, bytes]]:
    """The curves of a run, and the files of its last checkpoint."""
    reporter = tiny.Recorder()
    train_one(RunSpec(config, reporter, folder / "out", folder / "steps", None, cache))
    files = (file for file in (folder / "steps/step-12").iterdir() if file.name != "MANIFEST.json")
    points = [point for point in reporter.points if point[1].startswith(("train/loss", "val/"))]
    return points, {file.name: file.read_bytes() for file in files}


def state_of_process() -> list[Any]:
    numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return [*numbers, torch.get_num_threads(), round(sys.getswitchinterval(), 6)]


def seed_all() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


def test_a_run_after_a_rehearsal_is_the_run_without_one(
    settings: Settings, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cache, number = settings(), tmp_path / "cache", torch.get_num_threads()
    monkeypatch.setenv("SPELLTUNE_THREADS", str(number + 1))
    monkeypatch.setattr(threads, "SWITCH_SECONDS", 0.03)
    sys.setswitchinterval(0.0001)
    seed_all()
    before = state_of_process()
    read_ahead(config, cache)
    kept = preloaded._kept
    rehearse(config, cache, lambda: False)
    assert preloaded._kept is kept is not None
    assert state_of_process() == before
    assert not [*temporary.iterdir()]
    assert {path.name for path in cache.iterdir()} == {"bases", "base_scores", "rows"}

    after = trained(config, tmp_path / "after", cache)
    assert preloaded._kept is None
    seed_all()
    assert after == trained(config, tmp_path / "alone", None)


def test_a_rehearsal_ends_where_a_run_comes(
    settings: Settings, temporary: Path, tmp_path: Path
) -> None:
    """During the scores of the base, which are not complete then."""
    config, cache = settings(**{"evaluation.batch_size": 1}), tmp_path / "cache"
    asked = []

    def stop() -> bool:
        asked.append((cache / "rows").exists())
        return sum(asked) > 2  # the rows are there, so they are being scored

    rehearse(config, cache, stop)
    assert sum(asked) == 3
    assert not (cache / "base_scores").exists() and not [*temporary.iterdir()]


def test_what_is_elsewhere_waits_for_its_run(settings: Settings, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    of_hub = {"data.path": None, "data.hub_id": "someone/words"}
    for elsewhere in (of_hub, {"model.name": "someone/base"}):
        rehearse(settings(**elsewhere), cache, lambda: False)
    assert not cache.exists()


def test_a_fault_is_told_and_nothing_stays(
    settings: Settings, temporary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, cache = settings(**{"data.path": str(tmp_path / "gone.csv")}), tmp_path / "cache"
    read_ahead(config, cache)
    kept, before = preloaded._kept, state_of_process()
    rehearse(config, cache, lambda: False)
    assert "DataError" in (told := capsys.readouterr().err) and "gone.csv" in told
    assert preloaded._kept is kept and not [*temporary.iterdir()]
    assert state_of_process() == before
    preloaded.take([])
