"""The long proofs of reliability, for `make chaos`, which writes their outcomes as a table into
docs/results.md."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from sqlmodel import col, update

from src import paths, store
from src.config import load_config
from src.paths import ROOT
from src.runs import attempts, launcher, logs, reconciler
from src.store.tables import Run, Status
from src.training import checkpointing
from tests.helpers.live import (
    Panel,
    alive,
    command,
    ended,
    killed_at_random,
    left_over,
    mounted,
    of_home,
    points_of,
    queued,
    row,
    training,
    wait,
)

pytestmark = pytest.mark.chaos

Outcome = Callable[[str], None]
KILLS = int(os.environ.get("SPELLTUNE_CHAOS_KILLS", "200"))
CYCLES = int(os.environ.get("SPELLTUNE_CHAOS_CYCLES", "50"))


@pytest.fixture
def outcome(record_property: Callable[[str, object], None]) -> Outcome:
    """Says what was seen, for the table."""
    return lambda text: record_property("outcome", text)


# --- the panel ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "number"), [("1", signal.SIGKILL), ("2", signal.SIGINT)], ids=["kill", "Ctrl-C"]
)
def test_01_02_the_panel_dies_and_the_training_goes_on(
    small: dict[str, Any], panel: Panel, fault: str, number: signal.Signals, outcome: Outcome
) -> None:
    run_id = queued(small)  # the panel itself starts it
    before = wait(run_id, training)
    assert psutil.Process(before.supervisor_pid).parent().pid == panel.process.pid
    panel.signal(number)
    after = wait(run_id, lambda run: (run.step or 0) > (before.step or 0) + 20)
    assert (after.trainer_pid, after.status) == (before.trainer_pid, Status.RUNNING)
    launcher.stop(run_id)
    assert wait(run_id, ended).status == Status.STOPPED
    outcome("same trainer, RUNNING, more steps")


def test_10_two_panels_start_one_supervisor(
    small: dict[str, Any], panel: Panel, outcome: Outcome
) -> None:
    other = Panel()
    other.ready()
    run_id = queued(small)
    wait(run_id, training)
    time.sleep(5)  # several rounds of both
    here = [p for p in psutil.process_iter(["cmdline"]) if run_id in (p.info["cmdline"] or [])]
    kinds = sorted((p.info["cmdline"] or [])[2] for p in here)
    assert kinds == ["src.workers.supervisor", "src.workers.trainer"]
    launcher.stop(run_id)
    wait(run_id, ended)
    other.signal(signal.SIGKILL)
    outcome("one supervisor, one trainer")


# --- kills ----------------------------------------------------------------------------------------


def test_31_fifty_kills_and_resumes_end_in_the_same_bits(
    small: dict[str, Any], outcome: Outcome
) -> None:
    settings = small | {
        "training.max_steps": 30 * CYCLES,
        "evaluation.eval_steps": 50,
        "evaluation.max_rows": 4,
        "checkpointing.save_steps": 3,
        "lora.dropout": 0.1,
    }
    whole = wait(launcher.launch(load_config(overrides=settings)), ended, seconds=600)
    assert whole.status == Status.COMPLETED, whole.reason
    chance = random.Random(31)
    run_id = launcher.launch(load_config(overrides=settings | {"name": "killed"}))
    kills = 0
    while kills < CYCLES:
        goal = (row(run_id).resume_step or 0) + chance.randint(3, 12)
        run = wait(run_id, lambda r, goal=goal: ended(r) or (r.step or 0) >= goal, seconds=600)
        assert not ended(run), f"{run.reason}, after {kills} kills"
        time.sleep(chance.random() * 0.3)  # anywhere in a step, a save or an evaluation
        for pid in (run.supervisor_pid, run.trainer_pid):
            if alive(pid):
                os.kill(pid or 0, signal.SIGKILL)
        while not ended(row(run_id)):
            reconciler.reconcile()
            time.sleep(0.05)
        kills += 1
        attempts.resume(row(run_id))
    done = wait(run_id, ended, seconds=600)
    assert (done.status, done.step) == (Status.COMPLETED, whole.step)
    files = [paths.output_dir(i) / "final/adapter_model.safetensors" for i in (run_id, whole.id)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # Equal numbers: the files may differ in which of them were one Python object.
    moments = [
        torch.load(
            checkpointing.step_dir(paths.checkpoints_dir(i), whole.step or 0) / "optimizer.pt",
            weights_only=True,
        )["state"]
        for i in (run_id, whole.id)
    ]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    for index, state in moments[0].items():
        assert all(torch.equal(state[name], moments[1][index][name]) for name in state)
    outcome(f"{kills} kills, {done.attempt} attempts, {whole.step} steps: adapter bit-equal")


def test_random_kills_of_panel_supervisor_and_trainer(
    home: Path, small: dict[str, Any], panel: Panel, outcome: Outcome
) -> None:
    killed, slowest, resumed, attempts = killed_at_random(small, panel, times=KILLS, pause=3.0)
    assert not left_over(home, seconds=300)
    assert slowest < 10
    counts = ", ".join(f"{n} {name}" for name, n in killed.items())
    outcome(f"{counts}; a status was wrong for at most {slowest:.1f} s; {resumed} resumes by hand, "
            f"attempt {attempts}; no process left")  # fmt: skip


def test_33_a_machine_that_vanished_and_an_exact_resume(
    small: dict[str, Any], outcome: Outcome
) -> None:
    settings = small | {"training.max_steps": 40, "evaluation.eval_steps": 10,
                        "checkpointing.save_steps": 5, "lora.dropout": 0.1}  # fmt: skip
    whole = wait(launcher.launch(load_config(overrides=settings)), ended)
    run_id = launcher.launch(load_config(overrides=settings | {"name": "moved"}))
    run = wait(run_id, lambda r: (r.step or 0) >= 12)
    for pid in (run.supervisor_pid, run.trainer_pid):
        os.kill(pid or 0, signal.SIGKILL)
    with store.writing() as session:  # the disk comes up on another machine
        values = {"boot_id": "another", "host": "gone", "supervisor_pid": 1, "trainer_pid": 1}
        session.execute(update(Run).where(col(Run.id) == run_id).values(**values))
    reconciler.reconcile()
    assert row(run_id).status == Status.INTERRUPTED
    attempts.resume(row(run_id))
    done = wait(run_id, ended)
    assert done.status == Status.COMPLETED and str(done.used["resume"]).startswith("exact")
    files = [paths.output_dir(i) / "final/adapter_model.safetensors" for i in (run_id, whole.id)]
    assert files[0].read_bytes() == files[1].read_bytes()
    outcome("INTERRUPTED, no signal; resumed to the same bits")


# --- stopped, full, broken ------------------------------------------------------------------------


def test_14_a_minute_of_sigstop_is_flagged_and_then_well(
    small: dict[str, Any], outcome: Outcome
) -> None:
    from streamlit.testing.v1 import AppTest

    run_id = launcher.launch(load_config(overrides=small))
    run = wait(run_id, training)
    pids = [run.supervisor_pid or 0, run.trainer_pid or 0]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(60)
    reconciler.reconcile()
    page = AppTest.from_file(str(ROOT / "pages" / "monitor.py"), default_timeout=300)
    page.query_params["run"] = run_id
    page.run()
    text = "\n".join(element.proto.body for element in page.get("html"))
    assert "No sign of life for" in text and row(run_id).status == Status.RUNNING
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    step = row(run_id).step or 0
    after = wait(run_id, lambda r: (r.step or 0) > step + 10)
    assert after.trainer_pid == pids[1] and time.time() - (after.heartbeat_at or 0) < 15
    launcher.stop(run_id)
    wait(run_id, ended)
    outcome("RUNNING and flagged; then the same trainer goes on")


@pytest.mark.root
def test_22_a_disk_that_is_full_everywhere(
    home: Path, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    disk = home / "disk"
    with mounted(disk, "12m"):
        monkeypatch.setenv("SPELLTUNE_HOME", str(disk))
        panel = Panel()
        panel.ready()
        settings = {"backend": "peft", "model.name": str(base / "gpt2"), "data.path": str(data),
                    "training.max_steps": 400, "evaluation.eval_steps": 400,
                    "training.logging_steps": 1, "tracking.mode": "off"}  # fmt: skip
        run_id = launcher.launch(load_config(overrides=settings))
        wait(run_id, training)
        with pytest.raises(OSError), open(disk / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        run = wait(run_id, ended, seconds=600)
        assert run.status == Status.FAILED and (run.reason or "").startswith("disk_full:")
        assert panel.answers()
        assert json.loads(command("show", run_id, "--json").stdout)["status"] == "FAILED"
        panel.signal(signal.SIGKILL)
        for process in of_home(disk):
            process.wait(120)
    outcome(f"{run.status}: {run.reason}; the panel answers")


@pytest.mark.root
def test_23_killed_for_memory(small: dict[str, Any], outcome: Outcome) -> None:
    group = Path("/sys/fs/cgroup/memory/spelltune-chaos")
    version_2 = not group.parent.is_dir()
    if version_2:
        group = Path("/sys/fs/cgroup/spelltune-chaos")
    group.mkdir(exist_ok=True)
    limit = group / ("memory.max" if version_2 else "memory.limit_in_bytes")
    limit.write_text(str(420 * 2**20))
    try:
        inside = f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -m src.cli launch "
        sets = [f"--set={k}={json.dumps(v)}" for k, v in small.items()]
        sets.append("--set=supervision.self_heal=true")
        subprocess.run(["sh", "-c", inside + ' "$@"', "sh", *sets], cwd=ROOT, check=True)
        with store.reading() as session:
            run_id = store.list_runs(session)[0].id
        run = wait(run_id, ended, seconds=600)
        time.sleep(3)
        assert run.status == Status.FAILED and (run.reason or "").startswith("oom:"), run.reason
        assert row(run_id).attempt == 1
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.5)
        group.rmdir()
    outcome(f"{run.status}: {run.reason}; no retry")


def test_25_a_write_lock_held_for_twenty_seconds(small: dict[str, Any], outcome: Outcome) -> None:
    run_id = launcher.launch(load_config(overrides=small))
    before = wait(run_id, training)
    with store.writing():
        time.sleep(20)  # longer than SQLite's own patience of 15 s
    run = wait(run_id, lambda run: (run.step or 0) > (before.step or 0) + 50)
    assert (run.supervisor_pid, run.status) == (before.supervisor_pid, Status.RUNNING)
    launcher.stop(run_id)
    wait(run_id, ended)
    table, logged = points_of(run_id)
    assert table == logged
    outcome(f"same supervisor, RUNNING; {len(table):,} points in table and log")


def test_26_a_reader_of_a_minute(small: dict[str, Any], outcome: Outcome) -> None:
    run_id = launcher.launch(load_config(overrides=small))
    wait(run_id, training)
    journal = paths.results() / "spelltune.db-wal"
    with store.reading() as session:
        store.find(session, run_id)
        time.sleep(60)
        grown = journal.stat().st_size
    launcher.stop(run_id)
    wait(run_id, ended)
    with store.writing() as session:
        session.execute(update(Run).where(col(Run.id) == run_id).values(phase=None))
    left = journal.stat().st_size if journal.exists() else 0
    assert left <= 4194304 + 65536 and left < grown
    table, logged = points_of(run_id)
    assert table == logged
    outcome(f"WAL {grown / 2**20:.1f} MiB while read, {left / 2**20:.1f} MiB after; no point lost")


def test_32_a_gigabyte_of_log(data: Path, outcome: Outcome) -> None:
    from tests.helpers.pages import show as page

    with store.writing() as session:
        run_id = store.enqueue(session, load_config()).id
    log = paths.log_file(run_id)
    log.parent.mkdir(parents=True)
    writer = subprocess.Popen(
        ["sh", "-c", "yes 'a line of a library that will not stop talking' | head -c 1G"],
        stdout=open(log, "ab"),  # noqa: SIM115 (the child has it)
    )
    largest = 0
    while writer.poll() is None:
        time.sleep(0.2)  # as often as the supervisor looks
        largest = max(largest, log.stat().st_size)
        logs.cut_log(run_id)
    logs.cut_log(run_id)
    kept = log.stat().st_size + paths.older_log_file(run_id).stat().st_size
    assert kept <= 2 * logs.MAX_BYTES
    page("monitor", run=run_id)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        page("monitor", run=run_id)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 50
    outcome(f"{kept / 2**20:.0f} MiB kept; the page's memory grew {grown:.0f} MiB in 20 visits")
