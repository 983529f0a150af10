"""The columns of a list of runs: their own, their settings and their metrics, by name, in SQL"""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import JSON, Float, case, func, literal, select, type_coerce
from sqlmodel import col

from src.config import Setting, settings, stored_values
from src.errors import UserError, did_you_mean
from src.store.tables import LatestMetric, Run

# Metrics without a slash in their name.
PLAIN_METRICS = ("grad_norm", "tokens", "tokens_per_second")


class UnknownColumn(UserError, LookupError):
    """No column has that name, or several settings end in it."""


@dataclass(frozen=True)
class Column:
    """A column by which runs are shown, sorted and filtered."""

    name: str  # as recorded: status, lora.r, val/exact_match
    kind: Literal["run", "setting", "metric"]
    type: Literal["number", "text", "bool", "time", "duration"] = "number"

    @property
    def sql(self) -> Any:
        """The column's value of a run, an expression; NULL where there is none."""
        if self.kind == "metric":
            return _metric(self.name)
        if self.kind == "setting":
            return _setting(self)
        return _OWN[self.name]()

    @property
    def ascends(self) -> bool:
        """True if a reader expects the smallest value first: names do, scores do not."""
        return self.type == "text"


def _duration() -> Any:
    """`Run.seconds`: those of all attempts."""
    this = func.coalesce(col(Run.ended_at), time.time()) - col(Run.started_at)
    earlier = col(Run.earlier_seconds)
    return case((col(Run.started_at).is_(None), earlier), else_=func.coalesce(earlier, 0.0) + this)


_OWN = {
    "launched": lambda: col(Run.created_at),
    "name": lambda: col(Run.name),
    "status": lambda: col(Run.status),
    "progress": lambda: func.coalesce(col(Run.step), 0) * 1.0 / col(Run.max_steps),
    "step": lambda: func.coalesce(col(Run.step), 0),
    "duration": _duration,
    "attempt": lambda: col(Run.attempt),
    "notes": lambda: col(Run.notes),
}
OWN: dict[str, Column] = {
    "launched": Column("launched", "run", "time"),
    "name": Column("name", "run", "text"),
    "status": Column("status", "run", "text"),
    "progress": Column("progress", "run"),
    "step": Column("step", "run"),
    "duration": Column("duration", "run", "duration"),
    "attempt": Column("attempt", "run"),
    "notes": Column("notes", "run", "text"),
}


@cache
def setting_columns() -> dict[str, Column]:
    """{dotted name: column} of every setting."""
    return {s.name: Column(s.name, "setting", _type(s)) for s in settings()}


def _type(setting: Setting) -> Literal["number", "text", "bool"]:
    if setting.type is bool:
        return "bool"
    return "number" if setting.type in (int, float) else "text"


# What people type in a find box besides the last part of a setting's name.
SHORT_NAMES = {
    "lr": "training.learning_rate",
    "rank": "lora.r",
    "batch_size": "training.per_device_train_batch_size",
    "accumulation": "training.gradient_accumulation_steps",
}


@cache
def _short_names() -> dict[str, list[str]]:
    """{short name: the settings that it may stand for}: `lr`, `batch_size`, `r`."""
    found: dict[str, list[str]] = {}
    for name in setting_columns():
        found.setdefault(name.rpartition(".")[2], []).append(name)
    return found | {short: [name] for short, name in SHORT_NAMES.items()}


def find_column(name: str) -> Column:
    """The column of a name: one of a run's own, a setting, or a recorded metric."""
    if name in setting_columns() and name != "name":
        return setting_columns()[name]
    if name in OWN:
        return OWN[name]
    meant = _short_names().get(name, [])
    if len(meant) == 1:
        return setting_columns()[meant[0]]
    if meant:
        raise UnknownColumn(f"{name} may be {' or '.join(meant)}: write it whole")
    if name in PLAIN_METRICS or "/" in name:
        return Column(name, "metric")
    known = [*OWN, *setting_columns(), *_short_names(), *PLAIN_METRICS]
    hint = did_you_mean(name, known) or "; settings are named as in lora.r, metrics as in val/loss"
    raise UnknownColumn(f"no column is called {name}{hint}")


def _metric(name: str) -> Any:
    query = select(col(LatestMetric.value)).where(
        col(LatestMetric.run_id) == col(Run.id), col(LatestMetric.name) == name
    )
    return query.correlate(Run).scalar_subquery()


def _setting(column: Column) -> Any:
    value: Any = type_coerce(Run.config, JSON)
    for part in column.name.split("."):
        value = value[part]
    usual = stored_values({}).get(column.name)
    if column.type == "number":
        found = value.as_float()
    elif column.type == "bool":
        # As a number: PostgreSQL has no maximum of truths, by which groups are sorted.
        found = case((value.as_boolean(), 1.0), else_=0.0)
    else:
        found = value.as_string()
    # A run that is older than the setting has no value of it.
    if column.type == "number" and isinstance(usual, int | float):
        return func.coalesce(found, literal(float(usual), Float))
    return func.coalesce(found, usual) if isinstance(usual, str) else found
