"""Deletes runs with their files; tells before what that frees, and which of them stay"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src import paths, store
from src.format import counted, data_size
from src.runs import launcher, snapshots
from src.store.tables import Run, Status
from src.training.results import forget_results

MAX_NAMED = 5  # runs that a sentence names


@dataclass(frozen=True)
class Plan:
    """The runs that a deletion takes, those that it leaves, and the space that it frees."""

    runs: list[Run | store.RunState]  # those that can be deleted
    staying: list[Run | store.RunState]  # those that wait or train
    size_bytes: int  # that it frees

    @property
    def sentence(self) -> str:
        """Sentences for people: all that goes, the space that it frees, and which runs stay."""
        return " ".join(part for part in (self._deleted(), self._kept()) if part)

    def _deleted(self) -> str:
        if not self.runs:
            return ""
        what = f"{counted(len(self.runs), 'run')} and frees {data_size(self.size_bytes)}"
        its = "its" if len(self.runs) == 1 else "their"
        return (
            f"This deletes {what}: {its} curves, checkpoints, adapter, predictions and log "
            "cannot be brought back."
        )

    def _kept(self) -> str:
        if not self.staying:
            return ""
        named = [f"{run.id} is {run.status}" for run in self.staying[:MAX_NAMED]]
        more = len(self.staying) - len(named)
        told = ", ".join(named) + (f" and {more:,} more wait or train" if more else "")
        verb = "stays" if len(self.staying) == 1 else "stay"
        which = "it" if len(self.staying) == 1 else "them"
        return f"{counted(len(self.staying), 'run')} {verb}: {told}; stop {which} first."


def plan(runs: Sequence[Run | store.RunState]) -> Plan:
    """The plan of deleting these runs, with the size of their files as they are now."""
    ended = [run for run in runs if Status(run.status).ended]
    size = sum(bytes_freed(path) for run in ended for path in _paths(run.id))
    return Plan(ended, [run for run in runs if not Status(run.status).ended], size)


def delete(run: Run) -> None:
    """Delete a run's rows, then its files. RunIsActive while it is queued or running."""
    with store.writing() as session:
        store.delete_rows(session, run.id)
    _remove_files([run.id])


def delete_named(run: Run, step: int | None) -> None:
    """Delete a run, or the checkpoint of one of its steps."""
    if step is None:
        delete(run)
    else:
        launcher.delete_checkpoint(run, step)


def delete_all(runs: Sequence[Run]) -> list[str]:
    """Delete those of the runs that neither wait nor train by now; their ids."""
    deleted = []
    with store.writing() as session:
        for run in store.runs_of(session, [run.id for run in runs]):
            if Status(run.status).ended:
                store.delete_rows(session, run.id)
                deleted.append(run.id)
    _remove_files(deleted)
    return deleted


def _remove_files(run_ids: Sequence[str]) -> None:
    with snapshots.writing_files():  # whoever writes them now ends first, or finds no row
        for run_id in run_ids:
            shutil.rmtree(paths.output_dir(run_id), ignore_errors=True)
        forget_results(run_ids, paths.summary_file())
    for run_id in run_ids:
        for path in (*_paths(run_id), *_locks(run_id)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _paths(run_id: str) -> Iterator[Path]:
    """The folders and files of a run that take space."""
    yield paths.output_dir(run_id)
    yield paths.checkpoints_dir(run_id)
    yield paths.predictions_dir(run_id)
    yield paths.log_file(run_id)
    yield paths.older_log_file(run_id)
    yield paths.metrics_log(run_id)
    yield paths.final_metrics(run_id)


def _locks(run_id: str) -> Iterator[Path]:
    yield paths.trainer_lock(run_id)
    yield paths.supervisor_lock(run_id)
    yield paths.export_lock(run_id)


def bytes_freed(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; 0 if there is none. What has a second name
    elsewhere does not count: it stays."""
    try:
        if not path.is_dir():
            return _freed(path.stat())
        with os.scandir(path) as entries:
            return sum(
                bytes_freed(Path(entry.path))
                if entry.is_dir(follow_symlinks=False)
                else _freed(entry.stat(follow_symlinks=False))
                for entry in entries
            )
    except OSError:
        return 0


def _freed(state: os.stat_result) -> int:
    return state.st_size if state.st_nlink == 1 else 0
