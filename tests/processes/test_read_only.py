"""A home that can be read only, or whose disk takes no new file: sentences, and no traceback."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src import store
from src.config import load_config
from src.paths import ROOT
from src.runs import lease, locks, reconciler, snapshots
from tests.helpers.store import checkpoint, fill_run

pytestmark = pytest.mark.root

READS = ["runs", "show whole", "metrics whole", "checkpoints whole", "errors whole",
         "export whole --format json", "compare whole other", "sweep list"]  # fmt: skip
WRITES = ["launch --set tracking.mode=off", "stop waiting", "hold waiting", "delete whole --yes",
          "fork whole", "resume broken"]  # fmt: skip


@pytest.fixture
def filled(home: Path) -> Path:
    whole = fill_run(name="whole")
    fill_run(name="other", lora__r=4)
    checkpoint(whole, 100)
    with store.writing() as session:
        waiting = store.enqueue(session, load_config(overrides={"name": "waiting"}))
    snapshots.write_run(waiting.id)
    return home


@pytest.fixture
def read_only(filled: Path) -> Iterator[Path]:
    subprocess.run(["mount", "--bind", filled, filled], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", filled], check=True)
        yield filled
    finally:
        subprocess.run(["umount", "--lazy", filled], check=True)


def called(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "src.cli", *words], cwd=ROOT, capture_output=True, text=True
    )


def test_a_read_only_home_is_read_and_every_write_is_refused_in_words(read_only: Path) -> None:
    for call in READS:
        answer = called(*call.split())
        assert answer.returncode == 0 and "Traceback" not in answer.stderr, (call, answer.stderr)
    for call in WRITES:
        answer = called(*call.split())
        assert answer.returncode == 2 and "Traceback" not in answer.stderr, (call, answer.stderr)
        assert answer.stderr.strip().splitlines()[-1], call


@pytest.mark.usefixtures("filled")
def test_a_disk_without_free_inodes_lets_the_runs_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: str, flags: int, *mode: int, **named: int) -> int:
        if flags & os.O_CREAT and not os.path.exists(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, *mode, **named)

    monkeypatch.setattr(locks.os, "open", full)
    lease.other_host()
    assert reconciler.reconcile() == []
