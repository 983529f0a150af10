"""Locks that die with their holder, what a child may inherit, and what starts often."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.paths import ROOT
from src.runs.environment import child_environment
from src.runs.locks import FileLock, holder
from src.runs.machine import boot_id

HOLD = """
import sys, time
from pathlib import Path
from src.runs.locks import FileLock
print(FileLock(Path(sys.argv[1])).acquire(), flush=True)
time.sleep(60)
"""


def hold(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_a_lock_has_one_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "slot-0.lock"
    assert holder(path) is None
    child = hold(path)
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    assert holder(path) == child.pid
    assert not FileLock(path).acquire()
    assert holder(path) == child.pid  # asking and being refused did not take it away
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert holder(path) is None
    lock = FileLock(path)
    assert lock.acquire()
    other = hold(path)
    assert other.stdout is not None and other.stdout.readline() == "False\n"
    other.kill()
    other.wait()
    lock.release()
    assert holder(path) is None


def test_a_child_inherits_no_stray_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_BANK_PASSWORD", "canary")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    environment = child_environment(SPELLTUNE_TOKEN="abc")
    assert "MY_BANK_PASSWORD" not in environment
    assert environment["HF_HUB_OFFLINE"] == "1" and environment["SPELLTUNE_TOKEN"] == "abc"
    assert environment["PATH"] == os.environ["PATH"]


def test_what_starts_often_loads_nothing_heavy() -> None:
    often = "src.cli, src.workers.node_agent, src.workers.supervisor, src.workers.trainer"
    heavy = "{'numpy', 'pandas', 'pyarrow', 'scipy', 'optuna', 'torch', 'transformers'}"
    code = f"import sys, {often}; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stdout + run.stderr


def test_the_boot_id_stays_for_a_boot() -> None:
    assert boot_id() == boot_id() and len(boot_id()) == 36
