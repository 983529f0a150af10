"""Detects and marks a damaged or lost SQLite file; `runs.snapshots` then rebuilds the run table."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from src import paths
from src.store.sqlite import sqlite_driver, sqlite_file

LOST = "the run table is missing or empty"

_DAMAGES = ("malformed", "not a database", "no such table", LOST)

# Suffix of the marker file beside a database in which a damaged page was read.
MARKER_SUFFIX = ".damaged"


@contextmanager
def mark_damage() -> Iterator[None]:
    """Create the marker file if the block raises because the database is damaged."""
    try:
        yield
    except DatabaseError as error:
        if (file := sqlite_file()) and says_damaged(error.orig):
            with suppress(OSError):  # of a disk that may be what damages it
                file.with_name(file.name + MARKER_SUFFIX).touch()
        raise


def says_damaged(error: object) -> bool:
    """True if an error of SQLite means that the file is damaged or lost."""
    # SQLITE_CORRUPT and SQLITE_NOTADB; older Pythons do not carry the error code.
    return any(words in str(error) for words in _DAMAGES)


def damage_marker() -> Path | None:
    """Marker file of a detected corruption, or None."""
    file = sqlite_file()
    marker = file.with_name(file.name + MARKER_SUFFIX) if file else None
    return marker if marker and marker.exists() else None


def check_not_lost(file: Path, *, tables: bool = False) -> None:
    """Refuse to open the run table's file if it is missing or empty while the home has snapshots
    of runs: SQLite would create a new one, and the runs would be gone. With `tables` a database
    without a table of runs is refused too."""
    if is_lost(file, tables=tables):
        raise sqlite_driver.OperationalError(
            f"{LOST}: {file}; it is built again from the files of its runs"
        )


def is_lost(file: Path, *, tables: bool = True) -> bool:
    """True if the run table's file holds no rows of the runs that the home has snapshots of."""
    try:
        empty = file.stat().st_size == 0
    except FileNotFoundError:
        empty = True
    if not (empty or tables) or file != sqlite_file():
        return False
    snapshots = (paths.results().glob(p) for p in ("runs/*/run.json*", "sweeps/*.json*"))
    if not any(True for found in snapshots for _ in found):
        return False
    return empty or not _has_table(file)


def _has_table(file: Path) -> bool:
    """False if a whole SQLite database has no table of runs."""
    try:
        connection = sqlite_driver.connect(file, timeout=15)
        try:
            query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'run'"
            return connection.execute(query).fetchone() is not None
        finally:
            connection.close()
    except sqlite_driver.DatabaseError:
        return True  # locked, or damaged, which is found where it is read


def is_damaged(file: Path) -> bool:
    """True if the file is not a whole SQLite database with the run table; reads all of it."""
    if is_lost(file):
        return True
    try:
        connection = sqlite_driver.connect(file, timeout=15)
        try:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
    except sqlite_driver.DatabaseError as error:
        return says_damaged(error)
    return bool(verdict != "ok")
