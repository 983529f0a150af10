"""Sweeps, and queries over the runs that a sweep launched."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func, update
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from src.errors import did_you_mean
from src.store.database import changed_a_row
from src.store.notices import leave_end_of_sweep
from src.store.runs import UnknownRun
from src.store.status import MAX_FAILED_STARTS
from src.store.tables import LatestMetric, Metric, Run, Sweep, SweepStatus


def list_sweeps(session: Session, *, statuses: Iterable[SweepStatus] = ()) -> Sequence[Sweep]:
    """Sweeps, newest first."""
    query = select(Sweep).order_by(col(Sweep.created_at).desc(), col(Sweep.id).desc())
    if statuses := tuple(statuses):
        query = query.where(col(Sweep.status).in_(statuses))
    return session.exec(query).all()


def find_sweep(session: Session, name: str) -> Sweep:
    """The sweep with that id, or the newest with that name; UnknownRun names the closest match."""
    if by_id := session.get(Sweep, name):
        return by_id
    known = list_sweeps(session)
    if not known:
        raise UnknownRun(
            f"no sweep {name!r}: there are none yet; start one with `spelltune sweep launch FILE`"
        )
    named = next((sweep for sweep in known if sweep.name == name), None)
    if named is None:
        raise UnknownRun(f"no sweep {name!r}{did_you_mean(name, [s.id for s in known])}")
    return named


def change_sweep(
    session: Session, sweep_id: str, to: SweepStatus | None, *, leave: Iterable[SweepStatus],
    **columns: Any,
) -> bool:  # fmt: skip
    """Write a sweep's status (None keeps it) and columns; False if it is not in one of `leave`."""
    if to is not None:
        columns.setdefault("failed_at", None)
        columns["status"] = to
    changed = changed_a_row(
        session,
        update(Sweep)
        .where(col(Sweep.id) == sweep_id, col(Sweep.status).in_(tuple(leave)))
        .values(**columns),
    )
    if changed and to is not None:
        leave_end_of_sweep(session, sweep_id, to, columns)
    return changed


def driver_died(sweep: Sweep) -> bool:
    """True if the driver of a sweep was started as often as allowed and never came up; the caller
    knows that none lives now."""
    return _failed_starts(sweep) >= MAX_FAILED_STARTS


def _failed_starts(sweep: Sweep) -> int:
    return (sweep.failed_starts or 0) + (sweep.driver_started_at is not None)


def record_driver_start(session: Session, sweep: Sweep) -> bool:
    """Write that a driver is being started. One that was started before and did not come up counts
    as a failed start. False if another process was faster."""
    return changed_a_row(
        session,
        update(Sweep)
        .where(
            col(Sweep.id) == sweep.id,
            col(Sweep.driver_started_at).is_not_distinct_from(sweep.driver_started_at),
        )
        .values(driver_started_at=time.time(), failed_starts=_failed_starts(sweep) or None),
    )


def driver_came_up(session: Session, sweep_id: str) -> None:
    """Write that the driver of a sweep came through its first round."""
    row = update(Sweep).where(col(Sweep.id) == sweep_id)
    session.execute(row.values(failed_starts=None, driver_started_at=None))


def fail_sweep(session: Session, sweep_id: str, reason: str) -> bool:
    """Pause a sweep because its driver failed, until somebody resumes it."""
    return change_sweep(
        session, sweep_id, SweepStatus.PAUSED, leave=(SweepStatus.ACTIVE, SweepStatus.PAUSED),
        failed_at=time.time(), reason=reason,
    )  # fmt: skip


def acquire_lease(session: Session, sweep_id: str, *, host: str, lease: float) -> bool:
    """Take or renew the lease of a sweep for this machine's driver.

    False if another machine's driver renewed it in the last `lease` seconds.
    """
    now = time.time()
    return changed_a_row(
        session,
        update(Sweep)
        .where(col(Sweep.id) == sweep_id)
        .where(
            col(Sweep.host).is_(None)
            | (col(Sweep.host) == host)
            | (func.coalesce(Sweep.seen_at, 0) < now - lease)
        )
        .values(host=host, seen_at=now),
    )


def list_trials(session: Session, sweep_id: str) -> Sequence[Run]:
    """Trials of a sweep by number, without `config` and `used`, as there may be thousands."""
    return session.exec(
        select(Run)
        .where(Run.sweep_id == sweep_id, col(Run.number).is_not(None))
        .order_by(col(Run.number))
        .options(defer(Run.config, raiseload=True), defer(Run.used, raiseload=True))  # type: ignore[arg-type]
    ).all()


def trial_counts(session: Session) -> dict[str, dict[str, int]]:
    """Number of trials by sweep and status: {sweep id: {status: count}}."""
    counts: dict[str, dict[str, int]] = {}
    query = (
        select(Run.sweep_id, Run.status, func.count())
        .where(col(Run.number).is_not(None))
        .group_by(col(Run.sweep_id), col(Run.status))
        .order_by(col(Run.status))
    )
    for sweep_id, status, count in session.execute(query):
        counts.setdefault(sweep_id, {})[status] = count
    return counts


def scores_of_all(
    session: Session, names: Iterable[str]
) -> dict[str, list[tuple[Any, dict[str, float | None]]]]:
    """The trials of all sweeps by number, in two queries: {sweep id: [(trial, its {metric: last
    value})]}. Of a trial a row has id, number, status, stop_reason, end_reason, searched and
    data_fingerprint."""
    values: dict[str, dict[str, float | None]] = {}
    scored = (
        select(LatestMetric.run_id, LatestMetric.name, LatestMetric.value)
        .join(Run, col(Run.id) == col(LatestMetric.run_id))
        .where(col(Run.number).is_not(None), col(LatestMetric.name).in_(tuple(names)))
    )
    for run_id, name, value in session.exec(scored):
        values.setdefault(run_id, {})[name] = value
    fingerprint = col(Run.used)["data_fingerprint"].as_string().label("data_fingerprint")
    trials = (
        select(Run.sweep_id, Run.id, Run.number, fingerprint)
        .add_columns(*map(col, (Run.status, Run.stop_reason, Run.end_reason, Run.searched)))
        .where(col(Run.number).is_not(None))
        .order_by(col(Run.number))
    )
    found: dict[str, list[tuple[Any, dict[str, float | None]]]] = {}
    for trial in session.execute(trials):
        found.setdefault(trial.sweep_id, []).append((trial, values.get(trial.id, {})))
    return found


def runs_of_sweep(session: Session, sweep_id: str) -> Sequence[Run]:
    """All runs that a sweep launched: its trials and its confirmations."""
    return [*list_trials(session, sweep_id), *confirmations(session, sweep_id)]


def confirmations(session: Session, sweep_id: str) -> Sequence[Run]:
    """Runs that repeat the best parameters with other seeds, outside the search; oldest first."""
    return session.exec(
        select(Run)
        .where(Run.sweep_id == sweep_id, col(Run.number).is_(None))
        .order_by(col(Run.created_at), col(Run.id))
    ).all()


def trial_metrics(
    session: Session, sweep_id: str, names: Iterable[str]
) -> dict[str, dict[str, float | None]]:
    """The last written values of a sweep's runs: {run id: {metric: value}}."""
    values: dict[str, dict[str, float | None]] = {}
    query = (
        select(LatestMetric.run_id, LatestMetric.name, LatestMetric.value)
        .join(Run, col(Run.id) == col(LatestMetric.run_id))
        .where(Run.sweep_id == sweep_id, col(LatestMetric.name).in_(tuple(names)))
    )
    for run_id, name, value in session.exec(query):
        values.setdefault(run_id, {})[name] = value
    return values


def data_fingerprints(session: Session, sweep_id: str) -> dict[str, str | None]:
    """{run id: fingerprint of the data that it trains and is scored on} of a sweep's trials; None
    before a trial has read them."""
    fingerprint = col(Run.used)["data_fingerprint"].as_string()
    query = select(Run.id, fingerprint).where(
        Run.sweep_id == sweep_id, col(Run.number).is_not(None)
    )
    return dict(session.exec(query).all())


def reports(session: Session, sweep_id: str, name: str) -> Sequence[tuple[str, int, float, float]]:
    """(run id, step, value, time) of one metric of all trials after step 0, in order of time."""
    query = (
        select(Metric.run_id, Metric.step, Metric.value, Metric.at)
        .join(Run, col(Run.id) == col(Metric.run_id))
        .where(Run.sweep_id == sweep_id, col(Run.number).is_not(None))
        .where(Metric.name == name, Metric.step > 0, col(Metric.value).is_not(None))
        .order_by(col(Metric.at), col(Metric.run_id), col(Metric.step))
    )
    return [tuple(row) for row in session.execute(query)]


def processes(session: Session, sweep_id: str) -> list[dict[str, Any]]:
    """One dict per trainer process: trials, steps, seconds, peak GiB.

    Counts trials by the process of their last attempt. Seconds are from the first start of a trial
    to the last end.
    """
    memory = (
        select(LatestMetric.run_id, func.max(LatestMetric.value).label("gib"))
        .where(col(LatestMetric.name).in_(("gpu/memory_gib", "cpu/memory_gib")))
        .group_by(col(LatestMetric.run_id))
        .subquery()
    )
    query = (
        select(
            func.count(),
            func.sum(Run.step),
            func.max(Run.ended_at) - func.min(Run.started_at),
            func.max(memory.c.gib),
        )
        .outerjoin(memory, memory.c.run_id == Run.id)
        .where(Run.sweep_id == sweep_id, col(Run.number).is_not(None))
        .where(col(Run.token).is_not(None), col(Run.ended_at).is_not(None))
        .group_by(col(Run.token))
        .order_by(func.min(Run.started_at))
    )
    names = ("trials", "steps", "seconds", "gib")
    return [dict(zip(names, row, strict=True)) for row in session.execute(query)]
