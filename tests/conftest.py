"""What the tests share: a home of their own, and skips that name what the machine lacks."""

import gc
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from src.runs import spawn
from tests.helpers.fork_server import STARTER

if TYPE_CHECKING:
    from src.store.tables import Run
    from tests.helpers.live import Panel

# As the supervisor sets it for its trainers; before torch is imported by any test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No standby trainers: each would cost a test the imports of a whole trainer.
# tests/processes/test_standby.py asks for them.
os.environ["SPELLTUNE_TIMEOUTS"] = json.dumps({"standby": 0})

NEEDS = {
    "chromium": (shutil.which("chromium"), "Chromium is missing"),
    "postgresql": (glob.glob("/usr/lib/postgresql/*/bin/initdb"), "PostgreSQL is missing"),
    "root": (os.geteuid() == 0, "needs root"),
    "gpu": (
        shutil.which("nvidia-smi")
        and subprocess.run(["nvidia-smi"], capture_output=True).returncode == 0,
        "no NVIDIA GPU",
    ),
}


# Folders by how long their files take: with the longest first, two workers end together.
LONGEST_FIRST = ("processes", "browser", "docs", "golden", "engines", "panel", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folders = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: folders.get(item.path.parent.name, -1))
    for item in items:
        for name, (there, reason) in NEEDS.items():
            if there or not item.get_closest_marker(name):
                continue
            # .ci/run promises everything but a GPU: there a skip would hide a hole.
            if os.environ.get("SPELLTUNE_NO_SKIPS") and name != "gpu":
                raise pytest.UsageError(f"{item.nodeid}: {reason}, and SPELLTUNE_NO_SKIPS is set")
            item.add_marker(pytest.mark.skip(reason=reason))


class Frozen:
    modules = 0  # that were imported when the collector last took leave of all there was


def freeze_imports() -> None:
    """Keep the garbage collector from looking through libraries again and again: they stay, and
    the end of each training asks for a whole collection."""
    if len(sys.modules) > Frozen.modules + 50:
        gc.collect()
        gc.freeze()
        Frozen.modules = len(sys.modules)


def pytest_collection_finish() -> None:
    freeze_imports()


@pytest.fixture(scope="session", autouse=True)
def forks() -> Iterator[None]:
    """Processes are started by forks of one that has the libraries imported."""
    STARTER.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawn, "subprocess", STARTER)
        yield
    STARTER.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    freeze_imports()  # what the tests before imported
    # Unsloth has to be imported before the others.
    STARTER.real = bool(item.get_closest_marker("real_start") or find_spec("unsloth"))


@pytest.fixture(autouse=True)
def same_main_module() -> Iterator[None]:
    """Puts back the main module, in whose place AppTest leaves its page: a process that a later
    test spawns would import it."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SPELLTUNE_HOME for this test and the processes that it starts."""
    monkeypatch.setenv("SPELLTUNE_HOME", str(tmp_path))
    for name in ("SPELLTUNE_DATABASE_URL", "SPELLTUNE_NOTIFY_URLS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random models in gpt2/ and llama/ and words to spell in words/, as
    `tiny.config_of` takes it."""
    from tests.helpers import tiny  # only here: most tests need no torch

    folder = tmp_path_factory.mktemp("base")
    for shape in ("gpt2", "llama"):
        tiny.save_model(folder / shape, shape)
    tiny.data(folder / "words")
    return folder


@pytest.fixture
def data(home: Path) -> Iterator[Path]:
    """A small data file in an empty home; at the end no process that works for it is left."""
    from tests.helpers import live

    yield live.words(home)
    live.kill_all(home)


@pytest.fixture
def busy(home: Path) -> Iterator[None]:
    from tests.helpers import live

    with live.taken_slots():
        yield


@pytest.fixture
def small(data: Path, base: Path) -> dict[str, Any]:
    """Settings of a run of the random model without end."""
    from tests.helpers import live

    return live.MANY | {
        "backend": "peft",
        "model.name": str(base / "gpt2"),
        "data.path": str(data),
        "evaluation.max_new_tokens": 4,
        "tracking.mode": "off",
    }


@pytest.fixture
def living(small: dict[str, Any]) -> "Iterator[Run]":
    """A run that trains."""
    from src.config import load_config
    from src.runs import launcher
    from tests.helpers import live

    run_id = launcher.launch(load_config(overrides=small))
    yield live.wait(run_id, live.training)
    launcher.stop(run_id)
    live.wait(run_id, live.ended)


@pytest.fixture
def panel(home: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Panel]":
    """A panel in an empty home that looks at its runs each second."""
    from tests.helpers import live

    monkeypatch.setenv(
        "SPELLTUNE_TIMEOUTS", json.dumps({"reconcile": 1.0, "heartbeat": 1.0, "standby": 0})
    )
    found = live.Panel()
    found.ready()
    yield found
    if found.process.poll() is None:
        found.signal(signal.SIGKILL)
