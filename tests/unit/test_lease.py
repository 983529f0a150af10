"""A home on a disk that several machines have, or that has no locks; and holders that hang."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from src import paths, store
from src.cli import doctor
from src.config import load_config
from src.paths import ROOT
from src.runs import attempts, launcher, lease, locks, machine, processes, reconciler
from src.runs.locks import FileLock, LocksUnavailable, holder
from src.runs.timeouts import Timeouts
from src.store.outcome import EndReason, Outcome
from src.store.tables import Run, Status, Sweep, SweepStatus
from src.sweeps import control
from tests.helpers.live import alive
from tests.unit.test_locks import hold

pytestmark = pytest.mark.usefixtures("home")


def active(**columns: Any) -> str:
    """A run that trains on this machine, as far as its row tells."""
    with store.writing() as session:
        run = store.enqueue(session, load_config())
        own = {"boot_id": machine.boot_id(), "host": machine.host()}
        store.claim(session, run, token="t", slot=0, **own | columns)
        return run.id


def row(run_id: str) -> Run:
    with store.reading() as session:
        return store.find(session, run_id)


def move_to(patch: pytest.MonkeyPatch, host: str) -> None:
    """Make this process one of another machine."""
    for module in (machine, reconciler, launcher):
        patch.setattr(module, "host", lambda: host)
    for module in (machine, reconciler):
        patch.setattr(module, "boot_id", lambda: f"boot of {host}")


def age(seconds: float) -> None:
    then = time.time() - seconds
    os.utime(paths.results() / ".host", (then, then))


def test_another_machine_reads_and_ends_or_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(launcher, "start_supervisor", lambda *_, **__: started.append(1))
    run_id, ended = active(), row(active())
    with store.writing() as session:
        assert store.end(session, ended, Outcome(EndReason.LOST, "x"))
        session.add(Sweep(id="s", name="s", file="", path="", folder="", seed=0, most_trials=5,
                          status=SweepStatus.PAUSED, created_at=1.0))  # fmt: skip
    ended = row(ended.id)
    lease.take()
    own = machine.host()
    with monkeypatch.context() as there:
        move_to(there, "other")
        assert reconciler.reconcile() == [] and lease.other_host() == own
        assert row(run_id).status == Status.STARTING
        with pytest.raises(lease.HomeInUse, match=f"is in use on {own}.* SPELLTUNE_HOME"):
            launcher.launch(load_config())
        launcher.fill_slots()
        for begin in (
            lambda: attempts.resume(ended),
            lambda: attempts.fork(ended, load_config()),
            lambda: control.resume("s"),
            lambda: control.add("s", "5 trials"),
        ):
            with pytest.raises(lease.HomeInUse):
                begin()
        assert not started and row(ended.id).status == Status.INTERRUPTED
        launcher.stop(run_id)  # what is wished for is carried out where it trains
        with store.reading() as session:
            assert {run.id for run in store.list_runs(session)} == {run_id, ended.id}
        # A minute without a sign of life, and it is the other one's.
        age(61)
        assert lease.other_host() is None
        assert reconciler.reconcile() == []  # nor does the row's own heartbeat let it end the run
        with store.writing() as session:
            store.update_attempt(session, row(run_id), heartbeat_at=time.time() - 61)
        assert reconciler.reconcile() == [run_id]
        assert f"{own} is gone" in (row(run_id).reason or "")
        monkeypatch.setattr(lease, "_renewed", {})
        lease.take()
    assert lease.other_host() == "other"


def test_a_machine_that_restarted_has_its_home_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = active(boot_id="the boot before")
    lease.take()
    own = machine.host()
    monkeypatch.setattr(lease.machine, "boot_id", lambda: "after the restart")
    # Renewed while this kernel runs already: then it is another machine of the same name.
    assert lease.other_host() == own
    monkeypatch.setattr(time, "clock_gettime", lambda clock: -1.0)
    assert lease.other_host() is None
    assert reconciler.reconcile() == [run_id]
    assert row(run_id).reason == "the machine restarted while it ran"


def test_the_lease_of_a_copied_home_is_not_the_copys(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    lease.take()
    copy = tmp_path_factory.mktemp("copies") / "home"
    subprocess.run(["cp", "-a", home, copy], check=True)
    monkeypatch.setattr(lease.machine, "boot_id", lambda: "another")
    monkeypatch.setattr(lease.machine, "host", lambda: "other")
    assert lease.other_host() is not None
    monkeypatch.setenv("SPELLTUNE_HOME", str(copy))
    assert lease.other_host() is None


@pytest.mark.parametrize("refusal", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def without(*_: Any) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(fcntl, "lockf", without)
    with pytest.raises(LocksUnavailable, match="has no file locks.* SPELLTUNE_HOME"):
        launcher.launch(load_config())
    assert reconciler.reconcile() == []  # what is there can be read
    with store.reading() as session:
        assert not store.list_runs(session)


def test_locks_that_keep_nobody_out_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    locks.check_locks(paths.locks_dir())
    assert not list(paths.locks_dir().iterdir())
    real = fcntl.fcntl

    def unlocked(file: int, what: int, query: bytes) -> bytes:
        if what == fcntl.F_OFD_GETLK:
            return locks.struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0)
        return bytes(real(file, what, query))

    monkeypatch.setattr(fcntl, "fcntl", unlocked)
    with pytest.raises(LocksUnavailable, match="keeps nobody out"):
        locks.check_locks(paths.locks_dir())


# --- holders that hang ----------------------------------------------------------------------------

QUICK = Timeouts(lease=3.0, heartbeat=0.2, poll=0.1)


def test_a_suspended_command_loses_its_lock_and_no_more(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (locks, processes):
        monkeypatch.setattr(module, "TIMEOUTS", QUICK)
    path = home / "reconciler.lock"
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"lease": 3.0, "heartbeat": 0.2}))
    child = hold(path)
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    time.sleep(4)
    assert not locks.is_hung(path) and not processes.end_hung(path)
    child.send_signal(signal.SIGSTOP)
    while not locks.is_hung(path):
        assert holder(path) == child.pid
        time.sleep(0.05)
    assert processes.end_hung(path) and child.poll() is None
    lock = FileLock(path)
    assert lock.acquire()
    # Continued it finds that the lock is another's, and takes nothing back.
    child.send_signal(signal.SIGCONT)
    time.sleep(0.6)
    assert holder(path) == os.getpid() and child.poll() is None
    lock.release()
    child.kill()
    child.wait()


def test_a_suspended_worker_is_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (locks, processes):
        monkeypatch.setattr(module, "TIMEOUTS", QUICK)
    path = paths.locks_dir() / "some.lock"
    # A process whose command line is a supervisor's.
    worker = tmp_path / "src" / "workers"
    worker.mkdir(parents=True)
    (worker / "supervisor.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import src; src.__path__.append(" + repr(str(ROOT / "src")) + ")\n"
        "import time\nfrom pathlib import Path\nfrom src.runs.locks import FileLock\n"
        "print(FileLock(Path(sys.argv[1])).acquire(), flush=True)\ntime.sleep(600)\n"
    )
    for folder in (tmp_path / "src", worker):
        (folder / "__init__.py").touch()
    child = subprocess.Popen(
        [sys.executable, "-m", "src.workers.supervisor", str(path)],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    child.send_signal(signal.SIGSTOP)
    while not locks.is_hung(path):
        time.sleep(0.05)
    assert processes.end_hung(path)
    child.wait(60)
    assert holder(path) is None and not alive(child.pid)


def test_doctor_tells_who_has_the_home_and_who_holds_its_locks(tmp_path: Path) -> None:
    assert doctor.lease_text().startswith("none")
    lease.take()
    told = doctor.lease_text()
    assert told.startswith(f"{machine.host()} since 20") and "heartbeat 0 s ago" in told
    os.utime(tmp_path / "results" / ".host", (1, 1))
    assert "so any machine may take the home" in doctor.lease_text()
    lock = FileLock(paths.locks_dir() / "slot-0.lock")
    holding = hold(paths.locks_dir() / "slot-1.lock")
    assert holding.stdout is not None and holding.stdout.readline() == "True\n"
    try:
        assert lock.acquire()
        held = doctor.locks_held()
        assert held["slot-0"].startswith(f"held by pid {os.getpid()}")
        assert held["slot-1"].startswith(f"held by pid {holding.pid}")
    finally:
        lock.release()
        holding.kill()
        holding.wait()
    assert "slot-0" not in doctor.locks_held()
