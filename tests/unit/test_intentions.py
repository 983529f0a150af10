"""What a person asked for outlives processes, machines and the run table."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from src import paths, store
from src.config import load_config
from src.files import read_text
from src.runs import attempts, launcher, reconciler, snapshots
from src.runs.machine import boot_id, host
from src.runs.result_file import outcome_of_exit
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
def test_sigterm_leaves_a_run_that_can_resume_whatever_its_engine(packed: bool) -> None:
    ended = outcome_of_exit(-15, asked_to_stop=False, packed=packed, oom_killed=False)
    assert ended is not None
    assert (ended.end_reason, ended.status) == (EndReason.TERMINATED, Status.INTERRUPTED)


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
