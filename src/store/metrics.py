"""Metrics of a run: record points, read curves and latest values."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, text
from sqlmodel import Session, col, select

from src.store.database import upsert
from src.store.tables import BEGIN_AN_ATTEMPT, Event, LatestMetric, Metric

if TYPE_CHECKING:
    import pandas as pd


Point = tuple[int, str, float, float]  # step, name, value, time in UTC epoch seconds


def record_metrics(session: Session, run_id: str, attempt: int, points: Sequence[Point]) -> None:
    """Write points of an attempt; a point of the same step and name is replaced."""
    record_points(session, {(run_id, attempt): points})


def record_points(session: Session, points: Mapping[tuple[str, int], Sequence[Point]]) -> None:
    """`record_metrics` of many attempts: {(run id, attempt): points}."""
    rows: dict[tuple[str, int, str, int], dict[str, Any]] = {}
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for (run_id, attempt), own in points.items():
        for step, name, value, at in own:
            row = {
                "run_id": run_id,
                "attempt": attempt,
                "step": step,
                "name": name,
                "value": value if math.isfinite(value) else None,
            }
            rows[run_id, attempt, name, step] = row | {"at": at}
            # By time, not by step: at its end a run reports the scores of its restored best step.
            latest[run_id, name] = row
    upsert(session, Metric, list(rows.values()))
    upsert(session, LatestMetric, list(latest.values()))


def points_missing(
    session: Session, run_id: str, points: Mapping[int, Sequence[Point]]
) -> dict[int, list[Point]]:
    """The subset of {attempt: points} whose step and name the table lacks for the attempt."""
    query = select(Metric.attempt, Metric.step, Metric.name).where(Metric.run_id == run_id)
    known = {tuple(key) for key in session.execute(query)}
    missing = {a: [p for p in rows if (a, p[0], p[1]) not in known] for a, rows in points.items()}
    return {attempt: rows for attempt, rows in missing.items() if rows}


def latest_metrics(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """The last written value of each metric: {run id: {name: value}}."""
    values: dict[str, dict[str, float | None]] = {run_id: {} for run_id in run_ids}
    query = select(LatestMetric.run_id, LatestMetric.name, LatestMetric.value).where(
        col(LatestMetric.run_id).in_(run_ids)
    )
    for run_id, name, value in session.exec(query):
        values[run_id][name] = value
    return values


def metric_names(session: Session, run_id: str) -> list[str]:
    """Names of the metrics that a run has recorded."""
    return list(
        session.exec(
            select(LatestMetric.name)
            .where(LatestMetric.run_id == run_id)
            .order_by(LatestMetric.name)
        )
    )


def curve(session: Session, run_id: str, name: str, *, after_step: int = -1) -> "pd.DataFrame":
    """One metric after a step: columns step (int64), value (float64, nan if null), at (float64).

    A step that several attempts reached has the value of the last one. Points after the step from
    which a later attempt resumed are left out.
    """
    import numpy as np  # with pandas half of the import time, and most callers need no frame
    import pandas as pd

    table = "FROM metric WHERE run_id = :run AND name = :name AND step > :after"
    table += _without_abandoned(session, run_id)
    query = f"SELECT step, value, at, max(attempt) {table} GROUP BY step ORDER BY step"
    if session.get_bind().dialect.name == "postgresql":
        columns = "DISTINCT ON (step) step, value, at, attempt"
        query = f"SELECT {columns} {table} ORDER BY step, attempt DESC"
    values = {"run": run_id, "name": name, "after": after_step}
    rows = session.connection().execute(text(query), values).all()
    # Column by column: pandas takes ten times as long for a list of rows.
    steps, numbers, at, _ = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pd.DataFrame(
        {
            "step": np.array(steps, dtype="int64"),
            "value": np.array(numbers, dtype="float64"),
            "at": np.array(at, dtype="float64"),
        }
    )


def curves(
    session: Session, run_ids: Sequence[str], name: str
) -> dict[str, list[tuple[int, float]]]:
    """One metric of several runs in one query: {run id: [(step, value)]}, without what is null.

    As `curve`: a step has the value of its last attempt, and abandoned points are left out.
    """
    starts: dict[str, list[tuple[int, int]]] = {}
    begun = select(Event.run_id, Event.attempt, Event.step).where(
        col(Event.run_id).in_(run_ids), col(Event.kind).in_(BEGIN_AN_ATTEMPT)
    )
    for run_id, attempt, step in session.execute(begun):
        starts.setdefault(run_id, []).append((attempt, step or 0))
    points: dict[str, dict[int, float]] = {run_id: {} for run_id in run_ids}
    query = (
        select(Metric.run_id, Metric.step, Metric.attempt, Metric.value)
        .where(col(Metric.run_id).in_(run_ids), Metric.name == name)
        .where(col(Metric.value).is_not(None))
        .order_by(col(Metric.run_id), col(Metric.step), col(Metric.attempt))
    )
    for run_id, step, attempt, value in session.execute(query):
        if all(attempt >= a or step <= s for a, s in starts.get(run_id, [])):
            points[run_id][step] = value
    return {run_id: list(found.items()) for run_id, found in points.items()}


def moments(
    session: Session, run_id: str, attempt: int, names: Sequence[str], *, limit: int
) -> list[tuple[int, float]]:
    """The last steps at which an attempt recorded one of these metrics, and when the last of them
    was: [(step, time)], oldest first."""
    query = (
        select(Metric.step, func.max(Metric.at))
        .where(Metric.run_id == run_id, Metric.attempt == attempt, col(Metric.name).in_(names))
        .group_by(col(Metric.step))
        .order_by(col(Metric.step).desc())
        .limit(limit)
    )
    return [(int(step), float(at)) for step, at in session.execute(query)][::-1]


def _without_abandoned(session: Session, run_id: str) -> str:
    """SQL predicate: drop points after the step from which a later attempt resumed."""
    starts = session.execute(
        select(Event.attempt, Event.step).where(
            Event.run_id == run_id, col(Event.kind).in_(BEGIN_AN_ATTEMPT)
        )
    ).all()
    # Safe to format: integers of our own table.
    return "".join(f" AND (attempt >= {int(a)} OR step <= {int(s or 0)})" for a, s in starts)


def metric_points(session: Session, run_id: str) -> list[dict[str, Any]]:
    """Every point of a run as {step, name, value}, by step and name; selected as in `curve`."""
    query = (
        select(Metric.step, Metric.name, Metric.value)
        .where(Metric.run_id == run_id)
        .where(text(_without_abandoned(session, run_id).removeprefix(" AND ") or "1 = 1"))
        .order_by(col(Metric.step), col(Metric.name), col(Metric.attempt))
    )
    points = {(step, name): value for step, name, value in session.exec(query)}
    return [{"step": step, "name": name, "value": value} for (step, name), value in points.items()]
