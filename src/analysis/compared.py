"""The comparison of the runs that somebody names, with what their suites say"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src import store
from src.analysis import comparison, suite_comparison
from src.analysis.comparison import Comparison
from src.analysis.suite_comparison import SuiteComparison


@dataclass(frozen=True)
class Compared:
    """Verdicts on runs, and on their suites."""

    runs: Comparison
    suites: SuiteComparison

    def document(self) -> dict[str, Any]:
        """The document that `spelltune compare --json` prints."""
        return comparison.document(self.runs) | suite_comparison.document(self.suites)


def compare_named(names: Sequence[str], sweep: str | None = None) -> Compared:
    """The comparison of these runs, and of all of a sweep. UnknownRun for less than two."""
    with store.reading() as session:
        chosen = {row.id: row for row in (store.find(session, name) for name in names)}
        if sweep is not None:
            trials = store.runs_of_sweep(session, store.find_sweep(session, sweep).id)
            # Trials are listed without what they used.
            full = store.runs_of(session, [row.id for row in trials])
            chosen |= {row.id: row for row in full}
        if len(chosen) < 2:
            raise store.UnknownRun("compare needs two or more different runs")
        found = comparison.compare(session, list(chosen.values()))
        return Compared(found, suite_comparison.compare(session, found.groups))
