"""Checkpoints of a run, and the scorings of its splits."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlmodel import Session, col, delete, select

from src.store.database import upsert
from src.store.runs import UnknownRun, find_checkpoint
from src.store.tables import Checkpoint, Evaluation, Run

if TYPE_CHECKING:
    import pandas as pd


def set_best(session: Session, run_id: str, step: int | None) -> None:
    """Name the best step of a run that goes back to an earlier one."""
    session.execute(update(Run).where(col(Run.id) == run_id).values(best_step=step))
    rows = update(Checkpoint).where(col(Checkpoint.run_id) == run_id)
    session.execute(rows.values(is_best=col(Checkpoint.step) == step))


def record_checkpoint(
    session: Session, run_id: str, attempt: int, step: int, path: Path, *, is_best: bool
) -> None:
    """Record a complete checkpoint directory; the one before it that was best no longer is."""
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    if is_best:
        session.execute(
            update(Checkpoint).where(col(Checkpoint.run_id) == run_id).values(is_best=False)
        )
    upsert(
        session,
        Checkpoint,
        [
            {
                "run_id": run_id,
                "step": step,
                "attempt": attempt,
                "path": str(path),
                "size_bytes": size,
                "is_best": is_best,
                "created_at": time.time(),
            }
        ],
    )


def remove_checkpoint(session: Session, run_id: str, step: int) -> None:
    session.execute(
        delete(Checkpoint).where(col(Checkpoint.run_id) == run_id, col(Checkpoint.step) == step)
    )


def list_checkpoints(session: Session, run_id: str) -> Sequence[Checkpoint]:
    return session.exec(
        select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(col(Checkpoint.step))
    ).all()


def record_evaluation(
    session: Session,
    run_id: str,
    attempt: int,
    step: int,
    split: str,
    path: Path,
    *,
    rows: int,
    correct: int,
) -> None:
    upsert(
        session,
        Evaluation,
        [
            {
                "run_id": run_id,
                "step": step,
                "split": split,
                "attempt": attempt,
                "path": str(path),
                "rows": rows,
                "correct": correct,
                "created_at": time.time(),
            }
        ],
    )


def forget_evaluations(session: Session, run_id: str, *, after_step: int) -> None:
    session.execute(
        delete(Evaluation).where(
            col(Evaluation.run_id) == run_id, col(Evaluation.step) > after_step
        )
    )


def list_evaluations(
    session: Session, run_id: str, *, split: str | None = None
) -> Sequence[Evaluation]:
    """Scorings of a run, by step."""
    query = select(Evaluation).where(Evaluation.run_id == run_id)
    if split:
        query = query.where(Evaluation.split == split)
    return session.exec(query.order_by(col(Evaluation.step))).all()


def final_evaluation(session: Session, run: Run, *, split: str = "validation") -> Evaluation | None:
    """The scoring of the adapter that was kept (the best step), else the latest one; None before
    the first."""
    found = list_evaluations(session, run.id, split=split)
    return next((e for e in found if e.step == run.best_step), found[-1] if found else None)


def final_evaluations(session: Session, runs: Sequence[Run]) -> dict[tuple[str, str], Evaluation]:
    """{(run id, split): what `final_evaluation` gives}, in one query."""
    query = select(Evaluation).where(col(Evaluation.run_id).in_([run.id for run in runs]))
    best = {run.id: run.best_step for run in runs}
    found: dict[tuple[str, str], Evaluation] = {}
    for evaluation in session.exec(query.order_by(col(Evaluation.step))):
        key = evaluation.run_id, evaluation.split
        if key not in found or found[key].step != best[evaluation.run_id]:
            found[key] = evaluation
    return found


def scored(
    session: Session, name: str, *, split: str = "validation"
) -> tuple[Run, Evaluation, Sequence[Evaluation]]:
    """The run and the scoring that `RUN` (the adapter that it kept) or `RUN@STEP` names, and all
    scorings of the run on that split. UnknownRun says what there is instead."""
    run, step = find_checkpoint(session, name)
    known = list_evaluations(session, run.id, split=split)
    wanted = run.best_step if step is None else step
    found = next((e for e in known if e.step == wanted), None)
    if found is None and step is None and known:
        found = known[-1]
    if found is None:
        steps = ", ".join(str(e.step) for e in known)
        raise UnknownRun(
            f"{run.id} has not been scored on the {split} split"
            + (f" at step {step}; it was at {steps}" if known else f"; its status is {run.status}")
        )
    return run, found, known


def predictions(evaluation: Evaluation, *, wrong_only: bool = False) -> "pd.DataFrame":
    """Columns word, question, expected, predicted, correct, edit_distance, ...; one row a
    question."""
    import pandas as pd

    frame = pd.read_parquet(evaluation.path)
    return frame[~frame["correct"]].reset_index(drop=True) if wrong_only else frame
