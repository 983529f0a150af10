"""The run table as a SQLite file: where it is, how it is opened, and when its disk is full."""

import os
import shutil
import time
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy.engine import URL, make_url

from src import paths
from src.files import bytes_of
from src.text import caseless

try:
    import pysqlite3 as sqlite_driver  # bundles a newer SQLite than most Pythons link
except ImportError:
    import sqlite3 as sqlite_driver

__all__ = [
    "busy_timeout_seconds",
    "connect",
    "database_url",
    "is_full",
    "sqlite_driver",
    "sqlite_file",
    "url_of",
]

NETWORK_DISKS = ("nfs", "cifs", "smb", "fuse", "9p", "lustre", "ceph", "gluster", "vboxsf", "afs")

# With less free space or fewer free inodes than this, SQLite cannot create the -wal and -shm files
# beside a database.
MIN_FREE_BYTES = 64 * 1024
MIN_FREE_INODES = 2

# SQLite's busy timeout in this thread: how long a write waits for another one to finish.
busy_timeout_seconds = ContextVar("busy_timeout_seconds", default=15.0)


def url_of(file: Path) -> URL:
    """SQLAlchemy URL of a SQLite file. From parts: in text, `?` and `#` would end its path."""
    return URL.create("sqlite", database=str(file))


def database_url() -> URL:
    """SQLAlchemy URL of the run table: `SPELLTUNE_DATABASE_URL`, or the SQLite file
    results/spelltune.db.

    A SQLite file that is named from the current folder is absolute in the environment from the
    first read on, as child processes run in another folder.
    """
    given = os.environ.get("SPELLTUNE_DATABASE_URL")
    if not given:
        return url_of(paths.results() / "spelltune.db")
    url = make_url(given)
    named = url.database or ""
    if url.get_backend_name() != "sqlite" or named.startswith(("file:", ":")) or not named:
        return url
    if not Path(named).is_absolute():
        url = url.set(database=str(Path(named).expanduser().absolute()))
        os.environ["SPELLTUNE_DATABASE_URL"] = url.render_as_string(hide_password=False)
    return url


def sqlite_file() -> Path | None:
    """Path of the run table's SQLite file; None if a database server has the table."""
    url = database_url()
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def connect(file: Path) -> Any:
    """A DBAPI connection to a SQLite file, with the pragmas and the function that queries on the
    run table need."""
    connection = _connect(file)
    connection.create_function("caseless", 1, _caseless, deterministic=True)
    return connection


def _caseless(value: str | None) -> str | None:
    return None if value is None else caseless(str(value))


def _connect(file: Path) -> Any:
    timeout = busy_timeout_seconds.get()
    connection = sqlite_driver.connect(file, timeout=timeout, check_same_thread=False)
    try:
        _set_pragmas(connection)
    except sqlite_driver.OperationalError:
        connection.close()
        written = bytes_of(file.with_name(f"{file.name}-wal")) > 0
        if not is_read_only(file) and (written or not is_full(file.parent)):
            raise
        # Opening a WAL database creates -wal and -shm, which fails on a full disk and on one that
        # can be read only. No -wal means that there is no other writer, so `immutable=1` is safe.
        address = f"{file.absolute().as_uri()}?{'mode=ro' if written else 'immutable=1'}"
        connection = sqlite_driver.connect(address, uri=True, check_same_thread=False)
        connection.isolation_level = None
    return connection


def _set_pragmas(connection: Any) -> None:
    connection.isolation_level = None  # `begin` starts transactions explicitly
    _set_journal_mode(connection)
    # Without a limit the log keeps the size that one long read once let it grow to.
    connection.execute("PRAGMA journal_size_limit=4194304")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _set_journal_mode(connection: Any) -> None:
    """Set the mode, and wait for other connections for as long as for a lock.

    SQLite itself does not wait here, as it reads before it locks: of two processes that open a new
    file at once, one would fail.
    """
    deadline = time.monotonic() + busy_timeout_seconds.get()
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode={'DELETE' if why_not_wal() else 'WAL'}")
        except sqlite_driver.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def begin(connection: Any) -> None:
    """Begin a transaction on a SQLAlchemy connection; with the write lock if it is `immediate`."""
    # A deferred transaction that reads and then writes fails under load, whatever the timeout.
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@cache
def why_not_wal() -> str | None:
    """Why SQLite must use DELETE mode here, which is slower but safe; None if WAL is safe."""
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


def is_full(folder: Path) -> bool:
    """True if the disk of `folder` has no room for the files that SQLite writes to."""
    return lacks_inodes(folder) or shutil.disk_usage(folder).free < MIN_FREE_BYTES


def lacks_inodes(folder: Path) -> bool:
    """True if the disk of `folder` takes no new files, whatever space it has."""
    disk = os.statvfs(folder)
    # Disks without a fixed number of inodes, such as btrfs, say that they have none at all.
    return disk.f_files > 0 and disk.f_favail < MIN_FREE_INODES


def is_read_only(file: Path) -> bool:
    """True if a file that is there, or its folder, cannot be written: on a disk that is mounted
    read-only also by root."""
    return file.exists() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))
