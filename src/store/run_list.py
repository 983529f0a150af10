"""Lists of runs as people look at them: filtered, sorted, page by page, with seeds folded"""

import time
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, and_, func, update
from sqlmodel import Session, col, select

from src.store.run_columns import Column, find_column
from src.store.run_filter import RunFilter
from src.store.sql import joined
from src.store.status import InvalidState
from src.store.tables import Checkpoint, LatestMetric, Run, Status


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


def count_runs(session: Session, found: RunFilter) -> dict[Status, int]:
    """How many runs of each status a filter finds, if it did not ask for a status."""
    query = select(Run.status, func.count()).where(*found.where(any_status=True))
    return {Status(status): n for status, n in session.exec(query.group_by(Run.status))}


def ids_of(session: Session, found: RunFilter) -> list[str]:
    """The ids of all runs that a filter finds, newest first."""
    newest = col(Run.created_at).desc(), col(Run.id).desc()
    return list(session.exec(select(Run.id).where(*found.where()).order_by(*newest)))


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
    return func.max(column.sql) if column.type == "time" else func.avg(column.sql)


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


def checkpoint_bytes(session: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """{run id: bytes of its checkpoints}, of those runs that have some."""
    query = select(Checkpoint.run_id, func.sum(Checkpoint.size_bytes))
    query = query.where(col(Checkpoint.run_id).in_(run_ids)).group_by(Checkpoint.run_id)
    return {run_id: int(size) for run_id, size in session.exec(query)}


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
