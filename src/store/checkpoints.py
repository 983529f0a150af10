"""Checkpoints of a run, and the evaluations of its splits."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import exists, update
from sqlmodel import Session, col, delete, select

from src.errors import did_you_mean
from src.files import bytes_of
from src.store.database import upsert
from src.store.runs import UnknownRun, find_checkpoint
from src.store.tables import Checkpoint, Evaluation, Run

if TYPE_CHECKING:
    import pandas as pd


def set_best(session: Session, run_id: str, step: int | None) -> None:
    """Set the best step of a run that resumes from an earlier one."""
    session.execute(update(Run).where(col(Run.id) == run_id).values(best_step=step))
    rows = update(Checkpoint).where(col(Checkpoint.run_id) == run_id)
    session.execute(rows.values(is_best=col(Checkpoint.step) == step))


def record_checkpoint(
    session: Session, run_id: str, attempt: int, step: int, path: Path, *, is_best: bool
) -> None:
    """Record a complete checkpoint directory; a new best one replaces the old."""
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
                "size_bytes": bytes_of(path),
                "is_best": is_best,
                "created_at": time.time(),
            }
        ],
    )


def remove_checkpoint(session: Session, run_id: str, step: int) -> None:
    """Delete the row of a checkpoint whose directory is gone."""
    session.execute(
        delete(Checkpoint).where(col(Checkpoint.run_id) == run_id, col(Checkpoint.step) == step)
    )


def list_checkpoints(session: Session, run_id: str) -> Sequence[Checkpoint]:
    """Checkpoints of a run, by step."""
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
    """Record one evaluation of a split, whose predictions are in the Parquet file at `path`."""
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
    """Delete the evaluations after the step from which the next attempt resumes."""
    session.execute(
        delete(Evaluation).where(
            col(Evaluation.run_id) == run_id, col(Evaluation.step) > after_step
        )
    )


def list_evaluations(
    session: Session, run_id: str, *, split: str | None = None
) -> Sequence[Evaluation]:
    """Evaluations of a run, by step."""
    query = select(Evaluation).where(Evaluation.run_id == run_id)
    if split:
        query = query.where(Evaluation.split == split)
    return session.exec(query.order_by(col(Evaluation.step))).all()


def final_evaluation(session: Session, run: Run, *, split: str = "validation") -> Evaluation | None:
    """The evaluation of the kept adapter (the best step), or the latest; None before the first."""
    return _kept(list_evaluations(session, run.id, split=split), run)


def _kept(known: Sequence[Evaluation], run: Run) -> Evaluation | None:
    """Of the evaluations of a run on one split, by step, that of the adapter that it keeps."""
    return next((e for e in known if e.step == run.best_step), known[-1] if known else None)


def final_evaluations(session: Session, runs: Sequence[Run]) -> dict[tuple[str, str], Evaluation]:
    """`final_evaluation` of many runs in one query: {(run id, split): evaluation}."""
    query = select(Evaluation).where(col(Evaluation.run_id).in_([run.id for run in runs]))
    known: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in session.exec(query.order_by(col(Evaluation.step))):
        known.setdefault((evaluation.run_id, evaluation.split), []).append(evaluation)
    by_id = {run.id: run for run in runs}
    kept = {key: _kept(found, by_id[key[0]]) for key, found in known.items()}
    return {key: evaluation for key, evaluation in kept.items() if evaluation is not None}


def suite_evaluations(
    session: Session, run_ids: Sequence[str], prefix: str
) -> Sequence[Evaluation]:
    """Evaluations of runs on suites, whose splits begin with `prefix`, by step."""
    query = select(Evaluation).where(
        col(Evaluation.run_id).in_(run_ids), col(Evaluation.split).startswith(prefix)
    )
    return session.exec(query.order_by(col(Evaluation.step), col(Evaluation.created_at))).all()


def newest_scored(session: Session) -> str | None:
    """Id of the newest run that has an evaluation and is not archived."""
    query = select(Run.id).where(exists().where(col(Evaluation.run_id) == col(Run.id)))
    query = query.where(col(Run.archived_at).is_(None))
    return session.exec(query.order_by(col(Run.created_at).desc(), col(Run.id).desc())).first()


def scored(
    session: Session, name: str, *, split: str = "validation"
) -> tuple[Run, Evaluation, Sequence[Evaluation]]:
    """The run and the evaluation that `RUN` (its kept adapter) or `RUN@STEP` names.

    Third, all evaluations of the run on that split. UnknownRun says which steps there are.
    """
    run, step = find_checkpoint(session, name)
    known = list_evaluations(session, run.id, split=split)
    at = next((e for e in known if e.step == step), None)
    evaluation = _kept(known, run) if step is None else at
    if evaluation is None:
        steps = ", ".join(str(e.step) for e in known)
        others = sorted({e.split for e in list_evaluations(session, run.id)})
        why = f"; its status is {run.status}"
        if known:
            why = f" at step {step}; it was at {steps}"
        elif others:
            why = f"{did_you_mean(split, others) or '.'} It was on {', '.join(others)}"
        raise UnknownRun(f"{run.id} has not been scored on the {split} split{why}")
    return run, evaluation, known


def predictions(evaluation: Evaluation) -> "pd.DataFrame":
    """Predictions of an evaluation, one row per question.

    Columns word, question, expected, predicted, correct, edit_distance, ...
    """
    import pandas as pd

    return pd.read_parquet(evaluation.path)
