"""A sweep's trials with its driver as a real process: killed, paused, out of budget, pruned."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from src import paths, store
from src.config import RunConfig, load_config
from src.runs import launcher, reconciler
from src.runs.locks import holder
from src.store.outcome import EndReason, Outcome
from src.store.tables import EventKind, Status, SweepStatus
from src.sweeps import control, ranking, results, search, trial_checks, trials
from src.sweeps import file as sweep_file
from src.sweeps.file import (
    base_config,
    load_sweep,
)
from src.workers.sweep_driver import SweepDriver
from src.workers.sweep_driver import main as driver_main
from tests.helpers import live
from tests.helpers.live import FEW, command
from tests.helpers.sweeps import cli, completed, driver_of, sweep_row, trials_of, until, written

# --- trials, with real processes ------------------------------------------------------------------


@pytest.fixture
def packed(small: dict[str, Any]) -> dict[str, Any]:
    """Settings of short trials that share a process."""
    return small | FEW | {"engine": "packed", "lora.dropout": 0.0}


@pytest.mark.slow
def test_a_killed_driver_and_a_failing_setting_leave_each_trial_ended_once(
    home: Path, data: Path, packed: dict[str, Any]
) -> None:
    gone = home / "gone.jsonl"
    gone.write_bytes(data.read_bytes())
    base = {k: v for k, v in packed.items() if k != "data.path"}
    space = {"data.path": [str(data), str(gone)], "lora.r": [2, 4, 8]}
    file = written(home, base, space=space, retries=1, at_once=4)
    # Nothing trains before the kill, so that neither a trial nor the sweep ends before it.
    with live.taken_slots():
        sweep_id = json.loads(command("sweep", "launch", str(file), "--json").stdout)["id"]
        killed = driver_of(sweep_id)
        until(sweep_id, lambda trials: len(trials) == 4)
        gone.unlink()
        os.kill(killed, signal.SIGKILL)
        while holder(paths.driver_lock(sweep_id)):
            time.sleep(0.05)
    reconciler.reconcile()
    assert driver_of(sweep_id) != killed
    trials = until(sweep_id, completed(sweep_id))
    assert [run.number for run in trials] == list(range(6))
    sweep = control.launched_config(sweep_row(sweep_id))
    assert [run.searched for run in trials] == list(search.grid(sweep, 0))

    lost = [run for run in trials if (run.searched or {})["data.path"] == str(gone)]
    good = [run for run in trials if run not in lost]
    assert [run.status for run in lost] == [Status.FAILED] * 3, [run.reason for run in lost]
    with store.reading() as session:
        kinds = [[e.kind for e in store.list_events(session, run.id)] for run in lost]
    assert kinds == [[EventKind.RETRIED, EventKind.SET_ASIDE]] * 3
    assert [(run.status, run.attempt) for run in good] == [(Status.COMPLETED, 1)] * 3
    summary = yaml.safe_load(paths.summary_file().read_text())["experiments"]
    given_up = {entry["run"]: entry["reason"] for entry in summary if entry.get("failed")}
    assert given_up == {run.id: run.reason for run in lost} and len(summary) == 6
    assert all(paths.final_metrics(run.id).exists() for run in trials)

    document = json.loads(cli("sweep", "show", "six", "--json").stdout)
    assert document["counts"] == {"completed": 3, "failed": 3} and document["note"] is None
    assert document["best"]["run"] in {run.id for run in good}
    assert "gone.jsonl" in cli("sweep", "show", sweep_id).stdout
    rows = json.loads(cli("sweep", "export", sweep_id, "--json").stdout)
    assert [row["lora.r"] for row in rows] == [(run.searched or {})["lora.r"] for run in trials]
    gone.write_bytes(data.read_bytes())
    file.write_text(file.read_text().replace("8", "16"))
    assert "goes on as it was launched" in cli("sweep", "show", sweep_id).stderr
    refused = cli("sweep", "add", sweep_id, "3 trials")
    assert refused.exit_code == 2 and "no budget of trials" in refused.stderr


@pytest.mark.chaos
def test_24_trials_survive_three_kills_of_all_processes(home: Path, packed: dict[str, Any]) -> None:
    # In small packs: after the last kill, whenever it comes, there is still something to train.
    longer = packed | {"training.max_steps": 20, "checkpointing.save_steps": 5,
                       "evaluation.eval_steps": 10, "pack_size": 4}  # fmt: skip
    rates = [float(f"{1e-4 * 10 ** (place / 3):.3g}") for place in range(6)]
    space = {"lora.r": [2, 4, 8, 16], "training.learning_rate": rates}
    file = written(home, longer, space=space, metric="val/loss", mode="min")

    def best(sweep_id: str) -> dict[str, Any]:
        trials = until(sweep_id, completed(sweep_id), seconds=600)
        assert [run.number for run in trials] == list(range(24))
        assert {run.status for run in trials} == {Status.COMPLETED}
        with store.reading() as session:
            return dict(results.document(session, results.read(session, sweep_row(sweep_id))))

    undisturbed = best(control.launch(file))
    sweep_id = control.launch(file)
    for kill in range(3):
        steps = 120 * (kill + 1)
        until(sweep_id, lambda trials, n=steps: sum(run.step or 0 for run in trials) > n, 300)
        there = live.of_home(home)
        for process in there:
            process.kill()
        psutil.wait_procs(there, timeout=60)
        reconciler.reconcile()
        driver_of(sweep_id)
    disturbed = best(sweep_id)
    assert disturbed["best"]["settings"] == undisturbed["best"]["settings"]
    assert disturbed["best"]["score"] == pytest.approx(undisturbed["best"]["score"], rel=1e-6)
    assert max(trial["attempt"] for trial in disturbed["trials"]) >= 2


@pytest.mark.usefixtures("busy")
def test_a_sweep_is_paused_resumed_given_more_and_cancelled(
    home: Path, small: dict[str, Any]
) -> None:
    file = written(home, small, method="random", budget="3 trials", at_once=2)
    sweep_id = control.launch(file)
    first = until(sweep_id, lambda trials: len(trials) == 2)[0]
    with store.reading() as session:
        assert store.find(session, first.id).config["tracking"]["group"] == sweep_id
    assert cli("sweep", "pause", sweep_id).stdout.startswith("PAUSED")
    with store.reading() as session:
        assert not store.queue(session)
    launcher.stop(first.id)
    time.sleep(2)
    assert len(trials_of(sweep_id)) == 2  # a paused sweep queues nothing
    refused = cli("sweep", "pause", sweep_id)
    assert refused.exit_code == 2 and "is PAUSED" in refused.stderr
    assert json.loads(cli("sweep", "resume", sweep_id, "--json").stdout)["status"] == "ACTIVE"
    until(sweep_id, lambda trials: len(trials) == 3)
    launcher.stop(trials_of(sweep_id)[1].id)
    assert cli("sweep", "add", sweep_id, "2 trials").exit_code == 0
    trials = until(sweep_id, lambda trials: len(trials) == 4)
    assert sweep_row(sweep_id).most_trials == 5
    driven = driver_of(sweep_id)
    assert cli("sweep", "cancel", sweep_id).exit_code == 0
    trials = trials_of(sweep_id)
    assert {run.status for run in trials} == {Status.CANCELLED}
    end = time.monotonic() + 300
    while holder(paths.driver_lock(sweep_id)) == driven and time.monotonic() < end:
        time.sleep(0.1)
    assert holder(paths.driver_lock(sweep_id)) is None
    reconciler.reconcile()
    assert len(trials_of(sweep_id)) == len(trials)
    assert sweep_row(sweep_id).status == SweepStatus.CANCELLED


@pytest.mark.usefixtures("busy")
def test_a_budget_of_time_is_kept(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = control.launch(written(home, small, at_once=3), budget="45m")
    driver = SweepDriver(sweep_id)
    assert driver.look_after_trials() and len(trials_of(sweep_id)) == 3
    trains = trials_of(sweep_id)[0].id
    with store.writing() as session:
        assert store.claim(session, store.find(session, trains), token="t", slot=0)
    driver.looked_at -= 44 * 60
    assert driver.look_after_trials() and len(trials_of(sweep_id)) == 3
    driver.looked_at -= 60
    assert driver.look_after_trials()  # one still trains
    trials = trials_of(sweep_id)
    assert [run.status for run in trials] == [Status.STARTING] + [Status.CANCELLED] * 2
    assert trials[0].stop_reason == "pruned: the 2,700 seconds of the sweep are over"
    with store.writing() as session:
        store.end(session, store.find(session, trains), Outcome(EndReason.STOPPED))
    assert not driver.look_after_trials()
    row = sweep_row(sweep_id)
    assert (row.status, row.reason) == (SweepStatus.COMPLETED, "its time is over")
    assert row.spent_seconds == pytest.approx(2700, abs=60)
    assert ranking.outcome(trials_of(sweep_id)[0]) == "pruned"
    # With more time those are queued again that it found waiting: no setting may be missing.
    control.add(sweep_id, "30 minutes")
    assert [run.status for run in trials_of(sweep_id)[1:3]] == [Status.QUEUED] * 2
    driver = SweepDriver(sweep_id)
    driver.look_after_trials()
    assert {run.number for run in trials_of(sweep_id) if run.status == Status.QUEUED} == {1, 2, 3}


@pytest.mark.usefixtures("busy")
def test_time_counts_while_the_trials_of_a_paused_sweep_train_on(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = control.launch(written(home, small, at_once=1), budget="45m")
    driver = SweepDriver(sweep_id)
    driver.look_after_trials()
    control.pause(sweep_id)
    driver.looked_at -= 600
    driver.look_after_trials()
    assert sweep_row(sweep_id).spent_seconds < 60
    with store.writing() as session:
        assert store.claim(session, trials_of(sweep_id)[0], token="t", slot=0)
    driver.looked_at -= 600
    driver.look_after_trials()
    assert sweep_row(sweep_id).spent_seconds == pytest.approx(600, abs=60)


@pytest.mark.usefixtures("busy")
def test_what_trials_have_in_common_is_fixed_by_the_launch(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit of the preset too changes nothing but what the page says."""
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    file = written(home, small, at_once=1)
    sweep_id = control.launch(file)
    before = base_config(control.launched_config(sweep_row(sweep_id)))
    assert control.drift_notice(sweep_row(sweep_id)) is None
    original = load_config

    def edited(**asked: Any) -> RunConfig:
        asked["overrides"] = {"lora.dropout": 0.3} | asked["overrides"]
        return original(**asked)

    monkeypatch.setattr(sweep_file, "load_config", edited)
    assert base_config(control.launched_config(sweep_row(sweep_id))) == before
    assert "was changed after the launch" in (control.drift_notice(sweep_row(sweep_id)) or "")
    file.unlink()
    assert "cannot be read any more" in (control.drift_notice(sweep_row(sweep_id)) or "")


@pytest.mark.usefixtures("busy")
def test_a_driver_that_fails_pauses_its_sweep_and_says_why(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = control.launch(written(home, small, at_once=1))

    def fails(self: SweepDriver) -> bool:
        raise KeyError("lora.r")

    monkeypatch.setattr(SweepDriver, "look_after_trials", fails)
    monkeypatch.setattr(sys, "argv", ["driver", sweep_id])
    assert driver_main() == 0
    row = sweep_row(sweep_id)
    assert row.status == SweepStatus.PAUSED and "KeyError: 'lora.r'" in (row.reason or "")
    assert row.told_status == "FAILED"


@pytest.mark.usefixtures("busy")
def test_a_trial_of_a_cancelled_sweep_or_out_of_memory_is_not_launched_again(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = control.launch(written(home, small, at_once=2))
    SweepDriver(sweep_id).look_after_trials()
    reasons = (EndReason.OOM_KILLED, EndReason.ERROR)
    for run, end_reason in zip(trials_of(sweep_id), reasons, strict=True):
        with store.writing() as session:
            store.claim(session, run, token=run.id, slot=0)
        with store.writing() as session:
            outcome = Outcome(end_reason, "a sentence that no program reads")
            assert store.end(session, store.find(session, run.id), outcome)
    hungry, failed = trials_of(sweep_id)
    assert not trials.retry(hungry, retries=3)
    control.cancel(sweep_id)
    assert not trials.retry(failed, retries=3)
    assert [run.status for run in trials_of(sweep_id)] == [Status.FAILED] * 2


@pytest.mark.usefixtures("busy")
def test_settings_that_do_not_go_together_end_the_sweep_with_a_sentence(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {name: value for name, value in small.items() if name != "data.path"}
    space = {"data.path": [None, small["data.path"]], "data.hub_id": [None, "somebody/words"]}
    monkeypatch.setattr(trial_checks, "check_trials", lambda sweep, base: [])
    sweep_id = control.launch(written(home, base, space=space))
    until(sweep_id, lambda _: sweep_row(sweep_id).status == SweepStatus.CANCELLED)
    assert "data.path: and hub_id are both set; keep one of them" in (
        sweep_row(sweep_id).reason or ""
    )


def test_relative_paths_go_from_where_the_sweep_was_launched(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)
    monkeypatch.chdir(home)
    sweep_id = control.launch(written(home, small | {"data.path": "words.jsonl"}))
    monkeypatch.chdir("/")
    assert SweepDriver(sweep_id).look_after_trials()
    with store.reading() as session:
        run = store.find(session, trials_of(sweep_id)[0].id)
    assert run.config["data"]["path"] == str(home / "words.jsonl")
    assert control.drift_notice(sweep_row(sweep_id)) is None


@pytest.mark.usefixtures("busy")
def test_an_interrupted_trial_is_launched_again(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One without a checkpoint begins anew, however few retries a failure has."""
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = control.launch(written(home, small, at_once=1, retries=0), budget="1 trial")
    driver = SweepDriver(sweep_id)
    for attempt in range(1, trials.MAX_RELAUNCHES + 2):
        assert driver.look_after_trials()
        (run,) = trials_of(sweep_id)
        assert (run.status, run.attempt) == (Status.QUEUED, attempt)
        with store.writing() as session:
            store.claim(session, store.find(session, run.id), token="t", boot_id="another")
        reconciler.reconcile()
        assert trials_of(sweep_id)[0].status == Status.INTERRUPTED
    assert not driver.look_after_trials()
    with store.reading() as session:
        last = store.list_events(session, run.id)[-1]
    assert last.kind == EventKind.SET_ASIDE and "the machine restarted" in last.text
    assert sweep_row(sweep_id).status == SweepStatus.COMPLETED


# --- pruning --------------------------------------------------------------------------------------


FIRST_IS_HIGH = 0


def test_a_pruned_trial_ends_completed_with_its_reason(home: Path, small: dict[str, Any]) -> None:
    many = small | {"engine": "packed", "lora.dropout": 0.0, "evaluation.eval_steps": 5,
                    "training.logging_steps": 5, "scheduler.name": "constant"}  # fmt: skip
    # The learning rate is recorded too, and tells the trials apart at once.
    file = written(
        home, many, metric="lr", pruner="asha", at_once=2, seed=FIRST_IS_HIGH,
        space={"training.learning_rate": [1e-4, 1e-2]},
    )  # fmt: skip
    (high, _) = search.grid(load_sweep(file), FIRST_IS_HIGH)
    assert high == {"training.learning_rate": 1e-2}
    sweep_id = control.launch(file)
    trials = until(sweep_id, lambda trials: any(r.status == Status.COMPLETED for r in trials))
    (pruned,) = [run for run in trials if run.status == Status.COMPLETED]
    assert (pruned.reason or "").startswith("pruned: lr 0.0001 at step")
    assert "fell behind (asha)" in (pruned.reason or "")
    assert ranking.outcome(pruned) == "pruned"
    control.cancel(sweep_id)
    trials = until(sweep_id, lambda trials: all(Status(run.status).ended for run in trials))
    assert sorted(run.status for run in trials) == [Status.COMPLETED, Status.STOPPED]
    # The test set is for those that were trained to their end.
    assert (
        "test/exact_match" not in json.loads(paths.final_metrics(pruned.id).read_text())["metrics"]
    )
