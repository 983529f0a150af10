"""Every query on the run table. A query takes an open session: `reading()` or, for a short write,
`writing()`."""

import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psutil
from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    Table,
    Update,
    create_engine,
    event,
    func,
    inspect,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import defer
from sqlalchemy.pool import NullPool
from sqlmodel import Session, SQLModel, col, delete, select

from src import paths
from src.config import RunConfig
from src.errors import UserError, did_you_mean
from src.store.tables import (
    ACTIVE,
    BEGIN_AN_ATTEMPT,
    RESUMABLE,
    Checkpoint,
    Evaluation,
    Event,
    EventKind,
    LatestMetric,
    Metric,
    Run,
    Status,
    Sweep,
    SweepStatus,
)

try:
    import pysqlite3 as sqlite_driver  # bundles a newer SQLite than most Pythons link
except ImportError:
    import sqlite3 as sqlite_driver

if TYPE_CHECKING:
    import pandas as pd

NETWORK_DISKS = ("nfs", "cifs", "smb", "fuse", "9p", "lustre", "ceph", "gluster", "vboxsf", "afs")


T = TypeVar("T")

RESERVE_BYTES = 256 * 1024
FULL_BYTES = 64 * 1024  # less than this, and SQLite cannot make its files beside the table

# Beside a database file in which somebody met a damaged page.
DAMAGED = ".damaged"


class UnknownRun(UserError, LookupError):
    """No run has that id, or several have that name."""


class TakesNoWrites(UserError, SQLAlchemyError):
    """The run table can be read, but not written now: its disk is full, or another has locked it.
    The text says what to do."""


class RunIsActive(UserError, RuntimeError):
    """The run has living processes, so this cannot be done to it."""


class CannotSteer(UserError, ValueError):
    """Why this cannot be done to a sweep or a queued run, and what can be done instead."""


# --- the database ---------------------------------------------------------------------------------


def _version(connection: Connection) -> int:
    return connection.execute(text("SELECT max(version) FROM schema_version")).scalar() or 0


def _missing_tables(connection: Any) -> None:
    SQLModel.metadata.create_all(connection)


def _lineage(connection: Any) -> None:
    _add_columns(connection, "run", "host", "parent_id", "parent_step")
    _missing_tables(connection)


def _remarks(connection: Any) -> None:
    _add_columns(connection, "run", "tags", "notes")


def _sweeps(connection: Any) -> None:
    _add_columns(connection, "run", "sweep_id", "number", "seed_index", "searched")
    _add_columns(connection, "run", "stop_reason", "queue_at")
    _missing_tables(connection)
    for index in SQLModel.metadata.tables["run"].indexes:
        index.create(connection, checkfirst=True)


def _leaders(connection: Any) -> None:
    _add_columns(connection, "sweep", "host", "seen_at")


def _held(connection: Any) -> None:
    _add_columns(connection, "run", "held_at")


def _bases(connection: Any) -> None:
    _add_columns(connection, "sweep", "base")


def _add_columns(connection: Any, table: str, *names: str) -> None:
    """Add columns as table.py defines them; a table that was made today has them already."""
    there = {column["name"] for column in inspect(connection).get_columns(table)}
    for name in names:
        if name not in there:
            column = SQLModel.metadata.tables[table].columns[name]
            kind = column.type.compile(connection.dialect)
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {name} {kind}"))


# Each brings the schema from its index to the next number; never change one that has been released.
MIGRATIONS = [_missing_tables, _lineage, _remarks, _sweeps, _leaders, _held, _bases]


@cache
def _engine(url: str, pid: int) -> Engine:
    """One engine a process: SQLite connections must not be carried over a fork, hence `pid`."""
    location = make_url(url)
    if location.get_backend_name() == "sqlite":
        Path(location.database or "").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = Path(location.database or "")
        engine = create_engine(
            url, module=sqlite_driver, poolclass=NullPool, creator=lambda: _connect_sqlite(file)
        )
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(url, poolclass=NullPool)
    _migrate(engine.execution_options(immediate=True))
    return engine


def _connect_sqlite(file: Path) -> Any:
    connection = sqlite_driver.connect(file, timeout=patience.get(), check_same_thread=False)
    try:
        _configure_sqlite(connection)
    except sqlite_driver.OperationalError:
        connection.close()
        if not _full(file.parent) or _size(file.with_name(f"{file.name}-wal")):
            raise
        # Even a reader needs files beside the table, for which a full disk has no room. As nobody
        # has them, nobody writes, and the table can be read as it lies there.
        address = f"{file.absolute().as_uri()}?immutable=1"
        connection = sqlite_driver.connect(address, uri=True, check_same_thread=False)
        connection.isolation_level = None
    return connection


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < FULL_BYTES


def _configure_sqlite(connection: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, explicitly
    connection.execute(f"PRAGMA journal_mode={'DELETE' if why_not_wal() else 'WAL'}")
    # Else the log keeps the size that one long reader once let it grow to.
    connection.execute("PRAGMA journal_size_limit=4194304")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


@cache
def why_not_wal() -> str | None:
    """Why SQLite must keep its journal in DELETE mode here, slower but safe; None where WAL is."""
    # 3.7.0 to 3.51.2 can corrupt a WAL database that several connections write and checkpoint.
    if sqlite_driver.sqlite_version_info < (3, 51, 3):
        return f"SQLite {sqlite_driver.sqlite_version} is older than 3.51.3; pip install pysqlite3"
    file = sqlite_file()
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    at = next((str(p) for p in file.absolute().parents if str(p) in mounts), "/") if file else "/"
    kind = mounts.get(at, "")
    if kind.startswith(NETWORK_DISKS):
        return f"{at} is a network disk ({kind}); set SPELLTUNE_HOME to a local one"
    return None


def _begin_sqlite(connection: Any) -> None:
    # A deferred transaction that reads and then writes fails under load whatever the timeout.
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _migrate(engine: Engine) -> None:
    with engine.execution_options(immediate=False).connect() as connection:
        if inspect(connection).has_table("schema_version") and len(MIGRATIONS) == _version(
            connection
        ):
            return
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        )
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise RuntimeError(
                f"the run table has schema {version} and this Spelltune knows {len(MIGRATIONS)}: "
                "update Spelltune"
            )
        for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
            migration(connection)
            connection.execute(text("INSERT INTO schema_version VALUES (:n)"), {"n": number})


# In place of the run table's own URL, in the thread that restores it.
_other_url: ContextVar[str | None] = ContextVar("other_url", default=None)


def _url() -> str:
    return _other_url.get() or paths.database_url()


# Seconds for which a write of SQLite waits, in this thread, until another one is done.
patience = ContextVar("patience", default=15.0)


@contextmanager
def reading() -> Iterator[Session]:
    """A session that sees one consistent state and does not write."""
    with _noticing_damage(), Session(_engine(_url(), os.getpid())) as session:
        yield session


@contextmanager
def writing() -> Iterator[Session]:
    """A session that holds the write lock from its start and commits at its end: keep it short.

    TakesNoWrites where the disk is full, or another process keeps that lock."""
    with _noticing_damage():
        engine = _engine(_url(), os.getpid()).execution_options(immediate=True)
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                session.connection()  # begins now, and not with the first statement
                yield session
        except OperationalError as error:
            if (file := sqlite_file()) and _full(file.parent):
                text = f"no space is left for the run table {file}; free some, and try again"
            elif "locked" in str(error.orig):
                text = "another process keeps the run table locked; try again when it is done"
            else:
                raise
            raise TakesNoWrites(text) from error


def insist(write: Callable[[Session], T], *, seconds: float) -> T:
    """What `write` returns in a `writing` session; where the table is locked or the disk full it is
    called again each second, for so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with writing() as session:
                return write(session)
        except (OperationalError, TakesNoWrites) as error:
            if _reserve().exists() and _full(_reserve().parent):
                _reserve().unlink(missing_ok=True)
            if time.monotonic() > deadline:
                raise
            print(f"warning: {error}; trying again", file=sys.stderr, flush=True)
            time.sleep(1)


def keep_reserve() -> None:
    """Hold a little disk space back, which `insist` gives up for the last words of a run."""
    try:
        if not _reserve().exists():
            _reserve().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _reserve().write_bytes(os.urandom(RESERVE_BYTES))  # zeros might take no space
    except OSError:
        _reserve().unlink(missing_ok=True)


def _reserve() -> Path:
    return paths.results() / ".reserve"


# --- damage ---------------------------------------------------------------------------------------


@contextmanager
def database_at(file: Path) -> Iterator[None]:
    """Read and write the SQLite file `file` instead, in this thread, meanwhile."""
    before = _other_url.set(f"sqlite:///{file}")
    try:
        yield
    finally:
        _other_url.reset(before)


def sqlite_file() -> Path | None:
    """The run table's file; None where a server has it."""
    url = make_url(paths.database_url())
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def is_shared() -> bool:
    """Whether a database server has the run table, so that several machines may write it."""
    return sqlite_file() is None


def no_table(error: Exception) -> str | None:
    """A sentence where `SPELLTUNE_DATABASE_URL` leads to no run table; None for any other error."""
    given = os.environ.get("SPELLTUNE_DATABASE_URL")
    if not given:
        return None
    example = "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
    try:
        url = make_url(given)
        url.get_dialect()
    except ArgumentError:
        return f"SPELLTUNE_DATABASE_URL is no address of a run table, such as {example}"
    where = url.render_as_string(hide_password=True)
    if isinstance(error, ImportError) and error.name == "psycopg":
        return f'{where} needs psycopg, which is not installed here: pip install -e ".[ray]"'
    if isinstance(error, OperationalError) and is_shared():
        why = str(error.orig).partition("\n")[0]
        return f"the run table's server does not answer at {where}: {why}"
    return None


@contextmanager
def _noticing_damage() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        if (file := sqlite_file()) and _says_damaged(error.orig):
            file.with_name(file.name + DAMAGED).touch()
        raise


def _says_damaged(error: object) -> bool:
    return "malformed" in str(error) or "not a database" in str(error)


def damage_notice() -> Path | None:
    """The file that is there since somebody met a damaged page of the run table."""
    file = sqlite_file()
    notice = file.with_name(file.name + DAMAGED) if file else None
    return notice if notice and notice.exists() else None


def is_damaged(file: Path) -> bool:
    """Whether the file is no whole SQLite database: reads all of it."""
    try:
        connection = sqlite_driver.connect(file, timeout=15)
        try:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
    except sqlite_driver.DatabaseError as error:
        return _says_damaged(error)
    return bool(verdict != "ok")


def _changed(session: Session, statement: Update) -> bool:
    """Whether an update changed a row."""
    return cast("CursorResult[Any]", session.execute(statement)).rowcount > 0


def _upsert(session: Session, table: type[SQLModel], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; where the key exists, replace the rest."""
    if not rows:
        return
    target: Table = table.__table__  # type: ignore[attr-defined]
    # Theirs is the only syntax that differs, and the one that is not used need not be loaded.
    dialect = import_module(f"sqlalchemy.dialects.{session.get_bind().dialect.name}")
    statement = dialect.insert(target)
    keys = [c.name for c in target.primary_key]
    rest = {c.name: statement.excluded[c.name] for c in target.columns if c.name not in keys}
    session.connection().execute(
        statement.on_conflict_do_update(index_elements=keys, set_=rest), list(rows)
    )


# --- runs -----------------------------------------------------------------------------------------


def new_id(session: Session, table: type[SQLModel], name: str, at: float) -> str:
    """The name, made safe for a path, and the UTC time of the launch."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "run"
    stem = f"{slug}_{time.strftime('%Y%m%d-%H%M%S', time.gmtime(at))}"
    found, number = stem, 1
    while session.get(table, found):
        number += 1
        found = f"{stem}-{number}"
    return found


def enqueue(
    session: Session, config: RunConfig, *, now: float | None = None, **columns: Any
) -> Run:
    """Insert one QUEUED run, with more columns where a sweep launches it."""
    created_at = time.time() if now is None else now
    run = Run(
        id=new_id(session, Run, config.name, created_at),
        name=config.name,
        status=Status.QUEUED,
        config=config.model_dump(),
        max_steps=config.training.max_steps,
        created_at=created_at,
        tags=list(config.tracking.tags),
        **columns,
    )
    session.add(run)
    session.flush()
    return run


def find(session: Session, run: str) -> Run:
    """The run with that id or, where only one has it, that name. UnknownRun names the nearest, or
    the candidates."""
    if found := session.get(Run, run):
        return found
    named = session.exec(select(Run).where(Run.name == run).order_by(col(Run.created_at))).all()
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(r.id for r in named[-5:])
        raise UnknownRun(f"{len(named)} runs are called {run!r}; name one by its id: {ids}")
    known = [text for pair in session.exec(select(Run.id, Run.name)) for text in pair]
    if not known:
        raise UnknownRun(
            f"no run {run!r}: there are no runs yet; start one with `spelltune launch`"
        )
    raise UnknownRun(f"no run {run!r}{did_you_mean(run, known) or '; `spelltune runs` lists them'}")


def find_checkpoint(session: Session, name: str) -> tuple[Run, int | None]:
    """`RUN@STEP` -> the run and the step; `RUN` -> the run and None."""
    run, at, step = name.rpartition("@")
    if at and step.isdigit():
        return find(session, run), int(step)
    return find(session, name), None


def runs(
    session: Session, *, statuses: Iterable[Status] = (), limit: int | None = None
) -> Sequence[Run]:
    """Runs, newest first."""
    query = select(Run).order_by(col(Run.created_at).desc(), col(Run.id).desc())
    if statuses := tuple(statuses):
        query = query.where(col(Run.status).in_(statuses))
    return session.exec(query.limit(limit) if limit else query).all()


def runs_of(session: Session, ids: Sequence[str]) -> list[Run]:
    """The runs of these ids that there are, in the same order."""
    found = {run.id: run for run in session.exec(select(Run).where(col(Run.id).in_(ids)))}
    return [found[run_id] for run_id in ids if run_id in found]


def run_ids(session: Session, *, limit: int) -> list[str]:
    """Ids of runs, newest first."""
    return list(
        session.exec(
            select(Run.id).order_by(col(Run.created_at).desc(), col(Run.id).desc()).limit(limit)
        )
    )


def queue(session: Session) -> Sequence[Run]:
    """QUEUED runs, the next to start first; held ones and those of a paused sweep stay out."""
    paused = select(Sweep.id).where(Sweep.status == SweepStatus.PAUSED)
    return session.exec(
        select(Run)
        .where(Run.status == Status.QUEUED, col(Run.held_at).is_(None))
        .where(col(Run.sweep_id).is_(None) | col(Run.sweep_id).not_in(paused))
        .order_by(func.coalesce(Run.queue_at, Run.created_at), col(Run.created_at), col(Run.id))
    ).all()


def move_to_front(session: Session, runs: Sequence[Run]) -> list[str]:
    """Let these queued runs be the next to start, in this order; their ids."""
    if late := next((run for run in runs if run.status != Status.QUEUED), None):
        raise CannotSteer(f"{late.id} is {late.status}: only queued runs have a place in the queue")
    place = func.coalesce(Run.queue_at, Run.created_at)
    first = session.exec(select(func.min(place)).where(Run.status == Status.QUEUED)).one()
    for number, run in enumerate(runs):
        run.queue_at = first - len(runs) + number
        session.add(run)
    return [run.id for run in runs]


def hold(session: Session, runs: Sequence[Run], *, held: bool) -> list[str]:
    """Let these queued runs wait until they are let go, or let them go to their old places; their
    ids. CannotSteer where one is not queued."""
    if late := next((run for run in runs if run.status != Status.QUEUED), None):
        raise CannotSteer(f"{late.id} is {late.status}: only queued runs can be held or released")
    if free := next((run for run in runs if not held and run.held_at is None), None):
        raise CannotSteer(f"{free.id} is not held: it waits for its turn in the queue")
    for run in runs:
        run.held_at = (run.held_at or time.time()) if held else None
        run.reason = "held until somebody releases it" if held else None
        session.add(run)
    return [run.id for run in runs]


def give_slot(session: Session, run: Run, slot: int, *, host: str, now: float) -> bool:
    """Let a QUEUED run start in a slot of this machine. False: another machine was faster."""
    return _changed(
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
    return _changed(
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


def unclaim(session: Session, run: Run) -> bool:
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
    return _changed(
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


def uncancel(session: Session, run_id: str) -> None:
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


def set_best(session: Session, run_id: str, step: int | None) -> None:
    """Name the best step of a run that goes back to an earlier one."""
    session.execute(update(Run).where(col(Run.id) == run_id).values(best_step=step))
    rows = update(Checkpoint).where(col(Checkpoint.run_id) == run_id)
    session.execute(rows.values(is_best=col(Checkpoint.step) == step))


def remark(session: Session, run_id: str, *, tags: Sequence[str], notes: str | None) -> None:
    """Write what a person says of a run."""
    row = update(Run).where(col(Run.id) == run_id)
    session.execute(row.values(tags=list(tags), notes=notes or None))


def stop_reason(session: Session, run_id: str) -> str | None:
    """Why a run was asked to stop, where that completes it."""
    return session.exec(select(Run.stop_reason).where(Run.id == run_id)).first()


def stop_requested(session: Session, run_id: str) -> bool:
    return session.exec(select(Run.stop_requested_at).where(Run.id == run_id)).first() is not None


def delete_rows(session: Session, run_id: str) -> None:
    """Delete a run and all that points to it. RunIsActive while it is queued or running."""
    run = find(session, run_id)
    if not Status(run.status).ended:
        raise RunIsActive(f"{run.id} is {run.status}; stop it first: `spelltune stop {run.id}`")
    for table in (Metric, LatestMetric, Checkpoint, Evaluation, Event):
        session.execute(delete(table).where(col(table.run_id) == run.id))
    session.execute(delete(Run).where(col(Run.id) == run.id))


# --- sweeps ---------------------------------------------------------------------------------------


def sweeps(session: Session, *, statuses: Iterable[SweepStatus] = ()) -> Sequence[Sweep]:
    """Sweeps, newest first."""
    query = select(Sweep).order_by(col(Sweep.created_at).desc(), col(Sweep.id).desc())
    if statuses := tuple(statuses):
        query = query.where(col(Sweep.status).in_(statuses))
    return session.exec(query).all()


def find_sweep(session: Session, name: str) -> Sweep:
    """The sweep with that id or, the newest first, that name; UnknownRun names the nearest."""
    if found := session.get(Sweep, name):
        return found
    known = sweeps(session)
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
    """Change a sweep's status (None keeps it) and columns if it is in one of `leave`."""
    if to is not None:
        columns["status"] = to
    return _changed(
        session,
        update(Sweep)
        .where(col(Sweep.id) == sweep_id, col(Sweep.status).in_(tuple(leave)))
        .values(**columns),
    )


def lead_sweep(session: Session, sweep_id: str, *, host: str, lease: float) -> bool:
    """Whether this machine's driver looks after the sweep: no other one does, or it was silent for
    `lease` seconds."""
    now = time.time()
    return _changed(
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


def begin_anew(session: Session, run: Run, reason: str) -> bool:
    """Let a QUEUED run start from scratch, for the checkpoint that it should go on from is lost."""
    anew = {"resume_step": None, "step": None}
    if not transition(session, run, None, leave=[Status.QUEUED], **anew):
        return False
    record_event(session, run.id, run.attempt, EventKind.RELAUNCHED, f"from scratch: {reason}")
    return True


def trials(session: Session, sweep_id: str) -> Sequence[Run]:
    """The trials of a sweep by number, without `config` and `used`: there may be thousands."""
    return session.exec(
        select(Run)
        .where(Run.sweep_id == sweep_id, col(Run.number).is_not(None))
        .order_by(col(Run.number))
        .options(defer(Run.config, raiseload=True), defer(Run.used, raiseload=True))  # type: ignore[arg-type]
    ).all()


def trial_counts(session: Session) -> dict[str, dict[str, int]]:
    """{sweep: {status: how many of its trials}}."""
    found: dict[str, dict[str, int]] = {}
    query = (
        select(Run.sweep_id, Run.status, func.count())
        .where(col(Run.number).is_not(None))
        .group_by(col(Run.sweep_id), col(Run.status))
        .order_by(col(Run.status))
    )
    for sweep_id, status, count in session.execute(query):
        found.setdefault(sweep_id, {})[status] = count
    return found


def runs_of_sweep(session: Session, sweep_id: str) -> Sequence[Run]:
    """All runs that a sweep launched: its trials, and those that confirm settings."""
    return [*trials(session, sweep_id), *confirmations(session, sweep_id)]


def confirmations(session: Session, sweep_id: str) -> Sequence[Run]:
    """Runs that a sweep launched to confirm settings, which take no part in the search."""
    return session.exec(
        select(Run)
        .where(Run.sweep_id == sweep_id, col(Run.number).is_(None))
        .order_by(col(Run.created_at), col(Run.id))
    ).all()


def trial_metrics(
    session: Session, sweep_id: str, names: Iterable[str]
) -> dict[str, dict[str, float | None]]:
    """{run id: {metric: the value written last}} of the runs of a sweep."""
    found: dict[str, dict[str, float | None]] = {}
    query = (
        select(LatestMetric.run_id, LatestMetric.name, LatestMetric.value)
        .join(Run, col(Run.id) == col(LatestMetric.run_id))
        .where(Run.sweep_id == sweep_id, col(LatestMetric.name).in_(tuple(names)))
    )
    for run_id, name, value in session.exec(query):
        found.setdefault(run_id, {})[name] = value
    return found


def reports(session: Session, sweep_id: str, name: str) -> Sequence[tuple[str, int, float, float]]:
    """(run, step, value, at) of a metric of all trials after their first step, as it was
    recorded."""
    query = (
        select(Metric.run_id, Metric.step, Metric.value, Metric.at)
        .join(Run, col(Run.id) == col(Metric.run_id))
        .where(Run.sweep_id == sweep_id, col(Run.number).is_not(None))
        .where(Metric.name == name, Metric.step > 0, col(Metric.value).is_not(None))
        .order_by(col(Metric.at), col(Metric.run_id), col(Metric.step))
    )
    return [tuple(row) for row in session.execute(query)]


def processes(session: Session, sweep_id: str) -> list[dict[str, Any]]:
    """Of each process that trained trials of a sweep to their last end: how many {trials}, their
    {steps}, {seconds} from the first start to the last end, and the most {gib} of memory."""
    used = (
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
            func.max(used.c.gib),
        )
        .outerjoin(used, used.c.run_id == Run.id)
        .where(Run.sweep_id == sweep_id, col(Run.number).is_not(None))
        .where(col(Run.token).is_not(None), col(Run.ended_at).is_not(None))
        .group_by(col(Run.token))
        .order_by(func.min(Run.started_at))
    )
    names = ("trials", "steps", "seconds", "gib")
    return [dict(zip(names, row, strict=True)) for row in session.execute(query)]


# --- lineage --------------------------------------------------------------------------------------


def record_event(
    session: Session,
    run_id: str,
    attempt: int,
    kind: EventKind,
    text: str,
    *,
    step: int | None = None,
) -> None:
    """Add a line to what happened to a run."""
    session.add(
        Event(run_id=run_id, attempt=attempt, step=step, kind=kind, text=text, at=time.time())
    )


def events(session: Session, run_id: str) -> Sequence[Event]:
    """What happened to a run, in order."""
    return session.exec(select(Event).where(Event.run_id == run_id).order_by(col(Event.id))).all()


def forks(session: Session, run_id: str) -> Sequence[Run]:
    """Runs that went on from a checkpoint of this one, oldest first."""
    return session.exec(
        select(Run).where(Run.parent_id == run_id).order_by(col(Run.created_at))
    ).all()


# --- metrics --------------------------------------------------------------------------------------


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
    _upsert(session, Metric, list(rows.values()))
    # What was written last counts as latest, not the highest step: at its end a run reports its
    # restored best again.
    latest = {
        name: {k: v for k, v in rows[name, step].items() if k != "at"}
        for step, name, _, _ in points
    }
    _upsert(session, LatestMetric, list(latest.values()))


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


def metrics(session: Session, run_id: str) -> list[dict[str, Any]]:
    """Every point of a run as {step, name, value}, by step and name; as in `curve`."""
    query = (
        select(Metric.step, Metric.name, Metric.value)
        .where(Metric.run_id == run_id)
        .where(text(_kept(session, run_id).removeprefix(" AND ") or "1 = 1"))
        .order_by(col(Metric.step), col(Metric.name), col(Metric.attempt))
    )
    points = {(step, name): value for step, name, value in session.exec(query)}
    return [{"step": step, "name": name, "value": value} for (step, name), value in points.items()]


# --- checkpoints and evaluations ------------------------------------------------------------------


def record_checkpoint(
    session: Session, run_id: str, attempt: int, step: int, path: Path, *, is_best: bool
) -> None:
    """Record a complete checkpoint directory; the one before it that was best no longer is."""
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    if is_best:
        session.execute(
            update(Checkpoint).where(col(Checkpoint.run_id) == run_id).values(is_best=False)
        )
    _upsert(
        session,
        Checkpoint,
        [
            {
                "run_id": run_id,
                "step": step,
                "attempt": attempt,
                "path": str(path),
                "size_bytes": size,
                "is_best": is_best,
                "created_at": time.time(),
            }
        ],
    )


def remove_checkpoint(session: Session, run_id: str, step: int) -> None:
    session.execute(
        delete(Checkpoint).where(col(Checkpoint.run_id) == run_id, col(Checkpoint.step) == step)
    )


def checkpoints(session: Session, run_id: str) -> Sequence[Checkpoint]:
    return session.exec(
        select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(col(Checkpoint.step))
    ).all()


def record_evaluation(
    session: Session,
    run_id: str,
    attempt: int,
    step: int,
    split: str,
    path: Path,
    *,
    rows: int,
    correct: int,
) -> None:
    _upsert(
        session,
        Evaluation,
        [
            {
                "run_id": run_id,
                "step": step,
                "split": split,
                "attempt": attempt,
                "path": str(path),
                "rows": rows,
                "correct": correct,
                "created_at": time.time(),
            }
        ],
    )


def forget_evaluations(session: Session, run_id: str, *, after_step: int) -> None:
    session.execute(
        delete(Evaluation).where(
            col(Evaluation.run_id) == run_id, col(Evaluation.step) > after_step
        )
    )


def evaluations(session: Session, run_id: str, *, split: str | None = None) -> Sequence[Evaluation]:
    """Scorings of a run, by step."""
    query = select(Evaluation).where(Evaluation.run_id == run_id)
    if split:
        query = query.where(Evaluation.split == split)
    return session.exec(query.order_by(col(Evaluation.step))).all()


def final_evaluation(session: Session, run: Run, *, split: str = "validation") -> Evaluation | None:
    """The scoring of the adapter that was kept (the best step), else the latest one; None before
    the first."""
    found = evaluations(session, run.id, split=split)
    return next((e for e in found if e.step == run.best_step), found[-1] if found else None)


def final_evaluations(session: Session, runs: Sequence[Run]) -> dict[tuple[str, str], Evaluation]:
    """{(run id, split): what `final_evaluation` gives}, in one query."""
    query = select(Evaluation).where(col(Evaluation.run_id).in_([run.id for run in runs]))
    best = {run.id: run.best_step for run in runs}
    found: dict[tuple[str, str], Evaluation] = {}
    for evaluation in session.exec(query.order_by(col(Evaluation.step))):
        key = evaluation.run_id, evaluation.split
        if key not in found or found[key].step != best[evaluation.run_id]:
            found[key] = evaluation
    return found


def scored(
    session: Session, name: str, *, split: str = "validation"
) -> tuple[Run, Evaluation, Sequence[Evaluation]]:
    """The run and the scoring that `RUN` (the adapter that it kept) or `RUN@STEP` names, and all
    scorings of the run on that split. UnknownRun says what there is instead."""
    run, step = find_checkpoint(session, name)
    known = evaluations(session, run.id, split=split)
    wanted = run.best_step if step is None else step
    found = next((e for e in known if e.step == wanted), None)
    if found is None and step is None and known:
        found = known[-1]
    if found is None:
        steps = ", ".join(str(e.step) for e in known)
        raise UnknownRun(
            f"{run.id} has not been scored on the {split} split"
            + (f" at step {step}; it was at {steps}" if known else f"; its status is {run.status}")
        )
    return run, found, known


def predictions(evaluation: Evaluation, *, wrong_only: bool = False) -> "pd.DataFrame":
    """Columns word, question, expected, predicted, correct, edit_distance, ...; one row a
    question."""
    import pandas as pd

    frame = pd.read_parquet(evaluation.path)
    return frame[~frame["correct"]].reset_index(drop=True) if wrong_only else frame


# --- one document a run ---------------------------------------------------------------------------


def show(session: Session, run: Run) -> dict[str, Any]:
    """What `spelltune show --json` prints."""
    watched = run.config["early_stopping"]["metric"]
    value = None
    if run.best_step is not None:
        points = curve(session, run.id, watched, after_step=run.best_step - 1)
        value = next(
            (
                float(v)
                for s, v in zip(points["step"], points["value"], strict=True)
                if s == run.best_step
            ),
            None,
        )
    adapter = paths.output_dir(run.id) / "final"
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "reason": run.reason,
        "phase": run.phase,
        "attempt": run.attempt,
        "host": run.host,
        "step": run.step or 0,
        "max_steps": run.max_steps,
        "tags": run.tags or [],
        "notes": run.notes,
        "config": run.config,
        "used": run.used,
        "metrics": latest_metrics(session, [run.id])[run.id],
        "best": None
        if run.best_step is None
        else {"step": run.best_step, "metric": watched, "value": value},
        "paths": {
            "output_dir": str(paths.output_dir(run.id)),
            "log": str(paths.log_file(run.id)),
            "metrics_log": str(paths.metrics_log(run.id)),
            "checkpoints_dir": str(paths.checkpoints_dir(run.id)),
            "final_adapter": str(adapter) if (adapter / "adapter_config.json").exists() else None,
        },
        "pids": {"supervisor": run.supervisor_pid, "trainer": run.trainer_pid},
        "checkpoints": [
            {"step": c.step, "path": c.path, "size_bytes": c.size_bytes, "is_best": c.is_best}
            for c in checkpoints(session, run.id)
        ],
        "evaluations": [
            {"step": e.step, "split": e.split, "path": e.path, "rows": e.rows, "correct": e.correct}
            for e in evaluations(session, run.id)
        ],
        "sweep": None
        if run.sweep_id is None
        else {"id": run.sweep_id, "number": run.number, "seed_index": run.seed_index},
        "parent": None if run.parent_id is None else {"id": run.parent_id, "step": run.parent_step},
        "forks": [child.id for child in forks(session, run.id)],
        "lineage": [
            {"at": e.at, "attempt": e.attempt, "step": e.step, "kind": e.kind, "text": e.text}
            for e in events(session, run.id)
        ],
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }


def to_json(document: Any) -> str:
    """One JSON document; nan and infinities become null."""
    return json.dumps(_finite(document), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
