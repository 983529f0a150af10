"""Everything that moves a run: its place in the queue, and each step from one status to the next.

`_move` is the only function that writes the status of a row that exists. It checks TRANSITIONS,
from which scripts/state_diagram.py draws the diagram in docs/architecture.md.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, func, update
from sqlmodel import Session, col, select

from src.config import RunConfig
from src.errors import UserError
from src.store.database import changed_a_row
from src.store.notices import leave_end
from src.store.outcome import EndReason, Outcome
from src.store.runs import config_columns, record_event
from src.store.tables import ACTIVE, RESUMABLE, EventKind, Run, Status

# Starts in a row that end before a trainer has read the run; then it is FAILED.
MAX_FAILED_STARTS = 2

HELD_REASON = "held until somebody releases it"

ENDS = frozenset({Status.COMPLETED, Status.STOPPED, Status.FAILED, Status.INTERRUPTED})

TRANSITIONS: dict[Status, frozenset[Status]] = {
    # Claimed by a supervisor; taken out of the queue; no supervisor ever started.
    Status.QUEUED: frozenset({Status.STARTING, Status.CANCELLED, Status.FAILED}),
    # First metric; stop asked for; never read by the trainer of its pack.
    Status.STARTING: ENDS | {Status.RUNNING, Status.STOPPING, Status.QUEUED},
    Status.RUNNING: ENDS | {Status.STOPPING},
    Status.STOPPING: ENDS,
    # The next attempt.
    Status.STOPPED: frozenset({Status.QUEUED}),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.INTERRUPTED: frozenset({Status.QUEUED}),
    # Its sweep was given more budget.
    Status.CANCELLED: frozenset({Status.QUEUED}),
    Status.COMPLETED: frozenset(),
}


class InvalidState(UserError, ValueError):
    """A run or a sweep is not in a state in which this can be done; says what can be done."""


class InvalidTransition(RuntimeError):
    """A programming error: the caller asked for a change of status that TRANSITIONS lacks."""


def _move(
    session: Session,
    run_id: str,
    to: Status,
    *conditions: ColumnElement[bool],
    leave: Iterable[Status],
    end_reason: EndReason | None = None,
    **columns: Any,
) -> bool:
    """Write a status and other columns if the run is in one of `leave` and all conditions hold.

    `end_reason` belongs to a status that ends an attempt, and is cleared by every other one.
    """
    leave = tuple(leave)
    for status in leave:
        if to not in TRANSITIONS[status]:
            raise InvalidTransition(f"no run goes from {status} to {to}")
    if to.ended != (end_reason is not None) or (end_reason and end_reason.status != to):
        raise InvalidTransition(f"{to} for the reason {end_reason}")
    where = (col(Run.id) == run_id, col(Run.status).in_(leave), *conditions)
    listed = {} if to.ended else {"archived_at": None}  # what waits or trains is in the lists
    columns |= {"status": to, "end_reason": end_reason, **listed}
    moved = changed_a_row(session, update(Run).where(*where).values(**columns))
    if moved and to in ENDS:
        leave_end(session, run_id, to, columns.get("reason"))
    return moved


def _is_same_attempt(run: Run) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Conditions that fail once another attempt or another supervisor has the run."""
    token = col(Run.token).is_not_distinct_from(run.token)
    return col(Run.attempt) == run.attempt, token


def transition(
    session: Session, run: Run, to: Status, *, leave: Iterable[Status], **columns: Any
) -> bool:
    """Move a run that is in one of `leave`, if its attempt and token are still those of `run`.

    False means that the caller does not own it any more: it must not write anything else.
    InvalidTransition for a change that TRANSITIONS does not have.
    """
    return _move(session, run.id, to, *_is_same_attempt(run), leave=leave, **columns)


def update_attempt(
    session: Session, run: Run, *, leave: Iterable[Status] = ACTIVE, **columns: Any
) -> bool:
    """Write columns of an active run, its status aside; False as in `transition`."""
    if "status" in columns or "end_reason" in columns:
        raise InvalidTransition("a status is written by `transition`")
    where = (col(Run.id) == run.id, col(Run.status).in_(tuple(leave)), *_is_same_attempt(run))
    return changed_a_row(session, update(Run).where(*where).values(**columns))


def owns(session: Session, run: Run) -> bool:
    """True if this attempt with this token may still write."""
    row = session.exec(select(Run.attempt, Run.token, Run.status).where(Run.id == run.id)).first()
    return bool(row and tuple(row[:2]) == (run.attempt, run.token) and Status(row[2]).active)


# --- an attempt, from its slot to its end ---------------------------------------------------------


def assign_slot(session: Session, run: Run, slot: int, *, host: str, now: float) -> bool:
    """Give a QUEUED run a slot of this machine; False if another machine was faster.

    A run that had one of this machine already did not start there, which counts as a failed start.
    """
    again = run.slot_given_at is not None and run.host == host
    return changed_a_row(
        session,
        update(Run)
        .where(
            col(Run.id) == run.id,
            col(Run.status) == Status.QUEUED,
            col(Run.slot_given_at).is_not_distinct_from(run.slot_given_at),
        )
        .values(
            slot=slot,
            slot_given_at=now,
            host=host,
            failed_starts=(run.failed_starts or 0) + 1 if again else run.failed_starts,
        ),
    )


def claim(session: Session, run: Run, **owner: Any) -> bool:
    """Make a QUEUED run a supervisor's, whose slot, token, supervisor_pid and boot_id are `owner`.

    False if another supervisor was faster, or if the run was cancelled or held.
    """
    now = time.time()
    return _move(
        session,
        run.id,
        Status.STARTING,
        col(Run.held_at).is_(None),
        leave=[Status.QUEUED],
        started_at=now,
        ended_at=None,
        heartbeat_at=now,
        trainer_pid=None,
        reason=None,
        phase="starting",
        **owner,
    )


def release(session: Session, run: Run, *, failed_starts: int | None = None) -> bool:
    """Put a claimed run that no trainer ever read back to its old place in the queue.

    `failed_starts` is the number of such starts in a row; a caller ends the run instead once it is
    MAX_FAILED_STARTS.
    """
    return transition(
        session, run, Status.QUEUED, leave=[Status.STARTING], token=None, slot=None,
        slot_given_at=None, supervisor_pid=None, trainer_pid=None, phase=None, started_at=None,
        failed_starts=failed_starts,
    )  # fmt: skip


def release_slot(session: Session, run: Run) -> bool:
    """Take its slot from a QUEUED run whose supervisor found the slot in use by another process."""
    return changed_a_row(
        session,
        update(Run)
        .where(
            col(Run.id) == run.id,
            col(Run.status) == Status.QUEUED,
            col(Run.slot_given_at).is_not_distinct_from(run.slot_given_at),
        )
        .values(slot=None, slot_given_at=None),
    )


def fail_start(session: Session, run: Run, reason: str) -> bool:
    """End a QUEUED run for which no supervisor started; False if one did meanwhile."""
    return _move(
        session, run.id, Status.FAILED,
        col(Run.slot_given_at).is_not_distinct_from(run.slot_given_at), leave=[Status.QUEUED],
        end_reason=EndReason.ERROR, reason=reason, ended_at=time.time(),
        failed_starts=MAX_FAILED_STARTS,
    )  # fmt: skip


def end(session: Session, run: Run, outcome: Outcome) -> bool:
    """Write how an attempt ended; False as in `transition`.

    One that was asked to stop is STOPPED even if its processes or its machine died first, so that
    nothing resumes it by itself.
    """
    if outcome.status == Status.INTERRUPTED and stop_requested(session, run.id):
        reason = f"stopped; {outcome.reason}" if outcome.reason else "stopped"
        outcome = replace(outcome, end_reason=EndReason.STOPPED, reason=reason)
    steps = {"step": outcome.step, "best_step": outcome.best_step}
    return transition(
        session,
        run,
        outcome.status,
        leave=ACTIVE,
        end_reason=outcome.end_reason,
        reason=outcome.reason,
        ended_at=time.time(),
        phase=None,
        **{name: step for name, step in steps.items() if step is not None},
    )


def request_stop(session: Session, run_id: str, *, reason: str | None = None) -> Status:
    """Cancel a QUEUED run at once, or ask an active one to stop at its next step boundary.

    A `reason` is its sweep's: it completes an active run. Returns the status afterwards; a run that
    has ended stays as it is, and what a person asks keeps it from going on by itself.
    """
    now = time.time()
    _move(
        session,
        run_id,
        Status.CANCELLED,
        leave=[Status.QUEUED],
        end_reason=EndReason.WITHDRAWN if reason else EndReason.CANCELLED,
        ended_at=now,
        reason=reason or "cancelled before it started",
    )
    stopped = ACTIVE if reason else (*ACTIVE, *RESUMABLE)
    session.execute(
        update(Run)
        .where(
            col(Run.id) == run_id,
            col(Run.status).in_(stopped),
            col(Run.stop_requested_at).is_(None),
        )
        .values(stop_requested_at=now, stop_reason=reason)
    )
    return Status(session.exec(select(Run.status).where(Run.id == run_id)).one())


def stop_requested(session: Session, run_id: str) -> bool:
    """True if somebody asked the run to stop."""
    return session.exec(select(Run.stop_requested_at).where(Run.id == run_id)).first() is not None


def stop_reason(session: Session, run_id: str) -> str | None:
    """Why its sweep asked a run to stop; None if it did not."""
    return session.exec(select(Run.stop_reason).where(Run.id == run_id)).first()


# --- the next attempt -----------------------------------------------------------------------------


def requeue(
    session: Session, run: Run, *, resume_step: int | None, config: RunConfig | None
) -> bool:
    """Queue the next attempt of a run that ended early; False as in `transition`.

    It resumes from the checkpoint of `resume_step` (None: from scratch), with other settings if a
    `config` is given.
    """
    columns = {} if config is None else config_columns(config, run.parent_id, run.parent_step)
    return transition(
        session, run, Status.QUEUED, leave=RESUMABLE, attempt=run.attempt + 1,
        resume_step=resume_step, step=resume_step, token=None, slot=None, slot_given_at=None,
        stop_requested_at=None, stop_reason=None, failed_starts=None, reason=None,
        earlier_seconds=run.seconds, started_at=None, ended_at=None, **columns,
    )  # fmt: skip


def requeue_cancelled(session: Session, run_id: str) -> bool:
    """Queue a run again that was CANCELLED before it started, as the same attempt."""
    return _move(
        session, run_id, Status.QUEUED, leave=[Status.CANCELLED], ended_at=None, reason=None
    )


def restart_from_scratch(session: Session, run: Run, reason: str) -> bool:
    """Make a QUEUED run start from scratch because the checkpoint to resume from is lost."""
    scratch = {"resume_step": None, "step": None}
    if not update_attempt(session, run, leave=[Status.QUEUED], **scratch):
        return False
    record_event(session, run.id, run.attempt, EventKind.RELAUNCHED, f"from scratch: {reason}")
    return True


# --- the queue ------------------------------------------------------------------------------------


def move_to_front(session: Session, runs: Sequence[Run]) -> list[str]:
    """Make these QUEUED runs the next to start, in this order; returns their ids."""
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
    """Hold QUEUED runs back, or release them to their old places; returns their ids.

    InvalidState if one is not queued.
    """
    if late := next((run for run in runs if run.status != Status.QUEUED), None):
        raise InvalidState(f"{late.id} is {late.status}: only queued runs can be held or released")
    if free := next((run for run in runs if not held and run.held_at is None), None):
        raise InvalidState(f"{free.id} is not held: it waits for its turn in the queue")
    for run in runs:
        run.held_at = (run.held_at or time.time()) if held else None
        run.reason = HELD_REASON if held else None
        session.add(run)
    return [run.id for run in runs]


def hold_all_but(session: Session, known: Collection[str]) -> None:
    """Hold the QUEUED runs that are not among `known`."""
    for run in session.exec(select(Run).where(Run.status == Status.QUEUED)):
        if run.id not in known and run.held_at is None:
            run.held_at, run.reason = time.time(), HELD_REASON
            session.add(run)
