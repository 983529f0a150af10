"""Reads all that a report tells of: the runs, their verdicts and, of a sweep, its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import pandas as pd

from src import store
from src.analysis import comparison, misspellings, suite_comparison
from src.analysis.comparison import SPLITS, Comparison, Group
from src.analysis.suite_comparison import SuiteComparison
from src.analysis.verdicts import Verdict
from src.store.tables import Event, Run
from src.sweeps import results
from src.sweeps.results import SweepResults

LABEL = attrgetter("label")
MAX_BEST = 3  # settings of a sweep whose words and settings are told in full


@dataclass(frozen=True)
class SweepContent:
    """A sweep, the verdicts on its winner, and what these rest on."""

    found: SweepResults
    judged: list[Verdict]
    how: str


@dataclass(frozen=True)
class Answers:
    """The answers of one config: those of one adapter for words, of all seeds for their kinds."""

    group: Group
    run: Run
    step: int
    frame: pd.DataFrame
    kinds: Mapping[str, float]  # mean over the seeds
    seeds: int


@dataclass(frozen=True)
class Content:
    """All that a report tells of."""

    runs: Sequence[Run]
    found: Comparison
    on_suites: SuiteComparison
    latest: Mapping[str, Mapping[str, float | None]]  # run id -> last value of each metric
    events: Mapping[str, Sequence[Event]]
    parents: Mapping[str, Run]  # of the forks among the runs, where they are still there
    split: str  # of the answers
    answers: Sequence[Answers]
    sweep: SweepContent | None = None

    @property
    def is_one_run(self) -> bool:
        return len(self.runs) == 1 and self.sweep is None

    @property
    def title(self) -> str:
        if self.sweep:
            return f"Sweep {self.sweep.found.row.name}"
        groups = self.found.groups
        if len(groups) == 1:
            return groups[0].name
        if len(groups) == 2:
            return f"{groups[0].name} and {groups[1].name}"
        return f"{len(groups)} configs compared"


def read(names: Sequence[str], sweep: str | None = None) -> Content:
    """All there is to tell of these runs, or of a sweep; UnknownRun names the closest match."""
    with store.reading() as session:
        told = _sweep(session, sweep) if sweep is not None else None
        ids = dict.fromkeys(store.find(session, name).id for name in names)
        if told is not None:
            ids |= dict.fromkeys(_best_runs(told))
        runs = store.runs_of(session, list(ids))
        if not runs and told is None:
            raise store.UnknownRun("name a run to report on, or a sweep with --sweep")
        found = comparison.compare(session, runs, most_adapters=0, called=LABEL)
        on_suites = suite_comparison.compare(session, found.groups)
        latest = store.latest_metrics(session, [run.id for run in runs])
        events = {run.id: store.list_events(session, run.id) for run in runs}
        forked = store.runs_of(session, [run.parent_id for run in runs if run.parent_id])
        scored = store.final_evaluations(session, runs)
    split, answers = _answers(found.groups, scored)
    parents = {run.id: run for run in forked}
    return Content(runs, found, on_suites, latest, events, parents, split, answers, told)


def _sweep(session: store.Session, name: str) -> SweepContent:
    found = results.read(session, store.find_sweep(session, name))
    return SweepContent(found, *results.judge(session, found, LABEL))


def _best_runs(told: SweepContent) -> list[str]:
    """Ids of the runs that confirm the best settings; without any, of those that found them."""
    if told.found.confirming:
        return [run.id for run in told.found.confirming]
    trials, best = told.found.trials, told.found.settings.index[:MAX_BEST]
    return [str(run) for s in best for run in trials.loc[trials["setting"] == s, "run"]]


def _answers(groups: Sequence[Group], scored: comparison.Scored) -> tuple[str, list[Answers]]:
    """The split on which all configs were scored, and their answers to it."""
    known = []
    for group in groups:
        runs = [r for r in group.seeds or group.runs if comparison.split_of([r], scored)]
        known += [(group, runs)] if runs else []
    every = [run for _, runs in known for run in runs]
    split = comparison.split_of(every, scored) or SPLITS[1]
    found = []
    for group, runs in known:
        frames = {}
        for run in runs:
            try:
                frames[run.id] = misspellings.read(scored[run.id, split].path)
            except (KeyError, OSError):
                continue  # not scored on it, or its file is gone
        if not frames:
            continue
        first = next(run for run in runs if run.id in frames)
        counts = [misspellings.counts(frame) for frame in frames.values()]
        kinds = {k: sum(c.get(k, 0) for c in counts) / len(counts) for own in counts for k in own}
        step = scored[first.id, split].step
        found.append(Answers(group, first, step, frames[first.id], kinds, len(counts)))
    return split, found
