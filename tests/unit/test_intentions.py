"""What a person asked for outlives processes, machines and the run table."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src import files, paths, store
from src.cli import launch
from src.config import load_config
from src.files import PASSING, read_text
from src.runs import attempts, launcher, locks, reconciler, snapshots, termination
from src.runs.locks import FileLock, holder
from src.runs.machine import boot_id, host
from src.runs.result_file import outcome_of_exit
from src.runs.timeouts import Timeouts
from src.store.outcome import EndReason, Outcome
from src.store.tables import EventKind, Run, Status, Sweep, SweepStatus
from src.sweeps import control, trials
from tests.helpers.store import checkpoint

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)


def claimed(boot: str = "another", **columns: Any) -> Run:
    """A run that trains, with a checkpoint from which it could resume by itself."""
    with store.writing() as session:
        config = load_config(overrides={"supervision.auto_resume": 2})
        run = store.enqueue(session, config, **columns)
        store.claim(session, run, token="t", slot=0, boot_id=boot, host=host())
        run_id = run.id
    checkpoint(run_id, 5)
    return row(run_id)


def row(run_id: str) -> Run:
    with store.reading() as session:
        return store.find(session, run_id)


def snapshot(run_id: str) -> dict[str, Any]:
    return dict(json.loads((paths.output_dir(run_id) / "run.json").read_text())["run"])


@pytest.mark.parametrize("boot", ["another", None])
def test_a_stop_outlives_the_machine_that_dies_before_the_end(boot: str | None) -> None:
    run, other = claimed(boot or boot_id()), claimed(boot or boot_id())
    launcher.stop(run.id)
    assert snapshot(run.id)["stop_requested_at"] is not None
    for _ in range(2):
        reconciler.reconcile()
        assert row(run.id).status == Status.STOPPED
        assert row(run.id).attempt == 1
    # Without the stop it goes on by itself.
    assert (row(other.id).status, row(other.id).attempt) == (Status.QUEUED, 2)
    with store.reading() as session:
        assert not store.list_events(session, run.id)


@pytest.mark.parametrize("kind", [EventKind.HEALED, EventKind.RETRIED, EventKind.AUTO_RESUMED])
def test_only_a_person_resumes_what_was_stopped(kind: EventKind) -> None:
    run = claimed(sweep_id="s", number=0)
    launcher.stop(run.id)
    with store.writing() as session:
        assert store.end(session, run, Outcome(EndReason.ERROR, "it failed meanwhile"))
    run = row(run.id)
    with store.writing() as session:
        assert not attempts.queue_next_attempt(session, run, kind, "again", step=None)
    assert not trials.retry(run, retries=3)
    assert not attempts.auto_resume(run)
    assert row(run.id).status == Status.FAILED
    with store.writing() as session:
        text = "resumed"
        assert attempts.queue_next_attempt(session, run, EventKind.RESUMED, text, step=None)
    assert row(run.id).stop_requested_at is None


def test_a_stop_between_two_attempts_is_kept() -> None:
    """Of a trial that its paused sweep would launch again, say."""
    run, failed = claimed(sweep_id="s", number=0), claimed(sweep_id="s", number=1)
    with store.writing() as session:
        assert store.end(session, run, Outcome(EndReason.LOST, "the machine restarted"))
        assert store.end(session, failed, Outcome(EndReason.ERROR, "it failed"))
    assert launcher.stop(run.id) == Status.INTERRUPTED
    assert launcher.stop(failed.id) == Status.FAILED
    reconciler.reconcile()
    assert (row(run.id).status, row(run.id).attempt) == (Status.INTERRUPTED, 1)
    assert not trials.retry(row(failed.id), retries=3)
    assert not trials.retry(row(run.id), retries=3)
    assert snapshot(run.id)["stop_requested_at"] is not None
    # That its sweep's time is over is no wish of a person.
    other = claimed(sweep_id="s", number=2)
    with store.writing() as session:
        assert store.end(session, other, Outcome(EndReason.ERROR, "it failed"))
        store.request_stop(session, other.id, reason="pruned")
    assert row(other.id).stop_reason is None


def test_who_waits_for_a_run_waits_for_the_attempts_that_begin_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = claimed()
    with store.writing() as session:
        assert store.end(session, run, Outcome(EndReason.TERMINATED, "SIGTERM"))
    rounds: list[list[str]] = []

    def reconciled() -> None:
        """One reconciling, after which a supervisor trains the next attempt to its end."""
        rounds.append(reconciler.reconcile())
        with store.writing() as session:
            again = store.find(session, run.id)
            if store.claim(session, again, token="u", slot=0, boot_id=boot_id(), host=host()):
                session.refresh(again)
                assert store.end(session, again, Outcome(EndReason.COMPLETED))

    monkeypatch.setattr(launch, "TIMEOUTS", Timeouts(reconcile=0.0))
    monkeypatch.setattr(reconciler, "try_to_reconcile", reconciled)
    launch.follow(run.id)
    assert (row(run.id).status, row(run.id).attempt) == (Status.COMPLETED, 2)
    assert rounds


@pytest.mark.parametrize("status", [SweepStatus.CANCELLED, SweepStatus.COMPLETED])
def test_nobody_waits_for_a_trial_of_a_sweep_that_is_over(status: SweepStatus) -> None:
    with store.writing() as session:
        session.add(Sweep(id="s", name="s", file="", path="", folder="", seed=0,
                          status=status, created_at=1.0))  # fmt: skip
    run = claimed(sweep_id="s", number=0)
    with store.writing() as session:
        assert store.end(session, run, Outcome(EndReason.TERMINATED, "SIGTERM"))
    launch.follow(run.id)
    reconciler.reconcile()
    assert row(run.id).status == Status.INTERRUPTED


def test_a_hold_and_a_cancelled_sweep_are_in_the_files_from_which_a_table_is_restored() -> None:
    with store.writing() as session:
        session.add(Sweep(id="s", name="s", file="", path="", folder="", seed=0,
                          status=SweepStatus.ACTIVE, created_at=1.0))  # fmt: skip
        held = store.enqueue(session, load_config()).id
        trial = store.enqueue(session, load_config(), sweep_id="s", number=0).id
    launcher.hold([held], held=True)
    assert snapshot(held)["held_at"] is not None
    launcher.hold([held], held=False)
    assert snapshot(held)["held_at"] is None
    launcher.stop(held)
    assert snapshot(held)["status"] == Status.CANCELLED
    control.cancel("s")
    assert snapshot(trial)["status"] == row(trial).status == Status.CANCELLED


def test_a_sweep_is_cancelled_with_its_runs_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with store.writing() as session:
        session.add(Sweep(id="s", name="s", file="", path="", folder="", seed=0,
                          status=SweepStatus.ACTIVE, created_at=1.0))  # fmt: skip
        store.enqueue(session, load_config(), sweep_id="s", number=0)

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "request_stop", dies)
    with pytest.raises(KeyboardInterrupt):
        control.cancel("s")
    with store.reading() as session:
        assert store.find_sweep(session, "s").status == SweepStatus.ACTIVE


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("number", termination.SIGNALS)
def test_sigterm_leaves_a_run_that_can_resume_whatever_its_engine(
    packed: bool, number: signal.Signals
) -> None:
    ended = outcome_of_exit(-number, asked_to_stop=False, packed=packed, oom_killed=False)
    assert ended is not None and ended.reason is not None
    assert (ended.end_reason, ended.status) == (EndReason.TERMINATED, Status.INTERRUPTED)
    assert ended.reason == f"{number.name} ended its trainer before it trained a step"


@pytest.mark.parametrize("number", termination.SIGNALS)
def test_a_trainer_ends_softly_at_each_signal_by_which_machines_and_clusters_end_one(
    number: signal.Signals,
) -> None:
    # Some send another one soon after; who sends the same one again wants it to end at once.
    program = f"""
import os
from src.runs import termination
termination.handle_signals()
assert termination.asked_by() is None and not termination.poll()
os.kill(os.getpid(), {int(number)})
assert termination.poll() and termination.asked_by() == "{number.name}"
other = {int(next(s for s in termination.SIGNALS if s != number))}
os.kill(os.getpid(), other)
print(termination.asked_by(), flush=True)
os.kill(os.getpid(), {int(number)})
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True)
    assert (ended.stdout.decode().split(), ended.returncode) == ([number.name], -number)


def test_a_file_is_read_again_where_the_error_of_its_disk_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "members.pack"
    file.write_text("one\n")
    answers = [errno.EIO, errno.ESTALE]
    real = Path.read_text

    def sometimes(self: Path, *given: Any, **named: Any) -> str:
        if self == file and answers:
            raise OSError(answers.pop(), "passing")
        return real(self, *given, **named)

    monkeypatch.setattr(Path, "read_text", sometimes)
    assert read_text(file) == "one\n" and not answers
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


@pytest.mark.parametrize("number", PASSING)
def test_locks_and_small_files_outlast_an_error_of_the_disk_that_passes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them else ends a supervisor or a trainer, or leaves a run in the queue."""
    failed: set[str] = set()

    def once(real: Any) -> Any:
        def opened(path: Any, *given: Any, **named: Any) -> Any:
            if str(path).startswith(str(tmp_path)) and (key := f"{real} {path}") not in failed:
                failed.add(key)
                raise OSError(number, "passing")
            return real(path, *given, **named)

        return opened

    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "open", once(os.open))
    monkeypatch.setattr("builtins.open", once(open))
    lock = FileLock(tmp_path / "a.lock")
    assert lock.acquire() and len(failed) == 1
    monkeypatch.setattr(locks, "_own", lambda path: None)  # as another process looks
    assert holder(tmp_path / "b.lock") is None
    lock.release()
    files.write_atomic(tmp_path / "c", "whole")
    assert (tmp_path / "c").read_text() == "whole"
    assert len(failed) == 3


def test_a_checkpoint_is_not_called_damaged_for_an_error_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = claimed()
    answers = [errno.EIO]
    real = Path.read_bytes

    def once(self: Path) -> bytes:
        if answers:
            raise OSError(answers.pop(), "passing")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", once)
    assert attempts.newest_verified_step(run) == 5 and not answers


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_a_person_stopped_stays_so_though_its_snapshot_could_not_be_written(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing() as session:
        session.add(Sweep(id="s", name="s", file="", path="", folder="", seed=0,
                          status=SweepStatus.ACTIVE, created_at=1.0))  # fmt: skip
        queued, held = (store.enqueue(session, load_config()).id for _ in "ab")
    run, other = claimed(), claimed()
    for run_id in (queued, held, run.id, other.id):
        snapshots.write_run(run_id)
    snapshots.write_sweep("s")

    def full(path: Path, text: str) -> None:
        raise OSError(number, "the disk")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "write_atomic", full)
        launcher.stop(run.id)
        launcher.stop(queued)
        launcher.hold([held], held=True)
        control.cancel("s")
        snapshots.write_run(other.id)  # nothing was asked of it
    assert (paths.output_dir(run.id) / "run.json.stopped").exists()
    table = store.sqlite_file()
    assert table is not None
    table.unlink()
    reconciler.reconcile()
    assert row(run.id).status == Status.STOPPED
    assert row(queued).status == Status.CANCELLED
    assert (row(held).status, row(held).held_at is None) == (Status.QUEUED, False)
    assert row(other.id).status == Status.QUEUED  # resumed by itself
    with store.reading() as session:
        assert store.find_sweep(session, "s").status == SweepStatus.CANCELLED
    snapshots.write_run(run.id)
    assert snapshot(run.id)["status"] == Status.STOPPED
    assert not list(paths.output_dir(run.id).glob("*.stopped"))


def test_the_reserve_is_freed_for_the_snapshot_of_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    run = claimed()
    store.keep_reserve()
    real = snapshots.write_atomic

    def full(path: Path, text: str) -> None:
        if (paths.results() / ".reserve").exists():
            raise OSError(errno.ENOSPC, "no space left")
        real(path, text)

    monkeypatch.setattr(snapshots, "write_atomic", full)
    launcher.stop(run.id)
    assert snapshot(run.id)["stop_requested_at"] is not None
