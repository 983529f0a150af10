"""The runs, checkpoints and adapters that arguments of commands name."""

from pathlib import Path

from src import paths, store
from src.runs import attempts, reconciler
from src.store.tables import Run
from src.training import checkpointing


def find_run(name: str) -> Run:
    """The run of this id or name, with its status as of now."""
    reconciler.reconcile()
    with store.reading() as session:
        return store.find(session, name)


def find_checkpoint(name: str) -> tuple[Run, int | None]:
    """The run and the step of `RUN@STEP`; the step of `RUN` is None: its final adapter."""
    reconciler.reconcile()
    with store.reading() as session:
        return store.find_checkpoint(session, name)


def adapter_folder(run: Run, step: int | None) -> Path:
    """The folder of a checkpoint's adapter or of a run's final adapter, verified."""
    if step is not None:
        return checkpointing.step_dir(
            paths.checkpoints_dir(run.id), attempts.verified_step(run, step)
        )
    return attempts.final_adapter(run)
