"""Starts Spelltune's own processes, as no other module of the packages does."""

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

from src import paths
from src.files import retry
from src.runs.environment import NOTIFY_URLS, child_environment


class Worker(StrEnum):
    """The module that each kind of process runs; docs/architecture.md describes them."""

    SUPERVISOR = "src.workers.supervisor"
    TRAINER = "src.workers.trainer"
    SWEEP_DRIVER = "src.workers.sweep_driver"
    RECONCILE = "src.workers.reconcile"
    MEASURE = "src.workers.measure"
    MEMORY_PROBE = "src.workers.memory_probe"
    IMPORT_CHECK = "src.workers.import_check"
    EXPORT = "src.workers.export"
    CONVERT = "src.workers.convert"
    RAY_NODES = "src.workers.ray_nodes"
    NODE_AGENT = "src.workers.node_agent"
    CALLS = "src.workers.calls"
    ANSWER = "src.workers.answer"
    EVALUATE = "src.workers.evaluate"
    NOTIFY = "src.workers.notify"
    IDLE = "src.workers.idle"


# Those that end runs, and so start the one that tells of it. No other gets the secrets for it.
TELLING = (Worker.SUPERVISOR, Worker.SWEEP_DRIVER, Worker.RECONCILE, Worker.NOTIFY)
# Runs a command of the person who started it, which may need all that this person's shell has.
OF_A_PERSON = (Worker.IDLE,)


def command(worker: Worker, *arguments: str) -> list[str]:
    """The command line of a worker, in the Python that runs this."""
    return [sys.executable, "-m", worker.value, *arguments]


def worker_of(line: list[str]) -> Worker | None:
    """The worker that a process with this command line runs; None for any other process."""
    module = line[2] if len(line) > 2 and line[1] == "-m" else None
    return next((worker for worker in Worker if worker.value == module), None)


def _environment(worker: Worker, extra: dict[str, str]) -> dict[str, str]:
    if worker in OF_A_PERSON:
        return dict(os.environ) | extra
    secrets = os.environ.get(NOTIFY_URLS) if worker in TELLING else None
    return child_environment(**extra) | ({} if secrets is None else {NOTIFY_URLS: secrets})


def start_detached(
    worker: Worker,
    *arguments: str,
    log: Path | None = None,
    stdin: Any = subprocess.DEVNULL,
    **environment: str,
) -> "subprocess.Popen[bytes]":
    """Start a worker that outlives its caller: in a session of its own, so that Ctrl-C does not
    reach it. What it prints is appended to `log`, or dropped without one."""
    file = log or Path(os.devnull)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with retry(lambda: open(file, "ab")) as output:
        return subprocess.Popen(
            command(worker, *arguments),
            cwd=paths.ROOT,
            env=_environment(worker, environment),
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def start_attached(
    worker: Worker,
    *arguments: str,
    stdin: Any = subprocess.PIPE,
    output: Any = subprocess.DEVNULL,
    errors: Any = None,
    **environment: str,
) -> "subprocess.Popen[bytes]":
    """Start a worker that ends with its caller: its standard input is a pipe that closes then.
    Its standard error goes to `errors`, by default where its output goes."""
    return subprocess.Popen(
        command(worker, *arguments),
        cwd=paths.ROOT,
        env=_environment(worker, environment),
        stdin=stdin,
        stdout=output,
        stderr=output if errors is None else errors,
    )


def run(
    worker: Worker, document: str, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a worker to its end on a document at its standard input, and collect what it prints."""
    return subprocess.run(
        command(worker, *arguments),
        input=document,
        cwd=paths.ROOT,
        env=_environment(worker, environment),
        capture_output=True,
        text=True,
        check=False,
    )
