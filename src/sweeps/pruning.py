"""Optuna's pruners, fed from the run rows.

A decision depends only on the reports and ends before it, in time order, so a driver that restarts
comes to the same decisions.
"""

from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import TrialState

from src.config import RunConfig, get
from src.store.tables import Run, Status
from src.sweeps.file import Categorical, SweepConfig

STEPS = "training.max_steps"


def pruner(sweep: SweepConfig, base: RunConfig) -> optuna.pruners.BasePruner:
    """The sweep's pruner, which counts in optimizer steps."""
    first = base.evaluation.eval_steps
    searched = sweep.space.get(STEPS)
    most = (
        get(base, STEPS) if searched is None
        else max(searched.values) if isinstance(searched, Categorical) else int(searched.high)
    )  # fmt: skip
    match sweep.pruner:
        case "median":
            return optuna.pruners.MedianPruner()
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=first)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=max(most, first))
        case _:
            return optuna.pruners.NopPruner()


class Pruning:
    """One sweep's Optuna study for pruning, and the reports that it was given."""

    def __init__(self, sweep_id: str, sweep: SweepConfig, base: RunConfig):
        self.sweep = sweep
        # Hyperband spreads trials over its brackets by the study's name and their number.
        self.study = optuna.create_study(
            study_name=sweep_id,
            sampler=optuna.samplers.RandomSampler(),
            pruner=pruner(sweep, base),
            direction="maximize" if sweep.mode == "max" else "minimize",
        )
        self.trials: list[optuna.Trial] = []  # by number
        self.reported: dict[int, dict[int, float]] = {}
        self.behind: set[int] = set()
        self.told: set[int] = set()

    def look(
        self, trials: Sequence[Run], reports: Iterable[tuple[str, int, float, float]]
    ) -> list[Run]:
        """The training trials to prune, after these reports (run id, step, value, at)."""
        runs = {run.id: run for run in trials}
        # Numbers of trials that were deleted are asked for too: the study counts by itself.
        while len(self.trials) <= max((run.number or 0 for run in trials), default=-1):
            self.trials.append(self.study.ask())
        events: list[tuple[float, int, Run, int, float]] = [
            (at, 0, runs[run_id], step, value) for run_id, step, value, at in reports
        ]
        events += [(run.ended_at or 0.0, 1, run, 0, 0.0) for run in trials if not _goes_on(run)]
        for _, kind, run, step, value in sorted(events, key=lambda event: event[:2]):
            if kind == 0:
                self._report(run, step, value)
            else:
                self._end(run)
        return [run for run in trials if run.number in self.behind and _trains(run)]

    def _report(self, run: Run, step: int, value: float) -> None:
        number = run.number or 0
        known = self.reported.setdefault(number, {})
        # A resumed attempt says again what it had said, and the end repeats the best.
        if step in known or number in self.told:
            return
        known[step] = value
        self.trials[number].report(value, step)
        if self.trials[number].should_prune() and step < run.max_steps:
            self.behind.add(number)  # for good, though it may come to a later report

    def _end(self, run: Run) -> None:
        number = run.number or 0
        if number in self.told:
            return
        self.told.add(number)
        last = list(self.reported.get(number, {}).values())[-1:]
        if run.status == Status.COMPLETED and not run.stop_reason and last:
            self.study.tell(self.trials[number], last[0])
        elif run.stop_reason:
            self.study.tell(self.trials[number], state=TrialState.PRUNED)
        else:
            self.study.tell(self.trials[number], state=TrialState.FAIL)


def _trains(run: Run) -> bool:
    return run.status == Status.RUNNING and run.stop_requested_at is None


def _goes_on(run: Run) -> bool:
    """True if a trial may still report: a failed or interrupted one may be retried."""
    again = (Status.FAILED, Status.INTERRUPTED)
    return not Status(run.status).ended or run.status in again
