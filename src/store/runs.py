"""Finds, lists, adds and deletes runs; their queue, their events and their forks."""

import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import JSON, func, type_coerce, update
from sqlmodel import Session, SQLModel, col, delete, select

from src.config import RunConfig, config_key
from src.errors import UserError, did_you_mean
from src.format import run_label, whole_number
from src.store.notices import leave_event
from src.store.tables import (
    ACTIVE,
    Checkpoint,
    Evaluation,
    Event,
    EventKind,
    LatestMetric,
    Metric,
    Notice,
    Run,
    Status,
    Sweep,
    SweepStatus,
)
from src.store.turns import Turn, wait_for_turn


class UnknownRun(UserError, LookupError):
    """No run has that id, or several have that name. `command` is advice for who asked by the
    command line; `text` is the sentence without it."""

    def __init__(self, text: str, command: str = ""):
        super().__init__(f"{text}; {command}" if command else text)
        self.text = text


class RunIsActive(UserError, RuntimeError):
    """The run is queued or has living processes, so it cannot be deleted."""


def new_id(session: Session, table: type[SQLModel], name: str, at: float) -> str:
    """An unused id: the name, made safe for a path, and the UTC time of the launch."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "run"
    stem = f"{slug}_{time.strftime('%Y%m%d-%H%M%S', time.gmtime(at))}"
    # Of two that launch under one name in one second, the second sees the row of the first.
    wait_for_turn(session.connection(), Turn.NAME)
    unused, number = stem, 1
    while session.get(table, unused):
        number += 1
        unused = f"{stem}-{number}"
    return unused


def enqueue(
    session: Session, config: RunConfig, *, now: float | None = None, **columns: Any
) -> Run:
    """Insert a QUEUED run; a sweep or a fork gives more columns."""
    created_at = time.time() if now is None else now
    run = Run(
        id=new_id(session, Run, config.name, created_at),
        name=config.name,
        status=Status.QUEUED,
        **config_columns(config, columns.get("parent_id"), columns.get("parent_step")),
        max_steps=config.training.max_steps,
        created_at=created_at,
        tags=list(config.tracking.tags),
        **columns,
    )
    session.add(run)
    session.flush()
    return run


def config_columns(
    config: RunConfig, parent_id: str | None, parent_step: int | None
) -> dict[str, Any]:
    """The columns that follow from the settings of a run and the checkpoint that it forks."""
    values = config.model_dump()
    return {"config": values, "config_key": config_key(values, parent_id, parent_step)}


def find(session: Session, run: str) -> Run:
    """The run with that id, or the only one with that name.

    UnknownRun names the closest match, or the candidates.
    """
    if by_id := session.get(Run, run):
        return by_id
    # An accent in a name may be typed and stored in different Unicode forms.
    forms = {run, *(unicodedata.normalize(form, run) for form in ("NFC", "NFD"))}
    named = session.exec(
        select(Run).where(col(Run.name).in_(forms)).order_by(col(Run.created_at))
    ).all()
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(r.id for r in named[-5:])
        raise UnknownRun(f"{len(named)} runs are called {run!r}; name one by its id: {ids}")
    known = [text for pair in session.exec(select(Run.id, Run.name)) for text in pair]
    if not known:
        raise UnknownRun(
            f"no run {run!r}: there are no runs yet", "start one with `spelltune launch`"
        )
    guess = did_you_mean(run, known)
    raise UnknownRun(f"no run {run!r}{guess}", "" if guess else "`spelltune runs` lists them")


def find_checkpoint(session: Session, name: str) -> tuple[Run, int | None]:
    """Run and step of `RUN@STEP`; the step of a plain `RUN` is None."""
    run, at, digits = name.rpartition("@")
    step = whole_number(digits)
    if not at or step is None:
        return find(session, name), None
    whole, part = (_called(session, one) for one in (name, run))
    if whole and part:
        ids = ", ".join(f"{one.id}@{step}" if one in part else one.id for one in (*whole, *part))
        raise UnknownRun(
            f"{name!r} is the name of a run, and step {step} of {run!r}; name one by its id: {ids}"
        )
    return (find(session, name), None) if whole else (find(session, run), step)


def _called(session: Session, name: str) -> Sequence[Run]:
    """The runs with that id or name."""
    return session.exec(select(Run).where((col(Run.id) == name) | (col(Run.name) == name))).all()


def list_runs(
    session: Session,
    *,
    statuses: Iterable[Status] = (),
    limit: int | None = None,
    archived: bool = True,
) -> Sequence[Run]:
    """Runs, newest first; without archived ones where they are not to be offered."""
    query = select(Run).order_by(col(Run.created_at).desc(), col(Run.id).desc())
    if not archived:
        query = query.where(col(Run.archived_at).is_(None))
    if statuses := tuple(statuses):
        query = query.where(col(Run.status).in_(statuses))
    return session.exec(query.limit(limit) if limit else query).all()


def completed_here(session: Session, host: str, *, limit: int) -> Sequence[Run]:
    """The last runs that this machine has completed in one attempt from their first step to their
    last."""
    return session.exec(
        select(Run)
        .where(Run.status == Status.COMPLETED, Run.attempt == 1, Run.step == Run.max_steps)
        .where(col(Run.resume_step).is_(None))
        .where(Run.host == host, col(Run.started_at).is_not(None), col(Run.ended_at).is_not(None))
        .order_by(col(Run.ended_at).desc())
        .limit(limit)
    ).all()


def sizes_of_processes(session: Session, tokens: Iterable[str]) -> dict[str, int]:
    """{token of a process: runs that it trained}; more than one in a pack."""
    query = select(Run.token, func.count()).where(col(Run.token).in_(set(tokens)))
    return {str(token): count for token, count in session.exec(query.group_by(col(Run.token)))}


def runs_of(session: Session, ids: Sequence[str]) -> list[Run]:
    """The runs with these ids, in the same order; ids that do not exist are left out."""
    by_id = {run.id: run for run in session.exec(select(Run).where(col(Run.id).in_(ids)))}
    return [by_id[run_id] for run_id in ids if run_id in by_id]


def progress_of(
    session: Session, ids: Sequence[str]
) -> dict[str, tuple[str, int | None, float | None]]:
    """{id: (status, step, when its stop was asked for)} of runs, without reading whole rows."""
    query = select(Run.id, Run.status, Run.step, Run.stop_requested_at)
    rows = session.exec(query.where(col(Run.id).in_(ids)))
    return {run_id: (status, step, asked_at) for run_id, status, step, asked_at in rows}


def stop_wishes(session: Session, runs: Iterable[Run]) -> dict[tuple[str, int], bool]:
    """{(id, attempt): True if somebody asked the run to stop} of those runs that this attempt with
    its token may still write."""
    tokens = {(run.id, run.attempt): run.token for run in runs}
    rows = session.exec(
        select(Run.id, Run.attempt, Run.token, Run.stop_requested_at).where(
            col(Run.id).in_({run_id for run_id, _ in tokens}), col(Run.status).in_(ACTIVE)
        )
    )
    return {
        (run_id, attempt): asked_at is not None
        for run_id, attempt, token, asked_at in rows
        if tokens.get((run_id, attempt), "") == token
    }


def run_labels(session: Session, *, limit: int) -> dict[str, str]:
    """{id: name and seed} of runs that are not archived, newest first; with the end of the id where
    two are the same."""
    seed = type_coerce(Run.config, JSON)["training"]["seed"].as_integer()
    newest = col(Run.created_at).desc(), col(Run.id).desc()
    query = select(Run.id, Run.name, Run.searched, seed).where(col(Run.archived_at).is_(None))
    query = query.order_by(*newest).limit(limit)
    return _labels((i, run_label(name, tried), n) for i, name, tried, n in session.exec(query))


def run_outcomes(
    session: Session, ids: Sequence[str], metric: str
) -> dict[str, tuple[Status, float | None]]:
    """{id: (status, last value of a metric)} of runs, without reading whole rows."""
    last = select(LatestMetric.run_id, LatestMetric.value).where(LatestMetric.name == metric)
    scored = session.exec(last.where(col(LatestMetric.run_id).in_(ids)))
    values = dict(iter(scored))
    rows = session.exec(select(Run.id, Run.status).where(col(Run.id).in_(ids)))
    return {run_id: (Status(status), values.get(run_id)) for run_id, status in rows}


def labels_of(runs: Iterable[Run]) -> dict[str, str]:
    """`run_labels` of runs that were read already, in their order."""
    return _labels((run.id, run.label, run.config["training"]["seed"]) for run in runs)


def label_of(run: Run) -> str:
    """Name and seed of one run that was read already."""
    return labels_of([run])[run.id]


def _labels(rows: Iterable[tuple[str, str, int]]) -> dict[str, str]:
    """{id: label} of ids, labels without seed, and seeds."""
    named = {run_id: f"{name} · seed {number}" for run_id, name, number in rows}
    counts = Counter(named.values())
    return {
        run_id: text if counts[text] == 1 else f"{text} · {run_id.rpartition('_')[2]}"
        for run_id, text in named.items()
    }


def queue(session: Session) -> Sequence[Run]:
    """QUEUED runs, the next to start first, without held ones and those of a paused sweep."""
    paused = select(Sweep.id).where(Sweep.status == SweepStatus.PAUSED)
    return session.exec(
        select(Run)
        .where(Run.status == Status.QUEUED, col(Run.held_at).is_(None))
        .where(col(Run.sweep_id).is_(None) | col(Run.sweep_id).not_in(paused))
        .order_by(func.coalesce(Run.queue_at, Run.created_at), col(Run.created_at), col(Run.id))
    ).all()


def put_back(session: Session, run: Run, events: Sequence[Event]) -> None:
    """Insert a run as a snapshot has it, in the place of its row and events if there are any."""
    run.config_key = config_key(run.config, run.parent_id, run.parent_step)
    session.merge(run)
    session.flush()
    session.execute(delete(Event).where(col(Event.run_id) == run.id))
    session.add_all(events)


def set_notes(session: Session, run_id: str, *, tags: Sequence[str], notes: str | None) -> None:
    """Replace the tags and notes that people gave a run."""
    row = update(Run).where(col(Run.id) == run_id)
    session.execute(row.values(tags=list(tags), notes=notes or None))


def delete_rows(session: Session, run_id: str) -> None:
    """Delete a run with every row that refers to it; RunIsActive while it is queued or active."""
    run = find(session, run_id)
    if not Status(run.status).ended:
        raise RunIsActive(f"{run.id} is {run.status}; stop it first: `spelltune stop {run.id}`")
    for table in (Metric, LatestMetric, Checkpoint, Evaluation, Event):
        session.execute(delete(table).where(col(table.run_id) == run.id))
    session.execute(delete(Notice).where(col(Notice.subject) == run.id))
    session.execute(delete(Run).where(col(Run.id) == run.id))


def record_event(
    session: Session,
    run_id: str,
    attempt: int,
    kind: EventKind,
    text: str,
    *,
    step: int | None = None,
) -> None:
    """Add an event to a run's lineage."""
    session.add(
        Event(run_id=run_id, attempt=attempt, step=step, kind=kind, text=text, at=time.time())
    )
    leave_event(session, run_id, kind, text)


def list_events(session: Session, run_id: str) -> Sequence[Event]:
    """Events of a run's lineage, oldest first."""
    return session.exec(select(Event).where(Event.run_id == run_id).order_by(col(Event.id))).all()


def events_of(session: Session, run_ids: Sequence[str]) -> dict[str, list[Event]]:
    """`list_events` of many runs in one query; without those that have none."""
    found: dict[str, list[Event]] = {}
    query = select(Event).where(col(Event.run_id).in_(run_ids)).order_by(col(Event.id))
    for event in session.exec(query):
        found.setdefault(event.run_id, []).append(event)
    return found


def forks(session: Session, run_id: str) -> Sequence[Run]:
    """Runs that were forked from a checkpoint of this one, oldest first."""
    return session.exec(
        select(Run).where(Run.parent_id == run_id).order_by(col(Run.created_at))
    ).all()
