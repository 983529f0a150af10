"""The language in which a list of runs is filtered, on the command line and in the panel

    status:failed tag:spell lr>0.001 val/exact_match>50% since:2d -tag:old "two words"

All conditions must hold; several statuses are one or the other. What cannot be read is BadFilter,
with a sentence.
"""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any

from sqlalchemy import ColumnElement, func, not_, or_
from sqlmodel import col, select

from src.errors import UserError, did_you_mean
from src.store.run_columns import Column, UnknownColumn, find_column
from src.store.sql import caseless, joined
from src.store.tables import ACTIVE, Run, Status, Sweep
from src.text import caseless as caseless_text

MAX_LENGTH, MAX_TERMS = 2000, 40
STATUSES = {
    **{str(status).lower(): (status,) for status in Status},
    "active": ACTIVE,
    "ended": tuple(status for status in Status if status.ended),
}
KEYS = ("status", "tag", "name", "sweep", "since", "until", "archived")
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
ARCHIVED = {"no": False, "yes": True, "any": None}

_TERM = re.compile(
    r"""(?P<no>-?)(?:
      (?P<column>[^\W\d][\w/.-]*)\s*(?P<sign><=|>=|!=|<|>|=)\s*(?P<bound>"[^"]*"|[^\s"]+)
    | (?P<key>[^\W\d][\w.]*):(?P<value>"[^"]*"|[^\s"]*)
    | "(?P<phrase>[^"]*)"
    | (?P<word>[^\s"]+)
    )(?=\s|$)|(?P<odd>\S+)""",
    re.VERBOSE,
)


class BadFilter(UserError, ValueError):
    """A filter that cannot be read; says which part of it, and what can be written."""


@dataclass(frozen=True)
class RunFilter:
    """A filter as conditions on the run table."""

    text: str = ""
    statuses: frozenset[Status] | None = None  # None: any
    archived: bool | None = False  # None: both
    conditions: tuple[ColumnElement[bool], ...] = ()
    metrics: tuple[str, ...] = field(default=())  # names that it compares

    def where(self, *, any_status: bool = False) -> list[ColumnElement[bool]]:
        """The conditions in SQL; with `any_status` without that on the status."""
        found = list(self.conditions)
        if self.archived is not None:
            at = col(Run.archived_at)
            found.append(at.is_not(None) if self.archived else at.is_(None))
        if self.statuses is not None and not any_status:
            found.append(col(Run.status).in_(sorted(self.statuses)))
        return found


def parse(text: str, *, zone: tzinfo | None = None, archived: bool | None = False) -> RunFilter:
    """The filter of a text. Dates count in `zone` (None: that of this machine); `archived` holds
    where the text says nothing of it."""
    if len(text) > MAX_LENGTH:
        raise BadFilter(f"a filter has at most {MAX_LENGTH:,} characters")
    conditions: list[ColumnElement[bool]] = []
    metrics: list[str] = []
    chosen: set[Status] = set()
    left_out: set[Status] = set()
    terms = list(_TERM.finditer(text.replace("\0", "")))
    if len(terms) > MAX_TERMS:
        raise BadFilter(f"a filter has at most {MAX_TERMS} parts")
    for term in terms:
        key, value, negated = term["key"], _plain(term["value"]), bool(term["no"])
        if term["odd"]:
            raise BadFilter(f"cannot read {term['odd']}: a quotation mark has no other half")
        if key and not value:
            raise BadFilter(f"{key}: needs a word after the colon")
        if key == "status":
            (left_out if negated else chosen).update(_statuses(value))
            continue
        if key == "archived":
            archived = _one_of("archived", value, ARCHIVED)
            archived = not archived if negated and archived is not None else archived
            continue
        condition, metric = _condition(term, value, zone)
        metrics += metric
        # NULL is neither true nor false: what has no value is outside of a bound.
        conditions.append(not_(func.coalesce(condition, False)) if negated else condition)
    statuses = frozenset((chosen or set(Status)) - left_out) if chosen or left_out else None
    return RunFilter(text, statuses, archived, tuple(conditions), tuple(metrics))


def with_statuses(text: str, words: Sequence[str]) -> str:
    """The text with these statuses in the place of those that it names."""
    kept = [t[0] for t in _TERM.finditer(text) if t["key"] != "status"]
    return " ".join([*kept, *([f"status:{','.join(words)}"] if words else [])])


def with_term(text: str, term: str) -> str:
    """The text with a term added, or taken out where it has it."""
    terms = [t[0] for t in _TERM.finditer(text)]
    kept = [one for one in terms if one != term]
    return " ".join(kept if len(kept) < len(terms) else [*terms, term])


def term_of(key: str, value: str) -> str:
    """`tag:spell`, in quotation marks where the value needs them."""
    return f'{key}:"{value}"' if re.search(r"\s", value) else f"{key}:{value}"


def _condition(
    term: re.Match[str], value: str, zone: tzinfo | None
) -> tuple[ColumnElement[bool], list[str]]:
    """A term in SQL, and the metric that it compares."""
    word = term["phrase"] if term["phrase"] is not None else term["word"]
    if word is not None:
        return _has_text(word), []
    match term["key"]:
        case "tag":
            tags = caseless(func.coalesce(joined(col(Run.tags)), ""))
            wanted = f", {caseless_text(value)}, "
            return (", " + tags + ", ").contains(wanted, autoescape=True), []
        case "name":
            return caseless(col(Run.name)).contains(caseless_text(value), autoescape=True), []
        case "sweep":
            named = select(col(Sweep.id)).where(
                or_(col(Sweep.id) == value, col(Sweep.name) == value)
            )
            return col(Run.sweep_id).in_(named), []
        case "since":
            return col(Run.created_at) >= _time(value, zone), []
        case "until":
            return col(Run.created_at) <= _time(value, zone, until=True), []
    name, sign = (term["column"], term["sign"]) if term["key"] is None else (term["key"], ":")
    try:
        column = find_column(name)
    except UnknownColumn as error:
        if term["key"] is None:
            raise BadFilter(str(error)) from None
        known = f"; a filter knows {', '.join(f'{key}:' for key in KEYS)}, settings and metrics"
        hint = did_you_mean(name, KEYS) or f"{known}. Words with a colon stand in quotation marks"
        raise BadFilter(f"cannot read {term[0]}: nothing is called {name}{hint}") from None
    bound = value if term["bound"] is None else _plain(term["bound"])
    told = [column.name] if column.kind == "metric" else []
    return _compared(column, sign, bound, zone), told


def _has_text(word: str) -> ColumnElement[bool]:
    parts: list[Any] = [col(Run.name), col(Run.id), joined(col(Run.tags)), col(Run.notes)]
    text: Any = func.coalesce(parts[0], "")
    for part in parts[1:]:
        text = text + " " + func.coalesce(part, "")
    return caseless(text).contains(caseless_text(word), autoescape=True)


def _compared(column: Column, sign: str, text: str, zone: tzinfo | None) -> ColumnElement[bool]:
    if column.type == "text":
        if sign == ":":
            return caseless(column.sql).contains(caseless_text(text), autoescape=True)
        if sign not in ("=", "!="):
            raise BadFilter(f"{column.name} is a text: it takes = or !=, not {sign}")
        is_none = caseless_text(text) in ("none", "null")
        same = column.sql.is_(None) if is_none else column.sql == text
        return same if sign == "=" else not_(func.coalesce(same, False))
    bound = _bound(column, text, zone)
    value = column.sql
    if bound is None:
        return value.is_(None) if sign in ("=", ":") else value.is_not(None)
    if sign in ("=", ":", "!="):
        # Numbers that were computed differ in their last digits from those that people type.
        room = abs(bound) * 1e-9
        same = value.between(bound - room, bound + room) if math.isfinite(room) else value == bound
        return same if sign != "!=" else or_(value.is_(None), not_(same))
    return value.op(sign, is_comparison=True)(bound)


def _bound(column: Column, text: str, zone: tzinfo | None) -> float | None:
    """The number that a value is compared with; None for `none`."""
    word = caseless_text(text)
    if column.type == "time":
        return _time(text, zone)
    if column.type == "bool":
        return _one_of(column.name, word, {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0})
    if word in ("none", "null"):
        return None
    if column.type == "duration" and (seconds := _seconds(word)) is not None:
        return seconds
    try:
        bound = float(word.rstrip("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        example = "10m" if column.type == "duration" else "0.001 or 50%"
        raise BadFilter(f"{column.name} is compared with a number, such as {example}; got {text}")
    return bound


def _statuses(value: str) -> list[Status]:
    words = [word for word in value.lower().split(",") if word]
    return [status for word in words for status in _one_of("status", word, STATUSES)]


def _one_of(key: str, word: str, known: dict[str, Any]) -> Any:
    found = known.get(word.lower(), ...)
    if found is ...:
        hint = did_you_mean(word.lower(), known) or f"; it takes {', '.join(known)}"
        raise BadFilter(f"{key}: there is no {word}{hint}")
    return found


def _seconds(text: str) -> float | None:
    """The seconds of `90s`, `10m`, `2h`, `3d`, `1w`; None for another text."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(s|min|m|h|d|w)", text)
    return float(found[1]) * SECONDS[found[2]] if found else None


def _time(text: str, zone: tzinfo | None, *, until: bool = False) -> float:
    """The Unix time of `2d` (ago), `today`, `2026-11-28` or `2026-11-28T10:00`; with `until` the
    end of a day that is named."""
    now = datetime.now(zone).astimezone(zone)
    word = text.lower()
    if (seconds := _seconds(word)) is not None:
        return time.time() - seconds
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": midnight, "yesterday": midnight - timedelta(days=1)}
    try:
        at = days.get(word) or datetime.fromisoformat(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=now.tzinfo)
        is_day = word in days or len(text) <= 10
        return (at + timedelta(days=1) if until and is_day else at).timestamp()
    except (ValueError, OverflowError):
        raise BadFilter(
            f"{text} is no time: write 2d, 12h, today, 2026-11-28 or 2026-11-28T10:00"
        ) from None


def _plain(text: str | None) -> str:
    """A value without its quotation marks."""
    return (text or "").strip('"')
