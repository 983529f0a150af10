"""Runs that share a process: each with its own row, files, stop, end and resume."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import paths, store
from src.config import load_config
from src.runs import attempts, launcher, machine, reconciler
from src.runs.locks import holder
from src.store.tables import Status
from src.training import checkpointing
from src.training.train import run_experiments
from tests.helpers.live import FEW, alive, command, ended, row, training, wait

pytestmark = pytest.mark.skipif(machine.slot_count() > 1, reason="several slots share a queue")


@pytest.fixture
def packed(small: dict[str, Any]) -> dict[str, Any]:
    return small | {"engine": "packed", "lora.dropout": 0.0, "training.logging_steps": 1}


def launched(*settings: dict[str, Any]) -> list[str]:
    return launcher.launch_all([load_config(overrides=own) for own in settings])


@pytest.mark.slow
def test_experiments_that_may_share_a_process_do(home: Path, packed: dict[str, Any]) -> None:
    changes: list[dict[str, Any]] = [
        {"lora.r": 2, "training.seed": 1},
        {"lora.r": 8, "training.learning_rate": 1e-3},
        {"data.path": "/nowhere.csv"},
        {"engine": "trl"},
        {"early_stopping.metric": "val/bleu"},
    ]
    files = []
    for number, own in enumerate(changes):
        config = load_config(overrides=packed | FEW | own | {"name": f"run {number}"})
        files.append(home / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    one, two, refused, solo, failed = run_experiments(files)
    pids = []
    for folder, results in (one, two, solo):
        assert folder is not None, results
        assert (folder / "final" / "adapter_model.safetensors").is_file()
        run = row(folder.name)
        assert run.status == Status.COMPLETED and run.step == results["step"] == 4
        with store.reading() as session:
            points = {(p["step"], p["name"]) for p in store.metric_points(session, run.id)}
        tested = (run.best_step, "test/exact_match")
        assert {(4, "train/loss"), (4, "val/exact_match"), tested} <= points
        assert "step 4:" in paths.log_file(run.id).read_text()
        pids.append(run.trainer_pid)
    assert pids[0] == pids[1] != pids[2]
    assert refused[0] is None and "/nowhere.csv" in refused[1]["reason"]
    assert failed[1]["status"] == "FAILED" and "val/bleu" in failed[1]["reason"]
    assert not list(paths.locks_dir().glob("*.pack"))


def test_members_stop_and_end_alone_and_their_slots_are_filled(packed: dict[str, Any]) -> None:
    packed = packed | {"pack_size": 2}
    ids = launched(packed, packed | {"training.seed": 2})
    runs = [wait(run_id, training) for run_id in ids]
    assert runs[0].trainer_pid == runs[1].trainer_pid
    (late,) = launched(packed | FEW)
    assert row(late).status == Status.QUEUED
    command("stop", ids[0])
    stopped = wait(ids[0], ended)
    assert stopped.status == Status.STOPPED and stopped.step
    # Its slot goes to the queue's next while its neighbour trains on.
    done = wait(late, ended)
    assert done.status == Status.COMPLETED and done.trainer_pid == runs[1].trainer_pid
    neighbour = row(ids[1])
    assert neighbour.status == Status.RUNNING and alive(neighbour.trainer_pid)
    command("stop", ids[1])
    assert wait(ids[1], ended).status == Status.STOPPED


def test_a_run_that_comes_later_trains_beside_those_of_its_kind(packed: dict[str, Any]) -> None:
    (first,) = launched(packed)
    before = wait(first, training)
    (late,) = launched(packed | FEW | {"training.seed": 2})
    done = wait(late, ended)
    assert done.status == Status.COMPLETED and done.trainer_pid == before.trainer_pid
    assert done.used["slots"] == 2
    # What it leaves goes on, in as many slots as it needs.
    wait(first, lambda run: run.used.get("slots") == 1)
    assert row(first).status == Status.RUNNING


def test_the_queue_goes_on_in_the_process_whose_runs_all_ended_at_once(
    packed: dict[str, Any],
) -> None:
    """Its libraries and its base are loaded: another process would begin with them."""
    few = packed | FEW | {"pack_size": 2, "evaluation.max_new_tokens": 2}
    ids = launched(*(few | {"training.seed": seed} for seed in range(5)))
    done = [wait(run_id, ended) for run_id in ids]
    assert [run.status for run in done] == [Status.COMPLETED] * 5
    assert len({run.trainer_pid for run in done}) == 1
    wait(ids[0], lambda run: not alive(run.trainer_pid))
    summary = yaml.safe_load(paths.summary_file().read_text())["experiments"]
    assert sorted(one["run"] for one in summary) == sorted(ids)
    assert not list(paths.locks_dir().glob("*.pack"))


def test_another_supervisor_takes_over_the_whole_pack(packed: dict[str, Any]) -> None:
    ids = launched(packed, packed | {"training.seed": 2})
    before = [wait(run_id, training) for run_id in ids]
    assert before[0].supervisor_pid
    os.kill(before[0].supervisor_pid, signal.SIGKILL)

    def adopted(run: Any) -> bool:
        reconciler.reconcile()
        return holder(paths.supervisor_lock(run.id)) is not None

    for run_id in ids:
        wait(run_id, adopted)
    for run_id in ids:
        launcher.stop(run_id)
    after = [wait(run_id, ended) for run_id in ids]
    assert [run.status for run in after] == [Status.STOPPED, Status.STOPPED]
    assert [run.trainer_pid for run in after] == [run.trainer_pid for run in before]


def test_a_killed_pack_is_resumed_member_by_member(packed: dict[str, Any]) -> None:
    # Without an end: a pack of such runs would come to it before anybody could kill it.
    often = {"checkpointing.save_steps": 2}
    ids = launched(*(packed | often | {"training.seed": seed} for seed in (1, 2)))
    runs = [wait(run_id, lambda run: (run.step or 0) >= 4) for run_id in ids]
    # Those of step 2 may still be under way, in processes that are just being started.
    for run_id in ids:
        wait(run_id, lambda run: bool(checkpointing.steps(paths.checkpoints_dir(run.id))))
    os.kill(runs[0].trainer_pid or 0, signal.SIGKILL)
    for run_id in ids:
        run = wait(run_id, ended)
        assert run.status == Status.INTERRUPTED and "its pack" in (run.reason or "")
    begun = [attempts.resume(row(run_id)) for run_id in ids]
    assert min(begun) >= 2
    for run_id, step in zip(ids, begun, strict=True):
        run = wait(run_id, lambda run, step=step: (run.step or 0) > step + 4)
        assert run.attempt == 2 and run.used["resume"] == f"warm from step-{step}: in a pack"
        launcher.stop(run_id)
    assert [wait(run_id, ended).status for run_id in ids] == [Status.STOPPED] * 2
