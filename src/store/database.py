"""Sessions on the run table: to read, to write, and to write with retries."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import CursorResult, Engine, Table, Update, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlmodel import Session, SQLModel

from src import access, paths
from src.errors import UserError
from src.store import sqlite
from src.store.damage import check_not_lost, mark_damage, says_damaged
from src.store.migrations import migrate
from src.store.sqlite import sqlite_file

T = TypeVar("T")

RESERVE_BYTES = 256 * 1024


class DatabaseUnavailable(UserError, SQLAlchemyError):
    """The run table cannot be used now: its disk is full, or another process has locked it."""


@contextmanager
def reading(url: URL | None = None) -> Iterator[Session]:
    """A session that sees one consistent state and does not write; DatabaseUnavailable as for
    `writing`.

    `url` names another database than the run table.
    """
    with (
        _told_if_unavailable(),
        Session(_engine(url or sqlite.database_url(), os.getpid())) as session,
    ):
        yield session


@contextmanager
def writing(url: URL | None = None) -> Iterator[Session]:
    """A session that holds the write lock from its start and commits at its end: keep it short.

    DatabaseUnavailable if the disk is full, or another process keeps the lock; ReadOnlyAccess for a
    reader of the panel who may change nothing.
    """
    access.check()
    with _told_if_unavailable():
        engine = _engine(url or sqlite.database_url(), os.getpid())
        engine = engine.execution_options(immediate=True)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            session.connection()  # takes the lock now, not with the first statement
            yield session


@contextmanager
def _told_if_unavailable() -> Iterator[None]:
    """Raise DatabaseUnavailable with a sentence for an error of the disk or of a lock, and mark a
    damaged table."""
    try:
        with mark_damage():
            yield
    except OperationalError as error:
        if says_damaged(error.orig) or (text := _why_unavailable(error)) is None:
            raise
        raise DatabaseUnavailable(text) from error


def _why_unavailable(error: OperationalError) -> str | None:
    """Why the run table cannot be used now, and what to do; None if that is not the error."""
    file = sqlite_file()
    if file and sqlite.is_full(file.parent):
        what = "space is left for"
        if sqlite.lacks_inodes(file.parent):
            what = "inode is left (`df -i` counts them) on the disk of"
        return f"no {what} the run table {file}; free some, and try again"
    if file and sqlite.is_read_only(file):
        return (
            f"the run table {file} can be read only; make it and its folder writable, or "
            "set SPELLTUNE_HOME to a folder that is"
        )
    if "locked" in str(error.orig):
        return "another process keeps the run table locked; try again when it is done"
    return None


def write_with_retry(write: Callable[[Session], T], *, seconds: float) -> T:
    """Call `write` in a `writing` session and return its result.

    Retries every second for up to `seconds` while the table is locked or the disk full.
    """
    return _with_retry(writing, write, seconds)


def read_with_retry(read: Callable[[Session], T], *, seconds: float) -> T:
    """The same for a `reading` session, which waits too where SQLite is in DELETE mode."""
    return _with_retry(reading, read, seconds)


def _with_retry(
    opened: Callable[[], AbstractContextManager[Session]],
    use: Callable[[Session], T],
    seconds: float,
) -> T:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with opened() as session:
                return use(session)
        except (OperationalError, DatabaseUnavailable) as error:
            file = sqlite_file()
            if file and file.parent.exists() and sqlite.is_full(file.parent):
                free_reserve()
            if time.monotonic() > deadline:
                raise
            print(f"warning: {error}; trying again", file=sys.stderr, flush=True)
            time.sleep(1)


def keep_reserve() -> None:
    """Preallocate 256 KiB, and as many inodes as SQLite needs, freed on a full disk so that the
    final status can be written."""
    space, *others = _reserve()
    try:
        if not space.exists():
            space.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            space.write_bytes(os.urandom(RESERVE_BYTES))  # zeros might take no space
        for file in others:
            file.touch()
    except OSError:
        free_reserve()


def free_reserve() -> bool:
    """Free the reserve on a full disk; False if there is none any more."""
    freed = False
    for file in _reserve():
        with suppress(OSError):
            file.unlink()
            freed = True
    return freed


def snapshot_number(session: Session) -> int:
    """Number of the newest snapshot beside a SQLite file that its table knows of.

    In the header of the file, so a copy of the table has it too; 0 in a database server.
    """
    if session.get_bind().dialect.name != "sqlite":
        return 0
    return int(session.connection().exec_driver_sql("PRAGMA user_version").scalar() or 0)


def set_snapshot_number(session: Session, number: int) -> None:
    """Write the number of the newest snapshot."""
    if session.get_bind().dialect.name == "sqlite":
        session.connection().exec_driver_sql(f"PRAGMA user_version={number}")


def next_snapshot(session: Session) -> int:
    """The number of a snapshot that is written next."""
    number = snapshot_number(session) + 1
    set_snapshot_number(session, number)
    return number


def _reserve() -> list[Path]:
    """The files of the reserve: one with its space, and empty ones."""
    names = (".reserve", *(f".reserve-{n}" for n in range(2, sqlite.MIN_FREE_INODES + 1)))
    return [paths.results() / name for name in names]


@cache
def _engine(url: URL, pid: int) -> Engine:
    """One engine per process: SQLite connections must not be carried over a fork, hence `pid`."""
    paths.remember_home()
    if url.get_backend_name() == "sqlite":
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        migrate(_sqlite_engine(url, tables=True).execution_options(immediate=True))
        return _sqlite_engine(url, tables=False)
    engine = create_engine(url, poolclass=NullPool)
    migrate(engine.execution_options(immediate=True))
    return engine


def _sqlite_engine(url: URL, *, tables: bool) -> Engine:
    """An engine that never makes a new file in the place of a lost run table; with `tables` it
    looks for the table of runs too."""
    file = Path(url.database or "")

    def connect() -> Any:
        check_not_lost(file, tables=tables)
        return sqlite.connect(file)

    engine = create_engine(url, module=sqlite.sqlite_driver, poolclass=NullPool, creator=connect)
    event.listen(engine, "begin", sqlite.begin)
    return engine


def is_shared() -> bool:
    """True if a database server has the run table, so that several machines may write to it."""
    return sqlite_file() is None


def location() -> str:
    """URL of the run table without its password, for people to read."""
    return sqlite.database_url().render_as_string(hide_password=True)


def explain_unreachable(error: Exception) -> str | None:
    """Say why the run table cannot be opened, or `SPELLTUNE_DATABASE_URL` leads to none; None if
    that is not the error."""
    given = os.environ.get("SPELLTUNE_DATABASE_URL")
    if not given:
        if not isinstance(error, OperationalError):
            return None
        return f"the run table {sqlite_file()} cannot be used: {error.orig}"
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


def changed_a_row(session: Session, statement: Update) -> bool:
    """Execute an update; True if it changed a row."""
    return cast("CursorResult[Any]", session.execute(statement)).rowcount > 0


def upsert(session: Session, table: type[SQLModel], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; where the primary key exists, replace the other columns."""
    if not rows:
        return
    target: Table = table.__table__  # type: ignore[attr-defined]
    # ON CONFLICT is the only syntax that differs; import only the dialect in use.
    dialect = import_module(f"sqlalchemy.dialects.{session.get_bind().dialect.name}")
    statement = dialect.insert(target)
    keys = [c.name for c in target.primary_key]
    rest = {c.name: statement.excluded[c.name] for c in target.columns if c.name not in keys}
    session.connection().execute(
        statement.on_conflict_do_update(index_elements=keys, set_=rest), list(rows)
    )
