"""Answers to suites, and runs that were scored on one, for tests of verdicts and pages."""

import time

import numpy as np
import pandas as pd
from sqlalchemy import update

from src import paths, store
from src.store.tables import Run
from tests.helpers.store import fill_run


def frame(right: list[bool], *, first: int = 0, nats: float = 1.0) -> pd.DataFrame:
    """Answers to the questions `first`, `first` + 1, ..."""
    names = [f"word{first + i}" for i in range(len(right))]
    return pd.DataFrame(
        {
            "word": names,
            "question": [f"how many in {name}?" for name in names],
            "expected": ["abc"] * len(names),
            "predicted": ["abc" if one else "xyz" for one in right],
            "correct": right,
            "log_probability": [-nats] * len(names),
        }
    )


def fill_suite(run_id: str, step: int, right: np.ndarray, suite: str = "count") -> None:
    table = frame([bool(one) for one in right])
    file = paths.predictions_file(run_id, step, f"suite/{suite}")
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(file, index=False)
    with store.writing() as session:
        store.record_evaluation(
            session, run_id, 1, step, f"suite/{suite}", file,
            rows=len(table), correct=int(table["correct"].sum()),
        )  # fmt: skip


def fill_study(random: np.random.Generator) -> list[str]:
    """Three seeds of two tasks: count rises by spell_out, and not by correct."""
    base = random.random(150) < 0.2
    ids = []
    now = time.time() - 900
    for task, gain in (("tiny-spell", 0.4), ("tiny-correct", 0.0)):
        now += 1
        for seed in range(3):
            run_id = fill_run(task, name=task, training__seed=seed, created_at=now, rows=20)
            best = 100 if task == "tiny-spell" else 200
            with store.writing() as session:
                change = update(Run).where(Run.id == run_id)
                session.execute(change.values(best_step=best, created_at=now))
            fill_suite(run_id, 0, base)
            fill_suite(run_id, best, base | (random.random(150) < gain))
            ids.append(run_id)
    return ids
