"""Real runs for tests: launched as a user does, looked at, waited for, and none left over."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from src import paths, store
from src.config import load_config
from src.paths import ROOT
from src.runs import attempts, launcher, machine, snapshots
from src.runs.locks import FileLock, holder
from src.runs.processes import is_gone
from src.store.tables import Run, Status
from tests.helpers.fork_server import STARTER

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


def left_over(home: Path, seconds: float) -> list[psutil.Process]:
    """Processes of this home that are still there after so many seconds; earlier if none is."""
    end = time.monotonic() + seconds
    while (there := of_home(home)) and time.monotonic() < end:
        time.sleep(0.1)
    return there


def kill_all(home: Path, *, only: str = "") -> None:
    """SIGKILL to all processes of this home, and to those that they were just about to start; with
    `only` to those that have it in their command."""
    while there := [one for one in of_home(home) if only in _command(one)]:
        for process in there:
            with suppress(psutil.NoSuchProcess):  # it came to its end meanwhile
                process.kill()
        psutil.wait_procs(there, timeout=60)


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def command(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    answer = STARTER.run_command([sys.executable, "-m", "src.cli", *arguments], cwd=ROOT)
    assert not check or answer.returncode == 0, answer.stderr
    return answer


def launch(data: Path, **settings: Any) -> str:
    return launcher.launch(load_config(overrides={"data.path": str(data)} | settings))


def sets(data: Path, settings: dict[str, Any]) -> list[str]:
    return [f"--set={name}={value}" for name, value in ({"data.path": data} | settings).items()]


def row(run_id: str) -> Run:
    with store.reading() as session:
        return store.find(session, run_id)


def wait(run_id: str, until: Callable[[Run], bool], seconds: float = 300) -> Run:
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
        return pid is not None and not is_gone(psutil.Process(pid))
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
def postgresql(folder: Path, *inside: str, addresses: str = "") -> Iterator[Path]:
    """A PostgreSQL server with its data and its socket in `folder`; `inside` is what its commands
    begin with, to enter a namespace."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    # initdb refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder.mkdir()
    if as_user:
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        shutil.chown(folder, "postgres")

    def done(*command: Any) -> None:
        answer = subprocess.run(command, cwd="/", capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout + answer.stderr

    done(*as_user, programs / "initdb", "-D", folder / "data", "-A", "trust")
    options = f"-c listen_addresses={addresses} -c unix_socket_directories={folder}"
    control = [*inside, *as_user, programs / "pg_ctl", "-D", folder / "data", "-w"]
    done(*control, "-t", "300", "-l", folder / "log", "-o", options, "start")
    try:
        yield folder
    finally:
        # What was started in a namespace ends with it in any case.
        subprocess.run([*control, "-t", "20", "-m", "immediate", "stop"],
                       check=not inside, capture_output=True, cwd="/")  # fmt: skip


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
        table = {(p["step"], p["name"]) for p in store.metric_points(session, run_id)}
    logged = {
        (p[0], p[1]) for points in snapshots.read_metrics_log(run_id).values() for p in points
    }
    return table, logged


class Panel:
    """A panel on a free port, in a process group of its own."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "src.cli", "panel", "--port", str(self.port)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def answers(self) -> bool:
        try:
            address = f"http://127.0.0.1:{self.port}/_stcore/health"
            return bool(urllib.request.urlopen(address, timeout=30).read() == b"ok")
        except OSError:
            return False

    def ready(self) -> None:
        end = time.monotonic() + 300
        while not self.answers():
            assert time.monotonic() < end
            time.sleep(0.2)

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)
        self.process.wait(120)


def queued(settings: dict[str, Any]) -> str:
    """Id of a row and nothing else: whoever reconciles next starts it."""
    with store.writing() as session:
        return store.enqueue(session, load_config(overrides=settings)).id


def killed_at_random(
    settings: dict[str, Any], panel: Panel, *, times: int, pause: float
) -> tuple[dict[str, int], float, int, int]:
    """SIGKILL to the panel, the supervisor or the trainer of one run so many times, up to `pause`
    seconds apart: {victim: how often}, the most seconds for which its status was wrong, how often
    only a resume by hand helped, and its last attempt."""
    chance = random.Random(times)
    run_id = queued(settings | {"checkpointing.save_steps": 5, "supervision.auto_resume": 100})
    counts = dict.fromkeys(("panel", "supervisor", "trainer"), 0)
    resumed, slowest = 0, 0.0
    for _ in range(times):
        time.sleep(chance.uniform(0.1, pause))
        run = row(run_id)
        victim = chance.choice(list(counts))
        pid = {"panel": panel.process.pid, "supervisor": run.supervisor_pid,
               "trainer": run.trainer_pid}[victim]  # fmt: skip
        if down := not alive(pid):
            victim, pid = "panel", panel.process.pid
        os.kill(pid or 0, signal.SIGKILL)
        counts[victim] += 1
        if victim == "panel":
            panel.process.wait()
            panel.start()
        slowest = max(slowest, seconds_until_true(run_id))
        if down:
            panel.ready()  # killed each time as it starts it would never bring back the run
        if row(run_id).status in (Status.FAILED, Status.INTERRUPTED):
            try:
                attempts.resume(row(run_id))
                resumed += 1
            except attempts.CannotResume:
                with store.writing() as session:  # killed before its first checkpoint
                    store.requeue(session, row(run_id), resume_step=None, config=None)
    panel.ready()
    launcher.stop(run_id)
    wait(run_id, ended)
    panel.signal(signal.SIGKILL)
    return counts, slowest, resumed, row(run_id).attempt


def seconds_until_true(run_id: str) -> float:
    """How long the status took to say what the processes really do, as a reader of the table sees
    it; fails after 10 s."""
    start = time.monotonic()
    while time.monotonic() - start < 10:
        status = Status(row(run_id).status)
        working = any(holder(lock(run_id)) for lock in (paths.supervisor_lock, paths.trainer_lock))
        # QUEUED is true for the second in which a supervisor starts.
        if working == status.active or status is Status.QUEUED:
            return time.monotonic() - start
        time.sleep(0.05)
    raise AssertionError(f"{row(run_id).status} is wrong for 10 s")


@contextmanager
def taken_slots() -> Iterator[None]:
    """All slots are taken, so what is queued stays so."""
    locks = [FileLock(machine.slot_lock(slot)) for slot in range(machine.slot_count())]
    assert all(lock.acquire() for lock in locks)
    try:
        yield
    finally:
        for lock in locks:
            lock.release()
