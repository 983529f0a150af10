"""Usage of machines: samples of their meters, and each run's share of their time and energy."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, update
from sqlmodel import Session, col, select

from src.store.database import upsert
from src.store.tables import ACTIVE, MachineSample, Run

KEPT_SECONDS = 7 * 86_400.0  # of samples: what a slot writes stays below 10 MB
METERS = tuple(
    name for name in MachineSample.model_fields if name not in ("host", "slot", "at")
)  # fmt: skip


def record_samples(session: Session, samples: Sequence[MachineSample]) -> None:
    """Write samples of one slot, and forget those that are too old."""
    if not samples:
        return
    last = samples[-1]
    upsert(session, MachineSample, [sample.model_dump() for sample in samples])
    session.execute(
        delete(MachineSample).where(
            col(MachineSample.host) == last.host,
            col(MachineSample.slot) == last.slot,
            col(MachineSample.at) < last.at - KEPT_SECONDS,
        )
    )


def add_usage(
    session: Session, token: str, run_ids: Sequence[str], *, machine_seconds: float,
    energy_wh: float | None,
) -> None:  # fmt: skip
    """Add a share of time and energy to each of these runs that the process with this token still
    trains."""
    values: dict[str, Any] = {
        "machine_seconds": func.coalesce(Run.machine_seconds, 0.0) + machine_seconds
    }
    if energy_wh is not None:
        values["energy_wh"] = func.coalesce(Run.energy_wh, 0.0) + energy_wh
    mine = col(Run.id).in_(run_ids), col(Run.token) == token, col(Run.status).in_(ACTIVE)
    session.execute(update(Run).where(*mine).values(values))


def samples_of(session: Session, run: Run, *, points: int) -> list[dict[str, float | None]]:
    """Meters of the machine while the last attempt of a run trained there, oldest first: means of
    at most `points` stretches of equal length. Empty where none are kept."""
    if run.started_at is None or run.slot is None:
        return []
    where = [
        col(MachineSample.host) == run.host,
        col(MachineSample.slot) == run.slot,
        col(MachineSample.at) >= run.started_at,
    ]
    if run.ended_at is not None:
        where.append(col(MachineSample.at) <= run.ended_at)
    first, last = session.execute(
        select(func.min(MachineSample.at), func.max(MachineSample.at)).where(*where)
    ).one()
    if first is None:
        return []
    length = max((last - first) / points, 1e-3) * 1.000001  # the last one is in the last stretch
    stretch = func.floor((MachineSample.at - first) / length)
    means = [func.avg(getattr(MachineSample, name)) for name in METERS]
    rows = session.execute(
        select(func.avg(MachineSample.at), *means)
        .where(*where)
        .group_by(stretch)
        .order_by(func.min(MachineSample.at))
    )
    return [dict(zip(("at", *METERS), row, strict=True)) for row in rows]


def usage_of_sweep(session: Session, sweep_id: str) -> tuple[float | None, float | None]:
    """The machine's seconds and the energy in Wh that all runs of a sweep took; None where nothing
    was measured."""
    sums = select(func.sum(Run.machine_seconds), func.sum(Run.energy_wh))
    seconds, energy = session.execute(sums.where(col(Run.sweep_id) == sweep_id)).one()
    return seconds, energy
