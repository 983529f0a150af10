"""Detects and marks a damaged SQLite file; `runs.snapshots` then rebuilds the run table."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from src.store.sqlite import sqlite_driver, sqlite_file

# Suffix of the marker file beside a database in which a damaged page was read.
MARKER_SUFFIX = ".damaged"


@contextmanager
def mark_damage() -> Iterator[None]:
    """Create the marker file if the block raises because the database is damaged."""
    try:
        yield
    except DatabaseError as error:
        if (file := sqlite_file()) and _says_damaged(error.orig):
            file.with_name(file.name + MARKER_SUFFIX).touch()
        raise


def _says_damaged(error: object) -> bool:
    # SQLITE_CORRUPT and SQLITE_NOTADB; older Pythons do not carry the error code.
    return "malformed" in str(error) or "not a database" in str(error)


def damage_marker() -> Path | None:
    """Marker file of a detected corruption, or None."""
    file = sqlite_file()
    marker = file.with_name(file.name + MARKER_SUFFIX) if file else None
    return marker if marker and marker.exists() else None


def is_damaged(file: Path) -> bool:
    """True if the file is not a whole SQLite database; reads all of it."""
    try:
        connection = sqlite_driver.connect(file, timeout=15)
        try:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
    except sqlite_driver.DatabaseError as error:
        return _says_damaged(error)
    return bool(verdict != "ok")
