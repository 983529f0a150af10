"""Numbered migrations that bring an older run table up to the schema of `tables.py`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text
from sqlmodel import SQLModel

from src.config import config_key, paths_found
from src.store.outcome import end_reason_of_sentence
from src.store.tables import Status  # importing it registers the tables
from src.store.turns import Turn, wait_for_turn


def _create_missing_tables(connection: Connection) -> None:
    SQLModel.metadata.create_all(connection)


def _add_lineage(connection: Connection) -> None:
    _add_columns(connection, "run", "host", "parent_id", "parent_step")
    _create_missing_tables(connection)


def _add_notes(connection: Connection) -> None:
    _add_columns(connection, "run", "tags", "notes")


def _add_sweeps(connection: Connection) -> None:
    _add_columns(connection, "run", "sweep_id", "number", "seed_index", "searched")
    _add_columns(connection, "run", "stop_reason", "queue_at")
    _create_missing_tables(connection)
    _add_indexes(connection, "run")


def _add_sweep_lease(connection: Connection) -> None:
    _add_columns(connection, "sweep", "host", "seen_at")


def _add_hold(connection: Connection) -> None:
    _add_columns(connection, "run", "held_at")


def _add_sweep_base(connection: Connection) -> None:
    _add_columns(connection, "sweep", "base")


def _add_end_reason(connection: Connection) -> None:
    _add_columns(connection, "run", "end_reason", "confirmed_rank")
    names = "id, name, status, reason, stop_reason, sweep_id, number"
    for row in connection.execute(text(f"SELECT {names} FROM run")).mappings().all():
        connection.execute(
            text(
                "UPDATE run SET end_reason = :end_reason, confirmed_rank = :confirmed_rank "
                "WHERE id = :id"
            ),
            values_of_schema_8(dict(row)) | {"id": row["id"]},
        )


def _add_failed_starts(connection: Connection) -> None:
    _add_columns(connection, "run", "failed_starts")


def _add_forgotten(connection: Connection) -> None:
    # Two columns came without a number: schemas 1 and 4 exist with and without them.
    _add_columns(connection, "run", "resume_step")
    _add_columns(connection, "sweep", "folder")
    rows = connection.execute(text("SELECT id, path FROM sweep WHERE folder IS NULL"))
    for sweep_id, path in rows.all():
        values = values_of_schema_10({"path": path}) | {"id": sweep_id}
        change = "UPDATE sweep SET path = :path, folder = :folder WHERE id = :id"
        connection.execute(text(change), values)


def _add_failed_drivers(connection: Connection) -> None:
    _add_columns(connection, "sweep", "failed_starts", "driver_started_at", "failed_at")


def _add_notices(connection: Connection) -> None:
    _create_missing_tables(connection)


def _add_archive(connection: Connection) -> None:
    _add_columns(connection, "run", "archived_at", "config_key")
    _add_indexes(connection, "run")
    rows = text("SELECT id, config, parent_id, parent_step FROM run WHERE config_key IS NULL")
    for run_id, config, *parent in connection.execute(rows).all():
        values = json.loads(config) if isinstance(config, str) else config
        change = text("UPDATE run SET config_key = :key WHERE id = :id")
        key = config_key(paths_found(values), *parent)
        connection.execute(change, {"key": key, "id": run_id})


def _add_meters(connection: Connection) -> None:
    _add_columns(connection, "run", "machine_seconds", "energy_wh")
    _create_missing_tables(connection)


def _add_earlier_seconds(connection: Connection) -> None:
    _add_columns(connection, "run", "earlier_seconds")
    # Runs that wait, or were cancelled while they did, had kept the start of their last attempt.
    waited = "UPDATE run SET started_at = NULL WHERE status IN ('QUEUED', 'CANCELLED')"
    connection.execute(text(waited))
    # Of attempts from before it what lies between their first metric and their last one is known.
    known = text(
        "SELECT run.id, metric.attempt, max(metric.at) - min(metric.at) FROM run "
        "JOIN metric ON metric.run_id = run.id AND metric.attempt < run.attempt "
        "WHERE run.attempt > 1 AND run.earlier_seconds IS NULL GROUP BY run.id, metric.attempt"
    )
    spans: dict[str, float] = {}
    for run_id, _, seconds in connection.execute(known).all():
        spans[run_id] = spans.get(run_id, 0.0) + seconds
    change = text("UPDATE run SET earlier_seconds = :seconds WHERE id = :id")
    for run_id, total in spans.items():
        connection.execute(change, {"seconds": total, "id": run_id})


def values_of_schema_10(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the columns that schema 10 made sure of, for a sweep's row from before it."""
    path = row.get("path") or ""
    return {"path": path, "folder": row.get("folder") or str(Path(path).parent.absolute())}


def values_of_schema_8(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the columns that schema 8 added, for a run's row from before it."""
    pruned = row.get("stop_reason") is not None
    place = re.search(r" place (\d+)$", row["name"])
    confirms = row.get("sweep_id") is not None and row.get("number") is None and place
    return {
        "end_reason": end_reason_of_sentence(
            Status(row["status"]), row.get("reason"), pruned=pruned
        ),
        "confirmed_rank": int(place[1]) if confirms and place else None,
    }


def _add_columns(connection: Connection, table: str, *names: str) -> None:
    """Add columns as tables.py defines them; a table that was created today has them already."""
    existing = {column["name"] for column in inspect(connection).get_columns(table)}
    for name in names:
        if name not in existing:
            column = SQLModel.metadata.tables[table].columns[name]
            kind = column.type.compile(connection.dialect)
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {name} {kind}"))


def _add_indexes(connection: Connection, table: str) -> None:
    """Add the missing indexes of tables.py whose columns are there: others come later."""
    existing = {column["name"] for column in inspect(connection).get_columns(table)}
    for index in SQLModel.metadata.tables[table].indexes:
        if existing.issuperset(column.name for column in index.columns):
            index.create(connection, checkfirst=True)


# Each brings the schema from its index to the next number; never change one that has been released.
MIGRATIONS = [
    _create_missing_tables,
    _add_lineage,
    _add_notes,
    _add_sweeps,
    _add_sweep_lease,
    _add_hold,
    _add_sweep_base,
    _add_end_reason,
    _add_failed_starts,
    _add_forgotten,
    _add_failed_drivers,
    _add_notices,
    _add_archive,
    _add_meters,
    _add_earlier_seconds,
]


def migrate(engine: Engine) -> None:
    """Run the migrations that the database has not seen, in one transaction.

    RuntimeError if a newer Spelltune wrote it.
    """
    with engine.execution_options(immediate=False).connect() as connection:
        known = inspect(connection).has_table("schema_version")
        if known and _version(connection) == len(MIGRATIONS):
            return
    with engine.begin() as connection:
        wait_for_turn(connection, Turn.MIGRATE)
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


def _version(connection: Connection) -> int:
    return connection.execute(text("SELECT max(version) FROM schema_version")).scalar() or 0
