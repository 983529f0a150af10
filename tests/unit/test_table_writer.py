"""What the runs of a process report comes into the run table together, and no run waits for one
that cannot be written."""

import time

import pytest
from sqlalchemy.exc import ArgumentError, IntegrityError

from src import store
from src.config import load_config
from src.runs import lease
from src.runs.lease import HomeInUse
from src.store.tables import Run
from src.workers import table_writer
from src.workers.table_writer import RunEntries, TableWriter

pytestmark = pytest.mark.usefixtures("home")


def claimed(count: int) -> list[Run]:
    with store.writing() as session:
        runs = []
        for number in range(count):
            run = store.enqueue(session, load_config(overrides={"name": f"run-{number}"}))
            assert store.claim(session, run, token="t", slot=0)
            session.refresh(run)
            session.expunge(run)
            runs.append(run)
    return runs


def opened(writer: TableWriter, runs: list[Run]) -> tuple[list[RunEntries], list[str]]:
    """The entries of these runs in a writer, and what it tells them."""
    told: list[str] = []
    entries = [RunEntries(run, told.append) for run in runs]
    for one in entries:
        writer.open(one)
    return entries, told


def loss(run: Run) -> float | None:
    with store.reading() as session:
        return store.latest_metrics(session, [run.id])[run.id].get("train/loss")


def test_the_entries_of_all_runs_are_written_in_one_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, began = claimed(5), []
    real = store.writing
    monkeypatch.setattr(store, "writing", lambda: began.append(1) or real())
    monkeypatch.setattr(table_writer, "INTERVAL_SECONDS", 600)  # only what ends is written
    writer = TableWriter()
    entries, told = opened(writer, runs)
    for number, one in enumerate(entries):
        one.add("metric", 3, "train/loss", float(number), 1.0)
        one.add("warning", 3, f"of {number}")
        one.set(step=3, phase="training")
    with real() as session:
        store.request_stop(session, runs[1].id, reason="fell behind")
    writer.close(entries)
    assert len(began) == 1 and not told
    assert [loss(run) for run in runs] == [0.0, 1.0, 2.0, 3.0, 4.0]
    with store.reading() as session:
        assert [store.find(session, run.id).step for run in runs] == [3] * 5
        assert [store.list_events(session, run.id)[-1].text for run in runs] == [
            f"of {number}" for number in range(5)
        ]
    assert [one.stop_asked for one in entries] == [False, True, False, False, False]
    assert entries[1].stop_reason == "fell behind"


@pytest.mark.parametrize(
    "error", [OSError("stale file handle"), ArgumentError("no address"), HomeInUse("beta's")]
)
def test_a_lease_that_cannot_be_renewed_keeps_nothing_from_the_table(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def take() -> None:
        raise error

    monkeypatch.setattr(lease, "take", take)
    (run,), writer = claimed(1), TableWriter()
    (one,), told = opened(writer, [run])
    one.add("metric", 1, "train/loss", 0.5, 1.0)
    writer.close([one])
    assert loss(run) == 0.5 and not told


def test_without_a_run_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, runs = TableWriter(), claimed(2)
    open_then: list[int] = []
    monkeypatch.setattr(lease, "take", lambda: open_then.append(len(writer._open)))
    monkeypatch.setattr(table_writer, "INTERVAL_SECONDS", 0.001)
    for run in runs:
        entries, _ = opened(writer, [run])
        entries[0].add("metric", 1, "train/loss", 0.5, 1.0)
        writer.close(entries)
        time.sleep(0.1)  # in which it would look
    assert open_then and 0 not in open_then
    assert [loss(run) for run in runs] == [0.5, 0.5]


def test_a_run_that_has_another_owner_is_left_alone() -> None:
    runs, writer = claimed(3), TableWriter()
    entries, _ = opened(writer, runs)
    with store.writing() as session:
        store.update_attempt(session, runs[1], token="another")
    for one in entries:
        one.add("metric", 1, "train/loss", 0.5, 1.0)
    writer.close(entries)
    assert [one.lost_ownership for one in entries] == [False, True, False]
    assert [loss(run) for run in runs] == [0.5, None, 0.5]


def test_a_run_whose_entries_the_table_refuses_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, writer = claimed(3), TableWriter()
    refused = True
    real = store.record_event

    def record_event(session: store.Session, run_id: str, *given: object, **named: object) -> None:
        if refused and run_id == runs[1].id:
            raise IntegrityError("INSERT", {}, ValueError("refused"))
        real(session, run_id, *given, **named)

    monkeypatch.setattr(store, "record_event", record_event)
    entries, _ = opened(writer, runs)
    for one in entries:
        one.add("metric", 1, "train/loss", 0.5, 1.0)
        one.add("warning", 1, "of its own")
    writer.close([entries[0], entries[2]])
    assert entries[0].closed.is_set() and entries[2].closed.is_set()
    assert [loss(run) for run in runs[::2]] == [0.5, 0.5]
    assert not entries[1].lost_ownership and loss(runs[1]) is None
    refused = False
    writer.close([entries[1]])
    assert loss(runs[1]) == 0.5
    with store.reading() as session:
        assert [len(store.list_events(session, run.id)) for run in runs] == [1, 1, 1]


def test_a_locked_table_loses_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_writer, "PATIENCE_SECONDS", 0.1)
    runs, writer = claimed(2), TableWriter()
    entries, told = opened(writer, runs)
    with store.writing():
        for one in entries:
            one.add("metric", 1, "train/loss", 0.5, 1.0)
            one.set(step=1)
            one.closing = True
        while len(told) < 2:
            entries[0].closed.wait(0.1)
        entries[0].add("metric", 2, "train/loss", 0.25, 2.0)
    writer.close(entries)
    assert "the run table did not take 1 entries" in told[0]
    assert [loss(run) for run in runs] == [0.25, 0.5]
    with store.reading() as session:
        assert [p["step"] for p in store.metric_points(session, runs[0].id)] == [1, 2]
