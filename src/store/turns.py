"""Turns in a database server, whose transactions do not wait for each other as those of SQLite."""

from enum import IntEnum

from sqlalchemy import Connection, text


class Turn(IntEnum):
    """A thing that one transaction at a time does, as the number of the server's lock."""

    MIGRATE = 7_715_001
    NAME = 7_715_002


def wait_for_turn(connection: Connection, turn: Turn) -> None:
    """No other transaction has this turn from now on, until this one ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": int(turn)})
