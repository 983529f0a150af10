"""How long a run took: all its attempts, and nothing of what lay between them."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import select
from typer.testing import CliRunner

from src import paths, store
from src.cli.main import app
from src.config import load_config
from src.format import duration
from src.store.outcome import EndReason, Outcome
from src.store.run_columns import find_column
from src.store.tables import Run, Status
from tests.helpers.pages import html, show

pytestmark = pytest.mark.usefixtures("home")


def change(run_id: str, **columns: Any) -> None:
    with store.writing() as session:
        session.execute(update(Run).where(Run.id == run_id).values(**columns))


def attempt(run_id: str, began: float, took: float) -> None:
    """The next attempt: it starts, and is stopped after so many seconds."""
    with store.writing() as session:
        store.claim(session, store.find(session, run_id), token="t", slot=0)
    with store.writing() as session:
        store.end(session, store.find(session, run_id), Outcome(EndReason.STOPPED, step=10))
    change(run_id, started_at=began, ended_at=began + took)


def requeue(run_id: str) -> None:
    with store.writing() as session:
        run = store.find(session, run_id)
        assert store.requeue(session, run, resume_step=10, config=None)


def known(run_id: str) -> tuple[float | None, float | None]:
    """What a run took, by its row and by the column that lists are sorted by."""
    with store.reading() as session:
        query = select(find_column("duration").sql).where(Run.id == run_id)
        return store.find(session, run_id).seconds, session.exec(query).one()


def test_all_attempts_count_and_no_time_between_them() -> None:
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
    assert known(run_id) == (None, None)  # it has not started
    attempt(run_id, 1000.0, 60.0)
    assert known(run_id) == (60.0, 60.0)
    requeue(run_id)
    assert known(run_id) == (60.0, 60.0)  # it waits, however long
    attempt(run_id, 5000.0, 30.0)
    assert known(run_id) == (90.0, 90.0)
    requeue(run_id)
    with store.writing() as session:
        store.request_stop(session, run_id)  # which cancels what waits
    assert known(run_id) == (90.0, 90.0)
    with store.writing() as session:
        assert store.requeue_cancelled(session, run_id)
    attempt(run_id, 9000.0, 5.5)
    assert known(run_id) == (95.5, 95.5)


def test_panel_and_command_line_say_the_same() -> None:
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
    attempt(run_id, 1000.0, 600.0)
    requeue(run_id)
    attempt(run_id, 9000.0, 66.0)
    told = duration(666.0)
    assert f"<dt>duration</dt><dd>{told}</dd>" in html(show("monitor", run=run_id))
    assert f'data-label="Duration">{told}</td>' in html(show("overview"))
    assert told in CliRunner().invoke(app, ["show", run_id]).stdout
    for command in (["show", run_id], ["runs"]):
        assert '"seconds": 666.0' in CliRunner().invoke(app, [*command, "--json"]).stdout


def test_of_attempts_from_before_the_column_what_their_metrics_span_is_known(
    tmp_path: Path,
) -> None:
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
        for number, (began, ended) in enumerate(((100.0, 160.0), (500.0, 540.0), (900.0, 990.0))):
            points = [(1, "train/loss", 1.0, began), (2, "train/loss", 1.0, ended)]
            store.record_metrics(session, run_id, number + 1, points)
    change(run_id, status=Status.STOPPED, attempt=3, started_at=890.0, ended_at=1000.0)
    # Runs that wait for their next attempt, or did; their start was then that of the one before.
    waits = {"attempt": 2, "started_at": 90.0, "ended_at": None}
    waiting = [_waiting(waits), _waiting(waits | {"status": Status.CANCELLED, "ended_at": 9e5})]
    file = tmp_path / "old.db"
    with sqlite3.connect(paths.results() / "spelltune.db") as now, sqlite3.connect(file) as old:
        now.backup(old)
        old.execute("ALTER TABLE run DROP COLUMN earlier_seconds")
        old.execute("DELETE FROM schema_version WHERE version = 15")
    old.close()
    with store.reading(store.url_of(file)) as session:
        assert store.find(session, run_id).seconds == 60.0 + 40.0 + 110.0
        assert [store.find(session, one).seconds for one in waiting] == [60.0, 60.0]


def _waiting(columns: dict[str, Any]) -> str:
    """A run with these columns, whose first attempt has metrics over 60 s."""
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
        points = [(1, "train/loss", 1.0, 100.0), (2, "train/loss", 1.0, 160.0)]
        store.record_metrics(session, run_id, 1, points)
    change(run_id, **columns)
    return run_id
