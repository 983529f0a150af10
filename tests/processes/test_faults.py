"""Faults with their exact outcome: real processes, real kills, real full disks.

The numbers are those of the table that `make chaos` writes into docs/results.md; the long ones
are in test_chaos.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, update

from src import paths, store
from src.config import load_config
from src.paths import ROOT
from src.runs import attempts, launcher, reconciler, spawn
from src.runs.attempts import CannotResume
from src.runs.locks import FileLock, holder
from src.runs.machine import slot_lock
from src.store.tables import Run, Status
from src.training import checkpointing
from src.training.checkpointing import REQUIRED, is_verified, step_dir
from src.training.train import train
from tests.helpers import tiny
from tests.helpers.live import (
    FEW,
    Panel,
    alive,
    command,
    ended,
    killed_at_random,
    left_over,
    mounted,
    row,
    training,
    wait,
)

SHORT = json.dumps({"stop": 1, "terminate": 1, "heartbeat": 0.5})


def change(run_id: str, **columns: Any) -> None:
    with store.writing() as session:
        session.execute(update(Run).where(col(Run.id) == run_id).values(**columns))


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.real_start
def test_04_without_its_supervisor_a_run_comes_to_its_end(small: dict[str, Any]) -> None:
    settings = small | {"training.max_steps": 60, "evaluation.eval_steps": 60}
    run_id = launcher.launch(load_config(overrides=settings))
    run = wait(run_id, lambda run: run.trainer_pid is not None)
    # So that it cannot end before its supervisor has, however fast the machine is.
    os.kill(run.trainer_pid or 0, signal.SIGSTOP)
    os.kill(run.supervisor_pid or 0, signal.SIGKILL)
    while holder(paths.supervisor_lock(run_id)) is not None:
        time.sleep(0.01)
    os.kill(run.trainer_pid or 0, signal.SIGCONT)
    # Nobody looks: the trainer itself sees to it that the verdict is written.
    done = wait(run_id, ended)
    assert (done.status, done.step, done.attempt) == (Status.COMPLETED, 60, 1)


@pytest.mark.real_start
@pytest.mark.usefixtures("data")
def test_who_reconciles_for_a_trainer_waits_for_another_who_is_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That one may have looked at the run before its trainer ended."""
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
    change(run_id, status="RUNNING", token="t", boot_id=reconciler.boot_id())
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"heartbeat": 60}))
    another = FileLock(paths.locks_dir() / "reconciler.lock")
    assert another.acquire()
    process = spawn.start_detached(spawn.Worker.RECONCILE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    assert row(run_id).status == Status.RUNNING
    another.release()
    assert process.wait(60) == 0
    assert row(run_id).status == Status.INTERRUPTED


@pytest.mark.real_start
def test_05_kill_both_with_a_worker_alive(living: Run) -> None:
    environment = os.environ | {"SPELLTUNE_TOKEN": living.token or ""}
    worker = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
    for pid in (living.supervisor_pid, living.trainer_pid):
        os.kill(pid or 0, signal.SIGKILL)
    # A process that is dying holds its locks until its last thread is gone.
    while not reconciler.reconcile():
        time.sleep(0.1)
    assert row(living.id).status == Status.INTERRUPTED
    assert worker.wait(60) == -signal.SIGKILL


@pytest.mark.slow
def test_a_supervisor_with_nothing_to_adopt_leaves_its_slot_to_the_next(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a trainer that dies slowly: one look has it adopted, and the next one queues its run."""
    # How long the next one waits for its slot: longer than this test keeps it.
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"heartbeat": 30}))
    lock = FileLock(slot_lock(0))
    assert lock.acquire()
    run_id = launcher.launch(load_config(overrides=small | FEW))
    launcher.start_supervisor(run_id, 0)
    time.sleep(2)
    lock.release()
    assert wait(run_id, ended).status == Status.COMPLETED
    adopt = [sys.executable, "-m", "src.workers.supervisor", run_id, "--slot", "0", "--adopt"]
    late = subprocess.run(adopt, cwd=ROOT, capture_output=True, text=True)
    assert (late.returncode, late.stderr) == (0, "")


def test_while_a_supervisor_lives_statuses_are_true_without_a_panel_or_a_reader(
    living: Run,
) -> None:
    with store.writing() as session:
        lost = store.enqueue(session, load_config()).id
    change(lost, status="RUNNING", token="t", slot=7, boot_id=reconciler.boot_id())
    assert wait(lost, ended).status == Status.INTERRUPTED
    assert row(living.id).status == Status.RUNNING


@pytest.mark.parametrize("forged", [None, 0, 1, -1])
def test_07_08_a_pid_of_a_stranger_or_a_forged_one_gets_no_signal(
    data: Path, forged: int | None
) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
    pid = stranger.pid if forged is None else forged
    change(run_id, status="RUNNING", token="t", supervisor_pid=pid, trainer_pid=pid,
           boot_id=reconciler.boot_id())  # fmt: skip
    # In a process of its own: a signal to pid -1 would end this one too.
    assert json.loads(command("reconcile", "--json").stdout) == [run_id]
    assert row(run_id).status == Status.INTERRUPTED and stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize("said", ['{"attempt": 1}', '{"attempt": 1, "status": "RUNNING"}', "[", ""])
def test_a_result_that_says_no_end_is_not_believed(data: Path, said: str) -> None:
    """Nor does a row that nobody can read keep the others from their true status."""
    with store.writing() as session:
        other, run = (store.enqueue(session, load_config()).id for _ in range(2))
    change(other, status="INTERRUPTED", config={"of": {"another": "version"}})
    change(run, status="RUNNING", token="t", boot_id=reconciler.boot_id())
    paths.output_dir(run).mkdir(parents=True)
    (paths.output_dir(run) / "result.json").write_text(said)
    assert reconciler.reconcile() == [run]
    assert row(run).status == Status.INTERRUPTED


def test_09_a_zombie_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    code = f"""
import time
from pathlib import Path
from src.runs.locks import FileLock
assert FileLock(Path({str(file)!r})).acquire()
print("held", flush=True)
time.sleep(60)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout and child.stdout.readline() == "held\n"
    assert holder(file) == child.pid
    child.kill()
    while alive(child.pid):
        time.sleep(0.1)
    assert Path(f"/proc/{child.pid}").exists()  # nobody has reaped it
    assert holder(file) is None
    child.wait()


def test_10_12_a_row_that_nobody_started_is_started_once(small: dict[str, Any]) -> None:
    with store.writing() as session:  # and here the panel died
        config = load_config(overrides=small | FEW)
        run_id = store.enqueue(session, config).id
    with ThreadPoolExecutor(4) as at_once:
        many = [at_once.submit(command, "reconcile") for _ in range(4)]
    assert [one.result().returncode for one in many] == [0] * 4
    done = wait(run_id, ended)
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    log = paths.log_file(run_id).read_text()
    assert log.count("step 4: train/loss") == 1 and "leaving" not in log


def test_14_15_a_stopped_process_and_a_wrong_clock_change_no_status(living: Run) -> None:
    pids = (living.supervisor_pid, living.trainer_pid)
    for pid in pids:
        os.kill(pid or 0, signal.SIGSTOP)
    for shift in (-3600, 3600):
        change(living.id, heartbeat_at=time.time() + shift, started_at=time.time() + shift)
        assert reconciler.reconcile() == []
        assert row(living.id).status == Status.RUNNING
    for pid in pids:
        os.kill(pid or 0, signal.SIGCONT)
    step = row(living.id).step or 0
    run = wait(living.id, lambda run: (run.step or 0) > step)
    assert (run.supervisor_pid, run.trainer_pid, run.attempt) == (*pids, 1)


@pytest.mark.slow
def test_16_a_trainer_that_does_not_react_is_stopped_by_force(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", SHORT)  # 1 s each in place of 60 s and 20 s
    run_id = launcher.launch(load_config(overrides=small))
    run = wait(run_id, training)
    os.kill(run.trainer_pid or 0, signal.SIGSTOP)
    launcher.stop(run_id)
    done = wait(run_id, ended)
    assert done.status == Status.STOPPED and "by force" in (done.reason or "")
    assert not alive(run.trainer_pid)


@pytest.mark.timed
def test_ten_random_kills_of_panel_supervisor_and_trainer(
    home: Path, small: dict[str, Any], panel: Panel
) -> None:
    killed, slowest, _, _ = killed_at_random(small, panel, times=10, pause=2.0)
    assert sum(killed.values()) == 10 and slowest < 10
    assert not left_over(home, seconds=300)


# --- checkpoints ----------------------------------------------------------------------------------


def killed_at_each_point(action: Callable[[], None], check: Callable[[], None]) -> int:
    """Do `action` in a child that kills itself at its first touch of a file, its second, and so on
    until it comes through; `check` after each. The number of kills."""
    for kill_at in range(1, 1000):
        child = os.fork()
        if child == 0:
            count = 0

            def hook(event: str, _: Any, kill_at: int = kill_at) -> None:
                nonlocal count
                touches = event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
                count += touches
                if touches and count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            try:
                action()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        check()
        if os.WIFEXITED(status):
            return kill_at - 1
    raise AssertionError("it never came through")


def write(folder: Path, step: int) -> None:
    staging = checkpointing.stage(folder) / f"checkpoint-{step}"
    staging.mkdir()
    for name in REQUIRED:
        (staging / name).write_bytes(os.urandom(512))
    checkpointing.commit(staging, step_dir(folder, step), {"step": step})


def test_17_a_kill_at_any_point_of_a_save_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    write(tmp_path, 1)

    def check() -> None:
        newest = checkpointing.steps(tmp_path)[-1]
        assert newest in (1, 2) and is_verified(step_dir(tmp_path, newest))

    assert killed_at_each_point(lambda: write(tmp_path, 2), check) > 20
    # The same name again: a resume from an earlier step writes it anew.
    assert killed_at_each_point(lambda: write(tmp_path, 2), check) > 20


def test_18_a_kill_during_retention_leaves_best_and_last_two(tmp_path: Path) -> None:
    def fill() -> None:
        for step in set(range(1, 8)) - set(checkpointing.steps(tmp_path)):
            write(tmp_path, step)

    def check() -> None:
        there = checkpointing.steps(tmp_path)
        assert {2, 6, 7} <= set(there) and all(is_verified(step_dir(tmp_path, s)) for s in there)
        fill()

    fill()
    kills = killed_at_each_point(
        lambda: checkpointing.retain(tmp_path, keep_last=2, best_step=2) and None, check
    )
    assert kills > 10
    checkpointing.retain(tmp_path, keep_last=2, best_step=2)
    checkpointing.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-2", "step-6", "step-7"}


@pytest.mark.root
def test_20_a_full_disk_in_a_save_leaves_the_one_before_and_the_run_goes_on(
    base: Path, tmp_path: Path
) -> None:
    steps = tmp_path / "steps"
    with mounted(steps, "1500k"):
        recorder = tiny.Recorder()
        config = tiny.config_of(base, **{"checkpointing.keep_last": 9})
        result = train(config, recorder, output_dir=tmp_path / "out", checkpoints_dir=steps)
        assert (result.step, result.stopped) == (12, False)
        assert recorder.warnings and "No space left" in recorder.warnings[0][1]
        kept = checkpointing.steps(steps)
        assert kept and all(is_verified(step_dir(steps, step)) for step in kept)
        assert result.best_step in kept
        assert not (steps / checkpointing.STAGING).exists()


@pytest.mark.root
def test_29_checkpoints_that_cannot_be_written_are_refused_before_the_start(
    home: Path, data: Path
) -> None:
    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
    change(run_id, status="STOPPED")
    with mounted(paths.checkpoints_dir(run_id), "1m"):
        write(paths.checkpoints_dir(run_id), 3)
        subprocess.run(["mount", "-o", "remount,ro", paths.checkpoints_dir(run_id)], check=True)
        with pytest.raises(CannotResume, match="cannot be written to .*Read-only file system"):
            attempts.resume(row(run_id))
    with mounted(home / "checkpoints", "1m", "ro"):
        answer = command("launch", f"--set=data.path={data}", check=False)
        assert answer.returncode == 2 and "Read-only file system" in answer.stderr
    with store.reading() as session:
        assert [run.id for run in store.list_runs(session)] == [run_id]


def test_30_another_batch_size_is_called_a_warm_resume(base: Path, tmp_path: Path) -> None:
    where = {"output_dir": tmp_path / "out", "checkpoints_dir": tmp_path / "steps"}
    train(tiny.config_of(base), tiny.Recorder(stop_at=2), **where)
    other = tiny.config_of(base, **{"training.per_device_train_batch_size": 4,
                                    "training.gradient_accumulation_steps": 1})  # fmt: skip
    recorder = tiny.Recorder()
    train(other, recorder, **where, resume_from=tmp_path / "steps/step-3")
    assert recorder.values["resume"] == "warm from step-3: another config"
