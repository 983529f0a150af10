"""Notices for people, from the transaction in which something happens until services have told it.

Whoever writes the end of a run or a sweep leaves a notice. `src/workers/notify.py` tells it.
"""

import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, update
from sqlmodel import Session, col, select

from src.store.tables import EventKind, Notice, NoticeKind, Run, Status, SweepStatus

MAX_AGE_SECONDS = 86_400.0  # older ones are no news any more
KEPT_SECONDS = 30 * 86_400.0
MAX_PROCESSES = 5  # that begin to tell a notice: each died, or could not write that it was told

_OF_STATUS = {
    Status.COMPLETED: NoticeKind.COMPLETED,
    Status.STOPPED: NoticeKind.STOPPED,
    Status.FAILED: NoticeKind.FAILED,
    Status.INTERRUPTED: NoticeKind.INTERRUPTED,
}
_RESUMES = (
    EventKind.RESUMED, EventKind.AUTO_RESUMED, EventKind.HEALED, EventKind.RELAUNCHED,
)  # fmt: skip


def leave(
    session: Session, kind: NoticeKind, subject: str | None = None, text: str | None = None
) -> None:
    """Leave a notice, which is there if the transaction of this session is committed."""
    session.add(_new(kind, subject, text))


def _new(kind: NoticeKind, subject: str | None = None, text: str | None = None) -> Notice:
    return Notice(kind=kind, subject=subject, text=text, at=time.time(), host=socket.gethostname())


def leave_end(session: Session, run_id: str, status: Status, reason: str | None) -> None:
    """Leave a notice of the end of an attempt. A sweep speaks for its trials, and once for all runs
    that confirm its best settings."""
    sweep, number = session.exec(select(Run.sweep_id, Run.number).where(Run.id == run_id)).one()
    if sweep is None:
        leave(session, _OF_STATUS[status], run_id, reason)
    elif number is None:
        leave(session, NoticeKind.SWEEP_CONFIRMED, sweep)


def leave_end_of_sweep(
    session: Session, sweep_id: str, status: SweepStatus, columns: Mapping[str, Any]
) -> None:
    """Leave a notice where a sweep completed or goes no further without a person; not where a
    person paused or cancelled it."""
    reason = columns.get("reason")
    if status == SweepStatus.COMPLETED:
        leave(session, NoticeKind.SWEEP_COMPLETED, sweep_id, reason)
    elif columns.get("failed_at") or (status == SweepStatus.CANCELLED and reason):
        leave(session, NoticeKind.SWEEP_FAILED, sweep_id, reason)


def leave_event(session: Session, run_id: str, kind: EventKind, text: str) -> None:
    """Leave a notice of an event that queues the next attempt of a run; of others none."""
    if kind not in _RESUMES:
        return
    if session.exec(select(Run.sweep_id).where(Run.id == run_id)).first() is None:
        leave(session, NoticeKind.RESUMED, run_id, text)


# Each of these takes the machine whose notices are meant; None: any.


def begin_telling(session: Session, host: str | None) -> None:
    """From now on notices are told: what happened before somebody asked for it is no news."""
    if not is_telling(session, host):
        now = time.time()
        before = update(Notice).where(col(Notice.told_at).is_(None), *_of(host))
        session.execute(before.values(told_at=now))
        session.add(_new(NoticeKind.SET_UP))


def end_telling(session: Session, host: str | None) -> None:
    """No service is left to tell anything."""
    session.execute(delete(Notice).where(col(Notice.kind) == NoticeKind.SET_UP, *_of(host)))


def is_telling(session: Session, host: str | None) -> bool:
    """True after `begin_telling`."""
    query = select(Notice.id).where(Notice.kind == NoticeKind.SET_UP, *_of(host))
    return session.exec(query.limit(1)).first() is not None


def untold(session: Session, host: str | None) -> Sequence[Notice]:
    """Notices that some service has not told yet, oldest first."""
    return session.exec(select(Notice).where(*_untold(host)).order_by(col(Notice.id))).all()


def is_untold(session: Session, host: str | None) -> bool:
    """True if `untold` has any."""
    return session.exec(select(Notice.id).where(*_untold(host)).limit(1)).first() is not None


def _untold(host: str | None) -> list[Any]:
    return [
        col(Notice.told_at).is_(None),
        Notice.kind != NoticeKind.SET_UP,
        Notice.at > time.time() - MAX_AGE_SECONDS,
        Notice.processes <= MAX_PROCESSES,
        *_of(host),
    ]


def _of(host: str | None) -> list[Any]:
    return [] if host is None else [Notice.host == host]


# --- what became of them --------------------------------------------------------------------------


def count_process(session: Session, ids: Sequence[int]) -> None:
    """Write that a process begins to tell these notices."""
    begun = update(Notice).where(col(Notice.id).in_(ids))
    session.execute(begun.values(processes=col(Notice.processes) + 1))


def mark_told(
    session: Session, ids: Sequence[int], outcomes: Mapping[str, str | None], *, last: Sequence[str]
) -> None:
    """Write that services told these notices, or why they did not: {service: problem or None}.

    A notice is done with when all services in `last` have an outcome.
    """
    for notice in session.exec(select(Notice).where(col(Notice.id).in_(ids))):
        notice.told = {**notice.told, **outcomes}
        if all(service in notice.told for service in last):
            notice.told_at = time.time()
        session.add(notice)


def forget_old(session: Session) -> None:
    """Delete notices that are older than anybody would look them up."""
    old = col(Notice.at) < time.time() - KEPT_SECONDS
    session.execute(delete(Notice).where(col(Notice.kind) != NoticeKind.SET_UP, old))


def forget(session: Session, kind: NoticeKind) -> None:
    """Delete the notices of a kind."""
    session.execute(delete(Notice).where(col(Notice.kind) == kind))


def recent(session: Session, *, after: int, limit: int) -> Sequence[Notice]:
    """The latest notices with a larger id than `after`, told or not, oldest first."""
    later = (col(Notice.id) > after, Notice.kind != NoticeKind.SET_UP)
    query = select(Notice).where(*later).order_by(col(Notice.id).desc()).limit(limit)
    return list(reversed(session.exec(query).all()))


def last_notice(session: Session) -> int:
    """Id of the newest notice; 0 if there is none."""
    return session.exec(select(func.max(Notice.id))).one() or 0


def last_of(session: Session, kind: NoticeKind) -> Notice | None:
    """The newest notice of a kind."""
    query = select(Notice).where(Notice.kind == kind).order_by(col(Notice.id).desc())
    return session.exec(query.limit(1)).first()
