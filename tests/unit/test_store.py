"""The run table on a real SQLite file (and PostgreSQL where it is installed)."""

import json
import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pandas as pd
import pytest

from src import paths, store
from src.config import load_config
from src.runs import launcher, machine, reconciler
from src.runs.timeouts import TIMEOUTS
from src.store import sqlite_driver
from src.store.outcome import EndReason, Outcome
from src.store.tables import ACTIVE, EventKind, MachineSample, Run, Status, Sweep, SweepStatus
from src.store.usage import KEPT_SECONDS
from src.training import checkpointing
from tests.helpers import live

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    if request.param == "sqlite":
        yield
        return
    with live.postgresql(home / "pg") as folder:
        monkeypatch.setenv(
            "SPELLTUNE_DATABASE_URL", f"postgresql+psycopg://postgres@/postgres?host={folder}"
        )
        yield


def enqueue(name: str = "tiny-spell", **extra: object) -> Run:
    with store.writing() as session:
        return store.enqueue(session, load_config(overrides={"name": name, **extra}))


def claim(run: Run, token: str = "t") -> bool:
    with store.writing() as session:
        row = store.find(session, run.id)
        return store.claim(session, row, slot=0, token=token, supervisor_pid=1, boot_id="boot")


def record(run: Run, points: list[tuple[int, str, float]], attempt: int = 1) -> None:
    with store.writing() as session:
        store.record_metrics(session, run.id, attempt, [(*p, time.time()) for p in points])


@pytest.mark.usefixtures("database")
def test_a_run_from_queue_to_verdict() -> None:
    run = enqueue()
    assert run.status == Status.QUEUED and run.max_steps == 600
    assert claim(run) and not claim(run, token="u")
    with store.writing() as session:
        mine = store.find(session, run.id)
        assert (mine.status, mine.token) == (Status.STARTING, "t")
        session.expunge(mine)
        assert store.transition(session, mine, Status.RUNNING, leave=[Status.STARTING], step=0)
        # Another attempt, another token, or a status that must not be left: refused.
        for attempt, token, leave in (
            (2, "t", ACTIVE),
            (1, "u", ACTIVE),
            (1, "t", [Status.STARTING]),
        ):
            other = Run(**mine.model_dump() | {"attempt": attempt, "token": token})
            failed = {"end_reason": EndReason.ERROR}
            assert not store.transition(session, other, Status.FAILED, leave=leave, **failed)
        assert store.owns(session, mine)
    with store.writing() as session:
        assert store.end(session, mine, Outcome(EndReason.COMPLETED, step=600, best_step=300))
        assert not store.owns(session, mine)
        assert not store.end(session, mine, Outcome(EndReason.ERROR, "late"))
    with store.reading() as session:
        ended = store.find(session, run.id)
        assert (ended.status, ended.step, ended.best_step) == ("COMPLETED", 600, 300)
        assert ended.end_reason == EndReason.COMPLETED


@pytest.mark.usefixtures("database")
def test_metrics_curves_and_latest_values() -> None:
    run = enqueue()
    record(run, [(step, "train/loss", 1 / (step + 1)) for step in range(5)])
    record(run, [(4, "val/loss", math.nan), (2, "val/loss", 0.5)])
    record(run, [(3, "train/loss", 9.0)], attempt=2)  # a resume writes step 3 again
    with store.reading() as session:
        curve = store.curve(session, run.id, "train/loss", after_step=1)
        assert curve["step"].tolist() == [2, 3, 4]
        assert curve["value"].tolist() == [1 / 3, 9.0, 0.2]
        assert store.curves(session, [run.id, "none"], "train/loss") == {
            run.id: [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 9.0), (4, 0.2)], "none": [],
        }  # fmt: skip
        assert store.curves(session, [run.id], "val/loss") == {run.id: [(2, 0.5)]}
        latest = store.latest_metrics(session, [run.id, "none"])
        assert latest == {run.id: {"train/loss": 9.0, "val/loss": 0.5}, "none": {}}
        points = store.metric_points(session, run.id)
        assert {"step": 4, "name": "val/loss", "value": None} in points
        assert {"step": 3, "name": "train/loss", "value": 9.0} in points and len(points) == 7
        assert store.metric_names(session, run.id) == ["train/loss", "val/loss"]
    record(run, [(3, "train/loss", 8.0)], attempt=2)  # written again: replaced, not doubled
    with store.reading() as session:
        assert len(store.metric_points(session, run.id)) == 7
    with store.writing() as session:  # from step 2 on it trained anew: step 4 is of nobody
        store.record_event(session, run.id, 2, EventKind.RESUMED, "resumed", step=2)
    with store.reading() as session:
        curve = store.curve(session, run.id, "train/loss")
        (line,) = store.curves(session, [run.id], "train/loss").values()
        assert line == list(zip(curve["step"], curve["value"], strict=True)) and len(line) == 4


@pytest.mark.usefixtures("database")
def test_evaluations_checkpoints_and_deletion(home: Path) -> None:
    run = enqueue()
    file = home / "step-2.parquet"
    words = pd.DataFrame({"question": ["a", "b"], "correct": [True, False]})
    words.to_parquet(file)
    folder = home / "step-2"
    folder.mkdir()
    (folder / "weights").write_bytes(b"x" * 10)
    with store.writing() as session:
        for step in (1, 2):
            store.record_checkpoint(session, run.id, 1, step, folder, is_best=True)
            store.record_evaluation(session, run.id, 1, step, "validation", file, rows=2, correct=1)
        store.record_evaluation(session, run.id, 1, 2, "test", file, rows=2, correct=1)
    with store.reading() as session:
        kept = store.list_checkpoints(session, run.id)
        assert [(c.step, c.is_best, c.size_bytes) for c in kept] == [(1, False, 10), (2, True, 10)]
        row = store.find(session, run.id)
        latest = store.final_evaluation(session, row)
        assert latest is not None and latest.step == 2
        row.best_step = 1
        best = store.final_evaluation(session, row)
        assert best is not None and best.step == 1
        told = store.predictions(best)
        assert told["question"][~told["correct"]].tolist() == ["b"] and len(told) == 2
    with store.writing() as session, pytest.raises(store.RunIsActive, match="stop it first"):
        store.delete_rows(session, run.id)
    with store.writing() as session:
        assert store.request_stop(session, run.id) == Status.CANCELLED
        store.delete_rows(session, run.id)
    with store.reading() as session:
        assert not store.list_runs(session) and not store.metric_points(session, run.id)
        assert not store.list_checkpoints(session, run.id) and not store.list_evaluations(
            session, run.id
        )


def test_ids_are_safe_for_a_path_and_never_meet() -> None:
    hostile = "../<img src=x onerror=alert(1)>;$(touch x)"
    first, second = (enqueue(hostile) for _ in range(2))
    assert first.name == hostile and first.id != second.id
    for run in (first, second):
        assert "/" not in run.id and ".." not in run.id and "$" not in run.id
    assert enqueue("ÄÖ").id.startswith("run_")


def test_a_run_is_found_by_id_or_unique_name() -> None:
    with store.reading() as session, pytest.raises(store.UnknownRun, match="spelltune launch"):
        store.find(session, "any")
    only, *twins = enqueue("only"), enqueue("twin"), enqueue("twin")
    with store.reading() as session:
        assert store.find(session, "only").id == store.find(session, only.id).id == only.id
        with pytest.raises(store.UnknownRun, match="did you mean 'only'"):
            store.find(session, "onyl")
        with pytest.raises(store.UnknownRun, match="2 runs are called 'twin'.*" + twins[1].id):
            store.find(session, "twin")


def test_a_stop_cancels_what_waits_and_asks_what_runs() -> None:
    waiting, running = enqueue(), enqueue()
    claim(running)
    with store.writing() as session:
        assert store.request_stop(session, waiting.id) == Status.CANCELLED
        assert store.request_stop(session, running.id) == Status.STARTING
        assert store.stop_requested(session, running.id)
        assert not store.stop_requested(session, waiting.id)


def test_the_queue_is_first_come_first_served() -> None:
    ids = [enqueue(f"run{i}").id for i in range(3)]
    with store.reading() as session:
        assert [r.id for r in store.queue(session)] == ids
        assert [r.id for r in store.list_runs(session)] == ids[::-1]
        assert [r.id for r in store.list_runs(session, statuses=ACTIVE)] == []


def test_a_newer_schema_is_refused(home: Path) -> None:
    (home / "results").mkdir()
    connection = store.sqlite_driver.connect(home / "results" / "spelltune.db")
    connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
    connection.execute("INSERT INTO schema_version VALUES (99)")
    connection.commit()
    connection.close()
    with pytest.raises(RuntimeError, match="update Spelltune"), store.reading():
        pass


def _write_many(run_id: str, name: str) -> None:
    for step in range(40):
        with store.writing() as session:
            store.record_metrics(session, run_id, 1, [(step, name, 1.0, time.time())])


def test_four_processes_write_at_once_and_nothing_is_lost() -> None:
    run = enqueue()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(run.id, f"m{i}")) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0] * 4
    with store.reading() as session:
        assert len(store.metric_points(session, run.id)) == 4 * 40


def _open_at_once(barrier: Barrier) -> None:
    barrier.wait()
    with store.reading() as session:
        store.list_runs(session)


def test_processes_open_a_new_table_at_once() -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    openers = [context.Process(target=_open_at_once, args=(barrier,)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [o.exitcode for o in openers] == [0] * 4


@pytest.fixture
def locked(home: Path) -> Iterator[Callable[[], None]]:
    """A new table that another connection has locked, not yet in WAL mode; what unlocks it."""
    (home / "results").mkdir()
    other = sqlite_driver.connect(
        home / "results" / "spelltune.db", isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")
    yield lambda: other.execute("COMMIT")
    other.close()


def test_a_new_table_waits_for_who_locked_it_first(locked: Callable[[], None]) -> None:
    timer = threading.Timer(0.3, locked)
    timer.start()
    enqueue()
    timer.join()
    with store.reading() as session:
        assert len(store.list_runs(session)) == 1


def count_runs() -> int:
    with store.reading() as session:
        return len(store.list_runs(session))


@pytest.mark.parametrize("use", [enqueue, count_runs])
def test_a_new_table_that_stays_locked_says_so(
    locked: Callable[[], None], use: Callable[[], object]
) -> None:
    token = store.busy_timeout_seconds.set(0.1)
    try:
        with pytest.raises(store.DatabaseUnavailable, match="keeps the run table locked"):
            use()
    finally:
        store.busy_timeout_seconds.reset(token)


def test_one_document_a_run() -> None:
    run = enqueue()
    record(run, [(0, "val/exact_match", 0.0), (5, "val/exact_match", 0.75)])
    with store.writing() as session:
        row = store.find(session, run.id)
        row.best_step, row.step = 5, 5
        session.add(row)
    with store.reading() as session:
        document = store.show(session, store.find(session, run.id))
    assert {
        "id", "name", "status", "reason", "attempt", "step", "max_steps", "config", "metrics",
        "best", "paths", "pids", "checkpoints", "created_at", "started_at", "ended_at",
    } <= document.keys()  # fmt: skip
    assert document["best"] == {"step": 5, "metric": "val/exact_match", "value": 0.75}
    assert document["paths"]["final_adapter"] is None
    assert store.to_json(document)


def test_a_number_that_is_none_is_null_in_json() -> None:
    """A diverged adapter has no loss, and `spelltune evaluate --json` prints a document yet."""
    document = {"metrics": {"loss": math.nan, "cer": 0.5}, "more": [math.inf, (1, "nan")]}
    assert json.loads(store.to_json(document)) == {
        "metrics": {"loss": None, "cer": 0.5}, "more": [None, [1, "nan"]]
    }  # fmt: skip


def test_a_table_of_the_first_schema_is_brought_up_to_date() -> None:
    file = paths.results() / "spelltune.db"
    file.parent.mkdir(parents=True)
    old = sqlite_driver.connect(file)
    later = (
        *("host", "parent_id", "parent_step", "tags", "notes", "sweep_id", "number"),
        *("seed_index", "searched", "stop_reason", "queue_at", "end_reason", "confirmed_rank"),
    )
    known = [c for c in Run.__table__.columns if c.name not in later]
    columns = ", ".join(f"{c.name} {c.type.compile()}" for c in known)
    old.executescript(
        f"CREATE TABLE run ({columns}); CREATE TABLE schema_version (version INTEGER NOT NULL);"
        "INSERT INTO schema_version VALUES (1);"
        "INSERT INTO run (id, name, status, config, used, attempt, max_steps, created_at) "
        "VALUES ('old', 'old', 'STOPPED', '{}', '{}', 1, 5, 1.0);"
    )
    old.close()
    with store.reading() as session:
        run = store.find(session, "old")
        assert (run.parent_id, run.host, run.status) == (None, None, Status.STOPPED)
        assert run.end_reason == EndReason.STOPPED
        assert (run.tags, run.notes) == (None, None)
        assert not store.list_events(session, "old")


@pytest.mark.postgresql
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("database")
def test_a_run_of_another_machine_is_ended_only_when_its_lease_is_over() -> None:
    run = enqueue()
    here = machine.host()
    with store.writing() as session:
        row = store.find(session, run.id)
        columns = {"slot": 0, "token": "t", "supervisor_pid": 1, "boot_id": "another boot"}
        assert store.claim(session, row, host="another machine", **columns)
    assert here != "another machine"

    def beat(seconds_ago: float) -> Status:
        with store.writing() as session:
            row = store.find(session, run.id)
            columns = {"heartbeat_at": time.time() - seconds_ago}
            assert store.update_attempt(session, row, **columns)
        reconciler.reconcile()
        with store.reading() as session:
            return Status(store.find(session, run.id).status)

    assert beat(TIMEOUTS.lease - 20) == Status.STARTING
    assert beat(TIMEOUTS.lease + 1) == Status.INTERRUPTED
    with store.reading() as session:
        assert "another machine is gone" in (store.find(session, run.id).reason or "")


@pytest.mark.usefixtures("database")
def test_only_the_machine_that_gave_a_run_its_slot_judges_its_start() -> None:
    run, now = enqueue(), time.time()
    counted = []
    for giver in ("alpha", "beta", "beta"):
        with store.writing() as session:
            seen = store.find(session, run.id)
            assert store.assign_slot(session, seen, 0, host=giver, now=now)
        with store.reading() as session:
            given = store.find(session, run.id)
        counted.append(given.failed_starts)
    assert counted == [None, None, 1]  # what alpha did is not known to beta
    assert launcher.is_given(given, now + TIMEOUTS.start + 1)  # beta may only be slow
    assert not launcher.is_given(given, now + TIMEOUTS.lease + 1)
    given.host = machine.host()
    assert launcher.is_given(given, now + TIMEOUTS.start - 1)
    assert not launcher.is_given(given, now + TIMEOUTS.start + 1)
    assert launcher._why_not_started(given)
    given.host = "beta"
    assert launcher._why_not_started(given) is None


@pytest.mark.usefixtures("database")
def test_one_machine_starts_a_queued_run_and_one_leads_a_sweep() -> None:
    run = enqueue()

    def give(machine: str, seen: Run) -> bool:
        with store.writing() as session:
            return store.assign_slot(session, seen, 0, host=machine, now=time.time())

    assert give("alpha", run) and not give("beta", run)  # both saw that it had no slot
    with store.reading() as session:
        again = store.find(session, run.id)
    assert again.host == "alpha" and give("beta", again)

    now = time.time()
    with store.writing() as session:
        session.add(Sweep(id="s", name="s", file="", path="", folder="", seed=0, created_at=now,
                          status=SweepStatus.ACTIVE, host="alpha", seen_at=now - 30))  # fmt: skip

    def lead(machine: str, lease: float) -> bool:
        with store.writing() as session:
            return store.acquire_lease(session, "s", host=machine, lease=lease)

    assert not lead("beta", 60)
    assert lead("beta", 20) and not lead("alpha", 20) and lead("beta", 20)


@pytest.mark.postgresql
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("database")
def test_a_resumed_run_waits_for_the_machine_that_has_its_checkpoint() -> None:
    run = enqueue()
    with store.writing() as session:
        row = store.find(session, run.id)
        row.status, row.host, row.resume_step, row.step = Status.QUEUED, "beta", 10, 10
        row.heartbeat_at = time.time() - TIMEOUTS.lease - 1
        assert launcher.startable(session) == []
        there = checkpointing.step_dir(paths.checkpoints_dir(run.id), 10)
        there.mkdir(parents=True)
        assert launcher.startable(session) == [row]
        there.rmdir()
    reconciler.end_runs_of_lost_hosts({"beta"}, "Ray lost its node")
    with store.reading() as session:
        assert store.find(session, run.id).resume_step is None
        assert [row.id for row in launcher.startable(session)] == [run.id]
        (event,) = store.list_events(session, run.id)
    assert event.text == "from scratch: its checkpoint is on beta: Ray lost its node"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://me:canary@127.0.0.1:9/runs", "does not answer at"),
        ("postgresql//me:canary@127.0.0.1/runs", "is no address of a run table, such as"),
        ("nosuch://me:canary@127.0.0.1/runs", "is no address of a run table, such as"),
    ],
)
def test_a_run_table_that_is_not_there_is_a_sentence_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("SPELLTUNE_DATABASE_URL", url)
    answer = live.command("runs", check=False)
    assert answer.returncode == 2 and said in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr and "canary" not in answer.stderr


def test_a_table_on_a_server_asks_for_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPELLTUNE_DATABASE_URL", "postgresql+psycopg://me:canary@host/runs")
    why = store.explain_unreachable(
        ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
    )
    assert why is not None and ".[ray]" in why and "canary" not in why
    assert store.explain_unreachable(ModuleNotFoundError("No module named 'x'", name="x")) is None


# --- what machines took ---------------------------------------------------------------------------


@pytest.mark.usefixtures("database")
def test_usage_is_added_for_the_owner_alone_and_samples_are_averaged_and_forgotten() -> None:
    runs = [enqueue(name) for name in ("one", "two")]
    with store.writing() as session:
        for run in runs:
            columns = {"slot": 1, "token": "t", "host": "here"}
            assert store.claim(session, store.find(session, run.id), **columns)
    ids = [run.id for run in runs]
    with store.writing() as session:
        store.add_usage(session, "t", ids, machine_seconds=2.0, energy_wh=None)
        store.add_usage(session, "t", ids[:1], machine_seconds=1.0, energy_wh=0.5)
        store.add_usage(session, "another", ids, machine_seconds=100.0, energy_wh=100.0)
    with store.reading() as session:
        one, two = (store.find(session, run_id) for run_id in ids)
        assert (one.machine_seconds, one.energy_wh) == (3.0, 0.5)
        assert (two.machine_seconds, two.energy_wh) == (2.0, None)
        assert one.started_at
    began = one.started_at
    samples = [
        MachineSample(host=host, slot=slot, at=began + second, gpu_utilization=second / 10)
        for host, slot in (("here", 1), ("here", 0), ("there", 1))
        for second in range(10)
    ]
    before = MachineSample(host="here", slot=1, at=began - 1, gpu_utilization=1.0)
    with store.writing() as session:
        store.record_samples(session, [before, *samples])
    with store.reading() as session:
        drawn = store.samples_of(session, one, points=3)
        assert [row["gpu_utilization"] for row in drawn] == pytest.approx([0.15, 0.5, 0.8], abs=0.1)
        assert len(drawn) == 3 and drawn[0]["gpu_power_watts"] is None
        assert len(store.samples_of(session, one, points=300)) == 10
        assert store.samples_of(session, runs[0], points=3) == []  # before it had a slot
    late = MachineSample(host="here", slot=1, at=began + KEPT_SECONDS + 5)
    with store.writing() as session:
        store.record_samples(session, [late])
        store.record_samples(session, [])
    with store.reading() as session:
        # Those of the first seconds are too old, and the rest is one stretch of the week.
        assert [round(s["at"] - began) for s in store.samples_of(session, one, points=300)] == [
            7, round(KEPT_SECONDS) + 5,
        ]  # fmt: skip
