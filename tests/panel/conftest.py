"""A home of its own for each test of a page, and launches without processes."""

from pathlib import Path

import pytest

from src import store
from src.panel.launch import data_check, measure_button
from src.panel.ui import charts
from src.runs import checks, launcher
from tests.helpers.pages import SEEN


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    charts._known.clear()
    data_check._begin.clear()
    measure_button._seconds.clear()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Launches without processes: the row is written, the data are taken as read."""
    ids: list[str] = []

    def launch(config):
        with store.writing() as session:
            ids.append(store.enqueue(session, config).id)
        return ids[-1]

    monkeypatch.setattr(launcher, "launch", launch)
    monkeypatch.setattr(checks, "data_preview", lambda config: SEEN)
    return ids
