"""A home that is copied, or loses its locks, under a run that trains."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from src import paths, store
from src.config import load_config
from src.paths import ROOT
from src.runs import lease, machine, processes, reconciler
from src.runs.locks import holder
from src.store.tables import Run, Status
from tests.helpers.live import alive, command, row, wait


def test_a_copy_of_a_home_that_is_read_and_lost_locks_end_nothing(
    home: Path, living: Run, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    copy = tmp_path_factory.mktemp("copies") / "home"
    subprocess.run(["cp", "-a", home, copy], check=True)
    with monkeypatch.context() as there:
        there.setenv("SPELLTUNE_HOME", str(copy))
        (told,) = json.loads(command("runs", "--json").stdout)
        assert (told["id"], told["status"]) == (living.id, Status.INTERRUPTED)
        assert not processes.is_of_this_home(living.token)
    step = row(living.id).step or 0
    run = wait(living.id, lambda run: (run.step or 0) > step)
    assert (run.status, run.trainer_pid) == (Status.RUNNING, living.trainer_pid)
    assert alive(run.trainer_pid) and processes.is_of_this_home(run.token)

    # Nor does the loss of the folder of locks.
    shutil.rmtree(paths.locks_dir())
    assert reconciler.reconcile() == []
    end = time.monotonic() + 300
    while holder(paths.trainer_lock(living.id)) is None or (
        holder(paths.supervisor_lock(living.id)) is None
    ):
        assert time.monotonic() < end
        assert reconciler.reconcile() == [] and row(living.id).status == Status.RUNNING
        time.sleep(0.1)
    assert holder(paths.trainer_lock(living.id)) == living.trainer_pid
    assert holder(paths.supervisor_lock(living.id)) == living.supervisor_pid


def test_no_signal_leaves_the_home(home: Path, tmp_path_factory: Any) -> None:
    """To a process with the token of a row, made in another home or in none."""
    token = processes.new_token()
    assert processes.is_of_this_home(token) and processes.new_token() != token
    other = token.rpartition("-")[0] + "-" + "0" * 16
    children = [
        subprocess.Popen(["sleep", "60"], env=os.environ | {"SPELLTUNE_TOKEN": own})
        for own in (token, other, "t")
    ]
    for own in ("t", other, "", None, token):
        processes.kill_by_token(own)
    assert children[0].wait(60) == -signal.SIGKILL
    for child in children[1:]:
        assert child.poll() is None
        run = Run(token=other, trainer_pid=child.pid, id="r")
        assert not processes.signal_trainer(run, signal.SIGKILL)
        child.kill()
        child.wait()


def test_what_is_killed_is_gone_with_its_locks_and_memory(home: Path) -> None:
    """And its exit code is left to whoever started it."""
    token, lock = processes.new_token(), home / "lock"
    # Threads end after the main one, and so much memory takes the kernel a moment to free.
    code = f"""
import threading, time
from pathlib import Path
from src.runs.locks import FileLock
assert FileLock(Path({str(lock)!r})).acquire()
for _ in range(20):
    threading.Thread(target=time.sleep, args=(600,)).start()
memory = b"x" * 2**28
print("held", flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"SPELLTUNE_TOKEN": token},
    )  # fmt: skip
    assert child.stdout and child.stdout.readline() == "held\n"
    there = psutil.Process(child.pid)
    processes.kill_by_token(token)
    assert processes.is_gone(there) and holder(lock) is None
    assert child.wait() == -signal.SIGKILL


@pytest.mark.root
def test_a_second_machine_reads_a_shared_home_and_ends_nothing(home: Path) -> None:
    boot = home / "boot"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    there = (
        f"hostname other; mount --bind {boot} /proc/sys/kernel/random/boot_id;"
        f' exec {sys.executable} -m src.cli "$@"'
    )

    def on_the_other(*arguments: str) -> "subprocess.CompletedProcess[str]":
        enter = ["unshare", "--uts", "--mount", "sh", "-c", there, "sh"]
        return subprocess.run([*enter, *arguments], cwd=ROOT, capture_output=True, text=True)

    with store.writing() as session:
        run = store.enqueue(session, load_config())
        own = {"boot_id": machine.boot_id(), "host": machine.host()}
        store.claim(session, run, token="t", slot=0, **own)
    lease.take()
    (told,) = json.loads(on_the_other("runs", "--json").stdout)
    assert told["status"] == row(run.id).status == Status.STARTING
    refused = on_the_other("launch")
    assert refused.returncode == 2 and f"is in use on {machine.host()}" in refused.stderr
    # Here nothing of it lives, which this machine may say at once.
    assert reconciler.reconcile() == [run.id]
