"""A Chromium, a panel and its runs, for all journeys of a file."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import paths
from src.store.tables import Status
from tests.helpers import live
from tests.helpers.browser import FLAGS, reading, serving
from tests.helpers.store import HOSTILE, end, fill_run, hold


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that all journeys of this module share, in this process too. At the end nothing trains
    for it any more: a panel starts what it finds queued, and lets it go on."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        patch.setenv("WANDB_MODE", "disabled")
        patch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
        yield home
    live.kill_all(home, only="src.workers.")


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with random weights, made in a process of its own: torch stays out of here."""
    folder = tmp_path_factory.mktemp("base")
    code = "import sys; from pathlib import Path; from tests.helpers.tiny import save_model; "
    code += "save_model(Path(sys.argv[1]), 'gpt2')"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, cwd=paths.ROOT, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def panel(module_home: Path) -> Iterator[str]:
    with serving(module_home) as address:
        yield address


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with reading(browser) as shown:
        yield shown


@pytest.fixture(scope="module")
def watched(module_home: Path) -> Iterator[str]:
    """A run that is training as far as anybody can tell."""
    run_id = fill_run(
        status=Status.RUNNING, steps=5000, every=1, training__max_steps=10_000, name="watched"
    )
    lock = hold(run_id)
    yield run_id
    end(run_id, Status.STOPPED)
    lock.release()


@pytest.fixture(scope="module")
def ended(module_home: Path) -> str:
    return fill_run(name=HOSTILE)
