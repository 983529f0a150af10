"""Lists of runs as people look at them: filtered, sorted, page by page, with seeds folded"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, func, update
from sqlmodel import Session, col, select

from src.store.run_columns import Column, find_column
from src.store.run_filter import RunFilter
from src.store.sql import joined
from src.store.status import InvalidState
from src.store.tables import Checkpoint, LatestMetric, Run, Status

MAX_IDS = 10_000  # in one query: databases limit the number of values


def page_of_runs(
    session: Session,
    found: RunFilter,
    *,
    sort: str = "launched",
    ascending: bool = False,
    offset: int = 0,
    limit: int | None = None,
) -> Sequence[Run]:
    """The runs that a filter finds, sorted by a column, what has no value last.

    UnknownColumn for a column that there is none of.
    """
    order = _order(find_column(sort).sql, ascending)
    newest = col(Run.created_at).desc(), col(Run.id).desc()
    query = select(Run).where(*found.where()).order_by(*order, *newest).offset(offset)
    return session.exec(query.limit(limit) if limit is not None else query).all()


def scores_of_configs(session: Session, keys: Sequence[str], metric: str) -> dict[str, list[float]]:
    """The last scores of the completed runs of these configs, by `config_key`."""
    query = (
        select(Run.config_key, LatestMetric.value)
        .join(
            LatestMetric,
            and_(col(LatestMetric.run_id) == col(Run.id), col(LatestMetric.name) == metric),
        )
        .where(Run.status == Status.COMPLETED, col(Run.config_key).in_(keys))
    )
    found: dict[str, list[float]] = {}
    for key, value in session.exec(query):
        if key is not None and value is not None:
            found.setdefault(key, []).append(value)
    return found


def count_runs(session: Session, found: RunFilter) -> dict[Status, int]:
    """How many runs of each status a filter finds, if it did not ask for a status."""
    query = select(Run.status, func.count()).where(*found.where(any_status=True))
    return {Status(status): n for status, n in session.exec(query.group_by(Run.status))}


class RunState(NamedTuple):
    """The state of a run, which tells what can be done with it; a tenth of the cost of its row."""

    id: str
    status: str
    archived_at: float | None


def states(session: Session, found: RunFilter) -> list[RunState]:
    """The states of all runs that a filter finds, newest first."""
    newest = col(Run.created_at).desc(), col(Run.id).desc()
    return _states(session, _STATE.where(*found.where()).order_by(*newest))


def states_of(session: Session, ids: Sequence[str]) -> list[RunState]:
    """The states of those of these runs that there are, in the same order."""
    by_id: dict[str, RunState] = {}
    for first in range(0, len(ids), MAX_IDS):
        query = _STATE.where(col(Run.id).in_(ids[first : first + MAX_IDS]))
        by_id |= {state.id: state for state in _states(session, query)}
    return [by_id[run_id] for run_id in ids if run_id in by_id]


_STATE = select(Run.id, Run.status, Run.archived_at)


def _states(session: Session, query: Any) -> list[RunState]:
    return [RunState._make(row) for row in session.exec(query)]


def failed_since(session: Session, at: float, *, limit: int) -> Sequence[Run]:
    """Runs that failed or were interrupted since a time, the latest first: without archived ones,
    and without trials, which their sweep tells of."""
    query = select(Run).where(
        col(Run.status).in_([Status.FAILED, Status.INTERRUPTED]),
        col(Run.archived_at).is_(None),
        col(Run.sweep_id).is_(None),
        func.coalesce(Run.ended_at, Run.created_at) >= at,
    )
    return session.exec(query.order_by(col(Run.ended_at).desc()).limit(limit)).all()


def last_end(session: Session, host: str) -> float | None:
    """When the last run of a machine ended; None before the first end."""
    return session.exec(select(func.max(Run.ended_at)).where(Run.host == host)).one()


def count_configs(session: Session, found: RunFilter) -> int:
    """The number of configs among the runs that a filter finds."""
    query = select(func.count(func.distinct(_config()))).select_from(Run)
    return session.exec(query.where(*found.where())).one()


def page_of_configs(
    session: Session,
    found: RunFilter,
    *,
    sort: str = "launched",
    ascending: bool = False,
    offset: int = 0,
    limit: int,
) -> list[list[Run]]:
    """Runs as of `page_of_runs`, those of one config together, their seeds oldest first.

    Configs are sorted by the mean of a number, or the latest launch.
    """
    column = find_column(sort)
    order = _order(_of_group(column), ascending)
    newest = func.max(col(Run.created_at)).desc(), _config().desc()
    query = select(_config()).where(*found.where()).group_by(_config())
    keys = session.exec(query.order_by(*order, *newest).offset(offset).limit(limit)).all()
    members: dict[str, list[Run]] = {key: [] for key in keys}
    runs = select(Run, _config()).where(*found.where(), _config().in_(keys))
    for run, key in session.exec(runs.order_by(col(Run.created_at), col(Run.id))):
        members[key].append(run)
    return list(members.values())


def _config() -> ColumnElement[str]:
    """The key of a run's config; a run without one is a config of its own."""
    return func.coalesce(col(Run.config_key), col(Run.id))


def _of_group(column: Column) -> ColumnElement[object]:
    if column.type == "text":
        return func.min(column.sql)
    if column.kind != "metric":
        return func.max(column.sql) if column.type == "time" else func.avg(column.sql)
    # As a config is scored: by its completed seeds, where there are some.
    completed = and_(col(Run.status) == Status.COMPLETED, col(Run.stop_reason).is_(None))
    return func.coalesce(func.avg(case((completed, column.sql))), func.avg(column.sql))


def _order(value: ColumnElement[object], ascending: bool) -> tuple[ColumnElement[object], ...]:
    return ((value.asc() if ascending else value.desc()).nulls_last(),)


def tags_in_use(session: Session) -> list[str]:
    """The tags of the runs in the lists, the most frequent first."""
    listed = col(Run.archived_at).is_(None), col(Run.tags).is_not(None)
    tags = select(joined(col(Run.tags)).label("tags")).where(*listed).subquery()
    counts: dict[str, int] = {}
    for text, number in session.exec(select(tags.c.tags, func.count()).group_by(tags.c.tags)):
        for tag in (text or "").split(", "):
            counts[tag] = counts.get(tag, 0) + number
    counts.pop("", None)
    return sorted(counts, key=lambda tag: (-counts[tag], tag))


def recorded_metrics(session: Session) -> list[str]:
    """Names of all metrics that a run has recorded."""
    return list(session.exec(select(LatestMetric.name).distinct().order_by(LatestMetric.name)))


def last_checkpoints(session: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """{run id: step of its last checkpoint}, of those runs that have one."""
    query = select(Checkpoint.run_id, func.max(Checkpoint.step))
    query = query.where(col(Checkpoint.run_id).in_(run_ids)).group_by(Checkpoint.run_id)
    return dict(session.exec(query).all())


def archive(session: Session, runs: Iterable[Run], *, archived: bool) -> list[str]:
    """Take runs out of the lists, or put them back; their ids. InvalidState, and none is changed,
    if one waits or trains."""
    runs = list(runs)
    if archived and (busy := [run for run in runs if not Status(run.status).ended]):
        told = ", ".join(f"{run.id} is {run.status}" for run in busy)
        raise InvalidState(f"{told}; only runs that have ended are archived")
    ids = [run.id for run in runs]
    # Not those that somebody resumed since they were read.
    rows = and_(col(Run.id).in_(ids), col(Run.status).in_([s for s in Status if s.ended]))
    at = time.time() if archived else None
    session.execute(update(Run).where(rows).values(archived_at=at))
    return ids
