"""Which processes are Spelltune's and of this home, and every signal that is sent to one.

A token names its home: the rows of a copied home carry the tokens of the original, whose processes
are not the copy's. A process is a run's own only if the token in its environment is the row's and
names this home.
"""

import contextlib
import hashlib
import os
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from src import paths
from src.files import link_or_copy, read_text, retry, staged_name
from src.runs.locks import break_lock, holder, is_hung
from src.runs.machine import boot_id
from src.runs.spawn import Worker, worker_of
from src.runs.timeouts import TIMEOUTS
from src.store.tables import Run


def new_token() -> str:
    """A token for an attempt, by which its processes are known as those of this home."""
    if not _id_file().exists():
        _write_id()
    return f"{secrets.token_hex(16)}-{home_id()}"


def home_id() -> str | None:
    """Identity of this home: its random id, device and inode, hashed. A copy has another one, and
    so has a home that was moved to another disk; None without the file that holds the id."""
    try:
        name, place = read_text(_id_file()), os.stat(paths.home())
    except OSError:
        return None
    key = f"{name.strip()} {place.st_dev} {place.st_ino}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _id_file() -> Path:
    return paths.results() / ".home-id"


def _write_id() -> None:
    file = _id_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = staged_name(file)
    retry(lambda: staged.write_text(f"{secrets.token_hex(16)}\n"))
    with contextlib.suppress(FileExistsError):  # never replaces the id of another process
        link_or_copy(staged, file)
    staged.unlink(missing_ok=True)


def is_of_this_home(token: str | None) -> bool:
    """True if a token was made in this home, not in one that this is a copy of."""
    own = home_id()
    return bool(token and own and token.endswith(f"-{own}"))


def kill_by_token(token: str | None) -> None:
    """SIGKILL to every process that carries this token of this home, and to no other; returns once
    they are gone."""
    if not is_of_this_home(token):
        return
    deadline = time.monotonic() + TIMEOUTS.kill
    # Again until there is none: one that was killed may have started another one just before.
    while found := [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _token_of(process) == token
    ]:
        _kill(found, deadline)
        if time.monotonic() > deadline:
            return


def kill_worker(pid: int | None) -> None:
    """SIGKILL to the process with this pid if it is a worker of this home; returns once it is
    gone."""
    process = _process(pid)
    if process is not None and _worker_of_this_home(process):
        _kill([process], time.monotonic() + TIMEOUTS.kill)


def _kill(found: Sequence[psutil.Process], deadline: float) -> None:
    """SIGKILL to processes, and wait until they are gone, their locks and memory too. One that a
    disk holds in the kernel may never be, so not beyond the deadline (monotonic)."""
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)  # checks pid and start time first
    # Not by psutil's wait: it would take the exit code of a child from whoever started it.
    while not all(map(is_gone, found)) and time.monotonic() < deadline:
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    """True if nothing of a process is left but its exit code. The main thread of a killed process
    is a zombie before its other threads are, which hold its locks and memory meanwhile."""
    try:
        if not process.is_running():
            return True
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def signal_trainer(run: Run, number: signal.Signals) -> bool:
    """Signal the process group that a run's trainer leads; False if there is none."""
    # The lock says who trains: a pid in the row may have been given to a stranger since.
    pid = holder(paths.trainer_lock(run.id)) or run.trainer_pid
    process = _process(pid)
    if process is None or not is_of_this_home(run.token) or _token_of(process) != run.token:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
    return True


def trainer_lives(run: Run) -> bool:
    """True if a run's trainer holds its lock, or lives though the file of its lock is gone."""
    lock = paths.trainer_lock(run.id)
    if holder(lock) is not None:
        return True
    if lock.exists() or run.boot_id != boot_id():
        return False
    process = _process(run.trainer_pid)
    return process is not None and is_of_this_home(run.token) and _token_of(process) == run.token


def supervisor_lives(run: Run) -> bool:
    """True if a run's supervisor holds its lock, or lives though the file of its lock is gone."""
    lock = paths.supervisor_lock(run.id)
    if holder(lock) is not None:
        return True
    if lock.exists() or run.boot_id != boot_id():
        return False
    process = _process(run.supervisor_pid)
    return process is not None and _worker_of_this_home(process) == Worker.SUPERVISOR


def is_running(worker: Worker, argument: str) -> bool:
    """True if a worker of this home runs, or starts, with this first argument."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line[3:4] == [argument] and _worker_of_this_home(process) == worker:
                return True
    return False


def worker_with(pid: int) -> Worker | None:
    """The worker of this home that has this pid."""
    process = _process(pid)
    return _worker_of_this_home(process) if process is not None else None


def end_hung(lock: Path) -> bool:
    """Free a lock whose holder gives no sign of life any more; True if it was freed.

    A worker is killed. A process that a person started (a panel, a command that was suspended) only
    loses the lock.
    """
    if not is_hung(lock):
        return False
    # Where all processes slept together, the holder needs a moment to show that it lives.
    time.sleep(TIMEOUTS.heartbeat + TIMEOUTS.poll)
    if not is_hung(lock):
        return False
    kill_worker(holder(lock))
    if is_hung(lock):
        break_lock(lock)
    return True


def _process(pid: int | None) -> psutil.Process | None:
    """The living process with this pid. Never for 0 and below, which name groups, nor for init."""
    if pid is None or pid <= 1:
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None


def _token_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("SPELLTUNE_TOKEN")
    except (psutil.Error, OSError):
        return None


def is_of_home(process: psutil.Process, *, unset: str | Path) -> bool:
    """True if a process works for this home; `unset` is the home of one whose environment names
    none. Raises as psutil and os.path do for a process or a home that is gone."""
    given = process.environ().get("SPELLTUNE_HOME")
    # A relative one counts from the folder in which the process was started.
    home = Path(process.cwd(), Path(given).expanduser()) if given else unset
    return os.path.samefile(home, paths.home())


def _worker_of_this_home(process: psutil.Process) -> Worker | None:
    """The worker that a process runs, if it works for this home."""
    try:
        if (worker := worker_of(process.cmdline())) is None:
            return None
        # A worker runs in the repository that it is of, which may be another clone.
        return worker if is_of_home(process, unset=process.cwd()) else None
    except (psutil.Error, OSError):
        return None
