"""The runs that a person asks for in one line, as `spelltune runs` lists them"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.store.database import reading
from src.store.metrics import latest_metrics
from src.store.run_columns import Column, find_column
from src.store.run_filter import parse
from src.store.run_list import count_runs, page_of_runs
from src.store.tables import Run


@dataclass(frozen=True)
class FoundRuns:
    """The first runs that fit a filter, and how many fit."""

    rows: Sequence[Run]
    latest: Mapping[str, Mapping[str, float | None]]  # run id -> last value of each metric
    sorted_by: Column
    total: int

    def document(self) -> list[dict[str, Any]]:
        """The document that `spelltune runs --json` prints."""
        return [_document(run, self.latest[run.id]) for run in self.rows]


def find_runs(
    filter: str = "", *, sort: str = "launched", limit: int | None = None, archived: bool = False
) -> FoundRuns:
    """The runs that fit the conditions of a filter, sorted by a column; numbers from the highest,
    unless `-` stands before its name."""
    found = parse(filter, archived=archived)
    column = find_column(sort.removeprefix("-"))
    ascending = column.ascends != sort.startswith("-")
    with reading() as session:
        rows = page_of_runs(session, found, sort=column.name, ascending=ascending, limit=limit)
        latest = latest_metrics(session, [run.id for run in rows])
        counts = count_runs(session, found)
    total = sum(counts.get(status, 0) for status in found.statuses or counts)
    return FoundRuns(rows, latest, column, total)


def _document(run: Run, metrics: Mapping[str, float | None]) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "reason": run.reason,
        "step": run.step or 0,
        "max_steps": run.max_steps,
        "metrics": metrics,
        "tags": run.tags or [],
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "seconds": run.seconds,
        "archived_at": run.archived_at,
    }
