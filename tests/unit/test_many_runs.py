"""Bookkeeping of packs and sweeps takes a transaction for all runs, not one for each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import paths, store
from src.config import load_config
from src.runs import launcher, pack_file, reconciler
from src.runs.machine import boot_id, host
from src.runs.result_file import write_result
from src.store.outcome import EndReason, Outcome
from src.store.tables import Status
from src.training.packed.eligibility import pack_key
from src.training.results import enter_in_summary, forget_results, write_results
from src.training.utils import TrainingResult
from src.workers import trainer
from src.workers.supervisor import Supervisor

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows with each transaction that writes to the run table."""
    began: list[int] = []
    real = store.writing

    def writing(*given: Any) -> Any:
        began.append(1)
        return real(*given)

    for module in (store, store.database):
        monkeypatch.setattr(module, "writing", writing)
    yield began


def queued(count: int) -> list[str]:
    with store.writing() as session:
        configs = [load_config(overrides={"engine": "packed", "name": f"n-{n}"})
                   for n in range(count)]  # fmt: skip
        return [store.enqueue(session, config).id for config in configs]


def row_in_file(run_id: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((paths.output_dir(run_id) / "run.json").read_text())["run"]
    return row


@pytest.mark.parametrize("count", [2, 12])
def test_a_supervisor_claims_follows_and_ends_all_its_runs_together(
    count: int, transactions: list[int]
) -> None:
    ids = queued(count)
    supervisor = Supervisor(0)
    supervisor.pack = pack_key(load_config(overrides={"engine": "packed"}))
    transactions.clear()
    supervisor.claim_more(count)
    assert [one.run.id for one in supervisor.runs] == ids
    assert len(transactions) == 2  # the claim, and the number of the snapshots
    for run_id in ids:
        assert row_in_file(run_id)["status"] == Status.STARTING
    with store.writing() as session:
        for one in supervisor.runs:
            store.update_attempt(session, one.run, step=3)
        store.request_stop(session, ids[0])
    transactions.clear()
    supervisor.follow(0.0)
    assert len(transactions) == 2  # those that began, and those that are asked to stop
    with store.reading() as session:
        statuses = [store.find(session, run_id).status for run_id in ids]
    assert statuses == [Status.STOPPING, *[Status.RUNNING] * (count - 1)]
    for one in supervisor.runs:
        write_result(one.run.id, 1, Outcome(EndReason.COMPLETED, None, 3, 3))
    transactions.clear()
    supervisor.end_members()
    # What they used of the machine, their outcomes, and the number of the snapshots.
    assert len(transactions) == 3 and not supervisor.runs
    with store.reading() as session:
        assert {store.find(session, run_id).status for run_id in ids} == {Status.COMPLETED}
    assert row_in_file(ids[-1])["status"] == Status.COMPLETED


def test_a_launch_of_many_runs_writes_their_snapshots_together(
    transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)
    configs = [load_config(overrides={"name": f"n-{n}"}) for n in range(10)]
    ids = launcher.launch_all(configs)
    assert len(transactions) == 2
    assert [row_in_file(run_id)["name"] for run_id in ids] == [c.name for c in configs]


def test_the_summary_of_all_experiments_takes_many_runs_at_once(home: Path) -> None:
    config = load_config().model_dump()
    entries = []
    for number in range(3):
        done = TrainingResult(False, None, number, number, {"val/exact_match": 0.1 * number})
        entries.append(
            write_results(
                done, run_id=f"n-{number}", output_dir=home / f"n-{number}",
                metrics_file=home / f"{number}.json", config=config,
            )
        )  # fmt: skip
    file = home / "summary.yaml"
    enter_in_summary(file, entries[:1])
    enter_in_summary(file, [entries[1] | {"step": 7}, entries[2]])
    enter_in_summary(file, [entries[1], entries[0] | {"reason": "größer: x\nn - run: n-2"}])
    found = yaml.safe_load(file.read_text())["experiments"]
    assert found == [entries[2], entries[1], entries[0] | {"reason": "größer: x\nn - run: n-2"}]
    assert yaml.safe_load((home / "n-2" / "eval_results.yaml").read_text())["step"] == 2
    forget_results(["n-2"], file)
    forget_results(["n-2"], file)
    assert [one["run"] for one in yaml.safe_load(file.read_text())["experiments"]] == ["n-1", "n-0"]


def test_a_pack_without_runs_waits_for_its_supervisor_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to end and to claim, and not for whoever has the slot after it."""
    holders = iter([7, 7, 7, 7, None])
    monkeypatch.setattr(trainer, "holder", lambda lock: next(holders))
    monkeypatch.setattr(trainer, "POLL_SECONDS", 0)
    monkeypatch.setenv("SPELLTUNE_TOKEN", "t")
    assert not trainer.Members().wait()
    holders = iter([7, 7, 8])
    assert not trainer.Members().wait()
    assert next(holders, None) is None
    holders = iter([None])
    assert not trainer.Members().wait()
    pack_file.write_members("t", [("a", 1)])
    holders = iter([7, 7])
    assert trainer.Members().wait()


def test_a_run_that_ended_since_it_was_listed_costs_its_pack_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (run_id,) = queued(1)
    with store.writing() as session:
        run = store.find(session, run_id)
        assert store.claim(session, run, token="t", slot=0, boot_id=boot_id(), host=host())
        session.refresh(run)
        session.expunge(run)
    killed: list[str | None] = []
    monkeypatch.setattr(reconciler, "kill_by_token", killed.append)
    with store.writing() as session:
        store.end(session, run, Outcome(EndReason.COMPLETED, None, 3, 3))
    assert not reconciler._reconcile(run, [run]) and not killed
    (other,) = queued(1)
    with store.writing() as session:
        run = store.find(session, other)
        assert store.claim(session, run, token="u", slot=0, boot_id=boot_id(), host=host())
        session.refresh(run)
        session.expunge(run)
    assert reconciler._reconcile(run, [run]) and killed == ["u"]
