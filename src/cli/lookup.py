"""The runs and checkpoints that arguments of commands name."""

from src import store
from src.runs import reconciler
from src.store.tables import Run


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
