"""Points of a run's metrics: recorded, and read as curves or latest values."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlmodel import Session, col, select

from src.store.database import upsert
from src.store.tables import BEGIN_AN_ATTEMPT, Event, LatestMetric, Metric

if TYPE_CHECKING:
    import pandas as pd


def record_metrics(
    session: Session, run_id: str, attempt: int, points: Sequence[tuple[int, str, float, float]]
) -> None:
    """Write (step, name, value, at) points; a point that is there already is replaced."""
    rows = {}
    for step, name, value, at in points:
        finite = value if math.isfinite(value) else None
        rows[name, step] = {
            "run_id": run_id,
            "attempt": attempt,
            "step": step,
            "name": name,
            "value": finite,
            "at": at,
        }
    upsert(session, Metric, list(rows.values()))
    # What was written last counts as latest, not the highest step: at its end a run reports its
    # restored best again.
    latest = {
        name: {k: v for k, v in rows[name, step].items() if k != "at"}
        for step, name, _, _ in points
    }
    upsert(session, LatestMetric, list(latest.values()))


def points_missing(
    session: Session,
    run_id: str,
    points: Mapping[int, Sequence[tuple[int, str, float, float]]],
) -> dict[int, list[tuple[int, str, float, float]]]:
    """Of {attempt: points}, those whose step and name the table does not have for the attempt."""
    query = select(Metric.attempt, Metric.step, Metric.name).where(Metric.run_id == run_id)
    there = {tuple(key) for key in session.execute(query)}
    found = {a: [p for p in rows if (a, p[0], p[1]) not in there] for a, rows in points.items()}
    return {attempt: rows for attempt, rows in found.items() if rows}


def latest_metrics(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """{run id: {metric name: the value written last}}."""
    found: dict[str, dict[str, float | None]] = {run_id: {} for run_id in run_ids}
    query = select(LatestMetric.run_id, LatestMetric.name, LatestMetric.value).where(
        col(LatestMetric.run_id).in_(run_ids)
    )
    for run_id, name, value in session.exec(query):
        found[run_id][name] = value
    return found


def metric_names(session: Session, run_id: str) -> list[str]:
    return list(
        session.exec(
            select(LatestMetric.name)
            .where(LatestMetric.run_id == run_id)
            .order_by(LatestMetric.name)
        )
    )


def curve(session: Session, run_id: str, name: str, *, after_step: int = -1) -> "pd.DataFrame":
    """One metric beyond a step: columns step (int), value (float, nan where none), at. Each step
    from its highest attempt; what an attempt did beyond the step that a later one went back to is
    left out."""
    import numpy as np  # these two take as long to load as all else, and most need no frame
    import pandas as pd

    known = "FROM metric WHERE run_id = :run AND name = :name AND step > :after"
    known += _kept(session, run_id)
    query = f"SELECT step, value, at, max(attempt) {known} GROUP BY step ORDER BY step"
    if session.get_bind().dialect.name == "postgresql":
        columns = "DISTINCT ON (step) step, value, at, attempt"
        query = f"SELECT {columns} {known} ORDER BY step, attempt DESC"
    values = {"run": run_id, "name": name, "after": after_step}
    rows = session.connection().execute(text(query), values).all()
    # By column, as pandas takes ten times as long to look at each row.
    steps, numbers, at, _ = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pd.DataFrame(
        {
            "step": np.array(steps, dtype="int64"),
            "value": np.array(numbers, dtype="float64"),
            "at": np.array(at, dtype="float64"),
        }
    )


def _kept(session: Session, run_id: str) -> str:
    """SQL that leaves out what attempts did beyond the step that a later one went back to."""
    began = session.execute(
        select(Event.attempt, Event.step).where(
            Event.run_id == run_id, col(Event.kind).in_(BEGIN_AN_ATTEMPT)
        )
    ).all()
    # Numbers of our own table, no text of anybody's.
    return "".join(f" AND (attempt >= {int(a)} OR step <= {int(s or 0)})" for a, s in began)


def metric_points(session: Session, run_id: str) -> list[dict[str, Any]]:
    """Every point of a run as {step, name, value}, by step and name; as in `curve`."""
    query = (
        select(Metric.step, Metric.name, Metric.value)
        .where(Metric.run_id == run_id)
        .where(text(_kept(session, run_id).removeprefix(" AND ") or "1 = 1"))
        .order_by(col(Metric.step), col(Metric.name), col(Metric.attempt))
    )
    points = {(step, name): value for step, name, value in session.exec(query)}
    return [{"step": step, "name": name, "value": value} for (step, name), value in points.items()]
