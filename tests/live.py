"""Real runs for tests: launched as a user does, looked at, waited for, and none left over."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from src import paths
from src.config import load_config
from src.paths import ROOT
from src.runs import launcher, recovery, store
from src.runs.table import Run, Status

FEW = {"training.max_steps": 4, "evaluation.eval_steps": 2, "training.logging_steps": 1}
MANY = FEW | {"training.max_steps": 100_000, "evaluation.eval_steps": 100_000}


def of_home(home: Path) -> list[psutil.Process]:
    """Processes that carry this home in their environment, this one aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("SPELLTUNE_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def command(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    answer = subprocess.run(
        [sys.executable, "-m", "src.cli", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert not check or answer.returncode == 0, answer.stderr
    return answer


def launch(data: Path, **settings: Any) -> str:
    return launcher.launch(load_config(overrides={"data.path": str(data)} | settings))


def sets(data: Path, settings: dict[str, Any]) -> list[str]:
    return [f"--set={name}={value}" for name, value in ({"data.path": data} | settings).items()]


def row(run_id: str) -> Run:
    with store.reading() as session:
        return store.find(session, run_id)


def wait(run_id: str, until: Callable[[Run], bool], seconds: float = 90) -> Run:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until(run := row(run_id)):
            return run
        time.sleep(0.1)
    log = paths.log_file(run_id)
    raise AssertionError(f"{run}\n{log.read_text() if log.exists() else 'no log'}")


def alive(pid: int | None) -> bool:
    """Whether a process lives; a dead one that its parent has not reaped does not."""
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(run: Run) -> bool:
    return Status(run.status).ended


def training(run: Run) -> bool:
    return run.status == Status.RUNNING and (run.step or 0) > 0


def words(home: Path) -> Path:
    """A small data file: forty made-up words to spell."""
    file = home / "words.jsonl"
    made = [f"w{a}{b}t" for a in "abcdefgh" for b in "aeiou"]
    rows = [{"question": f"Spell the word: {w}", "answer": " ".join(w)} for w in made]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


@contextmanager
def mounted(folder: Path, size: str, *options: str) -> Iterator[None]:
    """A file system of its own at `folder`, of that size, in memory; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    choice = ",".join([f"size={size}", *options])
    subprocess.run(["mount", "-t", "tmpfs", "-o", choice, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def points_of(run_id: str) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
    """(step, name) of every point in the table, and in the metrics log."""
    with store.reading() as session:
        table = {(p["step"], p["name"]) for p in store.metrics(session, run_id)}
    logged = {(p[0], p[1]) for points in recovery.logged(run_id).values() for p in points}
    return table, logged
