"""All that moves a run from one status to the next."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from src.config import RunConfig
from src.errors import UserError
from src.store.database import changed_a_row
from src.store.runs import record_event
from src.store.tables import ACTIVE, RESUMABLE, EventKind, Run, Status


class InvalidState(UserError, ValueError):
    """Why this cannot be done to a sweep or a queued run, and what can be done instead."""


def move_to_front(session: Session, runs: Sequence[Run]) -> list[str]:
    """Let these queued runs be the next to start, in this order; their ids."""
    if late := next((run for run in runs if run.status != Status.QUEUED), None):
        raise InvalidState(
            f"{late.id} is {late.status}: only queued runs have a place in the queue"
        )
    place = func.coalesce(Run.queue_at, Run.created_at)
    first = session.exec(select(func.min(place)).where(Run.status == Status.QUEUED)).one()
    for number, run in enumerate(runs):
        run.queue_at = first - len(runs) + number
        session.add(run)
    return [run.id for run in runs]


def hold(session: Session, runs: Sequence[Run], *, held: bool) -> list[str]:
    """Let these queued runs wait until they are let go, or let them go to their old places; their
    ids. InvalidState where one is not queued."""
    if late := next((run for run in runs if run.status != Status.QUEUED), None):
        raise InvalidState(f"{late.id} is {late.status}: only queued runs can be held or released")
    if free := next((run for run in runs if not held and run.held_at is None), None):
        raise InvalidState(f"{free.id} is not held: it waits for its turn in the queue")
    for run in runs:
        run.held_at = (run.held_at or time.time()) if held else None
        run.reason = "held until somebody releases it" if held else None
        session.add(run)
    return [run.id for run in runs]


def assign_slot(session: Session, run: Run, slot: int, *, host: str, now: float) -> bool:
    """Let a QUEUED run start in a slot of this machine. False: another machine was faster."""
    return changed_a_row(
        session,
        update(Run)
        .where(
            col(Run.id) == run.id,
            col(Run.status) == Status.QUEUED,
            col(Run.slot_given_at).is_not_distinct_from(run.slot_given_at),
        )
        .values(slot=slot, slot_given_at=now, host=host),
    )


def claim(session: Session, run: Run, **owner: Any) -> bool:
    """Make a QUEUED run a supervisor's, whose slot, token, supervisor_pid and boot_id are `owner`.

    False: another one was faster, or the run was cancelled or held.
    """
    now = time.time()
    return changed_a_row(
        session,
        update(Run)
        .where(col(Run.id) == run.id, col(Run.status) == Status.QUEUED, col(Run.held_at).is_(None))
        .values(
            status=Status.STARTING,
            started_at=now,
            ended_at=None,
            heartbeat_at=now,
            trainer_pid=None,
            reason=None,
            phase="starting",
            **owner,
        ),
    )


def release(session: Session, run: Run) -> bool:
    """Put a claimed run that no trainer ever read back into the queue, where it stood."""
    return transition(
        session, run, Status.QUEUED, leave=[Status.STARTING], token=None, slot=None,
        slot_given_at=None, supervisor_pid=None, trainer_pid=None, phase=None,
    )  # fmt: skip


def transition(
    session: Session, run: Run, to: Status | None, *, leave: Iterable[Status], **columns: Any
) -> bool:
    """Change a run's status (None keeps it) and columns if it is in one of `leave` and its attempt
    and token are still those of `run`.

    False means it is no longer yours: exit without writing anything else.
    """
    if to is not None:
        columns["status"] = to
    return changed_a_row(
        session,
        update(Run)
        .where(
            col(Run.id) == run.id,
            col(Run.status).in_(tuple(leave)),
            col(Run.attempt) == run.attempt,
            col(Run.token).is_not_distinct_from(run.token),
        )
        .values(**columns),
    )


def end(session: Session, run: Run, verdict: Mapping[str, Any]) -> bool:
    """Write the last status of an attempt: {status, reason, step, best_step}; see `transition`."""
    columns = {k: verdict[k] for k in ("step", "best_step") if verdict.get(k) is not None}
    return transition(
        session,
        run,
        Status(verdict["status"]),
        leave=ACTIVE,
        reason=verdict.get("reason"),
        ended_at=time.time(),
        phase=None,
        **columns,
    )


def request_stop(session: Session, run_id: str, *, reason: str | None = None) -> Status:
    """Ask a run to stop: a QUEUED one is CANCELLED at once, an active one stops at its next step
    boundary. With a `reason` that completes it: its sweep has seen enough of it.

    Returns the status afterwards; a run that has ended stays as it is.
    """
    now = time.time()
    session.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.status) == Status.QUEUED)
        .values(
            status=Status.CANCELLED, ended_at=now, reason=reason or "cancelled before it started"
        )
    )
    session.execute(
        update(Run)
        .where(
            col(Run.id) == run_id, col(Run.status).in_(ACTIVE), col(Run.stop_requested_at).is_(None)
        )
        .values(stop_requested_at=now, stop_reason=reason)
    )
    return Status(session.exec(select(Run.status).where(Run.id == run_id)).one())


def requeue_cancelled(session: Session, run_id: str) -> None:
    """Queue a run again that was CANCELLED before it started."""
    session.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.status) == Status.CANCELLED)
        .values(status=Status.QUEUED, ended_at=None, reason=None)
    )


def owns(session: Session, run: Run) -> bool:
    """Whether this attempt with this token may still write."""
    now = session.exec(select(Run.attempt, Run.token, Run.status).where(Run.id == run.id)).first()
    return bool(now and tuple(now[:2]) == (run.attempt, run.token) and Status(now[2]).active)


def requeue(
    session: Session, run: Run, *, resume_step: int | None, config: RunConfig | None
) -> bool:
    """Put a run that ended early in the queue again, as the next attempt from a checkpoint (None:
    from scratch), with other settings where `config` is given."""
    columns: dict[str, Any] = {} if config is None else {"config": config.model_dump()}
    return transition(
        session,
        run,
        Status.QUEUED,
        leave=RESUMABLE,
        attempt=run.attempt + 1,
        resume_step=resume_step,
        step=resume_step,
        token=None,
        slot=None,
        slot_given_at=None,
        stop_requested_at=None,
        stop_reason=None,
        ended_at=None,
        reason=None,
        **columns,
    )


def restart_from_scratch(session: Session, run: Run, reason: str) -> bool:
    """Let a QUEUED run start from scratch, for the checkpoint that it should go on from is lost."""
    anew = {"resume_step": None, "step": None}
    if not transition(session, run, None, leave=[Status.QUEUED], **anew):
        return False
    record_event(session, run.id, run.attempt, EventKind.RELAUNCHED, f"from scratch: {reason}")
    return True


def stop_reason(session: Session, run_id: str) -> str | None:
    """Why a run was asked to stop, where that completes it."""
    return session.exec(select(Run.stop_reason).where(Run.id == run_id)).first()


def stop_requested(session: Session, run_id: str) -> bool:
    return session.exec(select(Run.stop_requested_at).where(Run.id == run_id)).first() is not None
