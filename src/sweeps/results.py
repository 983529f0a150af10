"""Results of a sweep: its trials, its parameter sets, and verdicts on the best."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from src import store
from src.analysis import comparison, verdicts
from src.analysis.comparison import Group
from src.analysis.verdicts import Verdict
from src.config import RunConfig, get, with_absolute_paths, with_overrides
from src.runs import launcher, packing, snapshots
from src.store.tables import Run, Status, Sweep, SweepStatus
from src.sweeps import control, estimate, ranking, search
from src.sweeps.file import SweepConfig, base_config
from src.sweeps.ranking import TEST
from src.sweeps.search import PastTrial

TOP_COUNT = 3  # settings that are confirmed
CONFIRMATION_SEEDS = 5  # with so many new ones
MAX_COMPARED = 40  # settings that the winner is judged against: the best ones, and the default
MIN_FOR_PACE = 2  # ended trials from which the time left is told
MIN_FOR_IMPORTANCE = 8  # scored settings from which importance says anything


@dataclass(frozen=True)
class SweepResults:
    """A sweep and its trials as of now."""

    row: Sweep
    sweep: SweepConfig
    trials: pd.DataFrame  # one row a trial, see `ranking.trial_table`
    settings: pd.DataFrame  # one row a setting that has a score, see `ranking.setting_table`
    others: pd.Series  # True for each trial that was scored on other data, see `ranking.other_data`
    values: Mapping[int, Mapping[str, Any]]  # setting -> its searched values
    confirming: Sequence[Run]
    usage: tuple[float | None, float | None]  # the machine's seconds and Wh of all its runs

    @property
    def counts(self) -> dict[str, int]:
        """{outcome: number of trials}."""
        return {str(k): int(n) for k, n in self.trials["became"].value_counts().items()}

    @property
    def notes(self) -> list[str]:
        """Sentences on what keeps the scores from being compared."""
        return ranking.notes(self.trials, self.settings, self.others, self.sweep)


def read(session: store.Session, row: Sweep) -> SweepResults:
    sweep = control.launched_config(row)
    runs = store.list_trials(session, row.id)
    metrics = store.trial_metrics(session, row.id, {sweep.metric, TEST})
    fingerprints = store.data_fingerprints(session, row.id)
    table = ranking.trial_table(runs, sweep, metrics, fingerprints)
    values = {(run.number or 0) // sweep.seeds: run.searched or {} for run in runs}
    others = ranking.other_data(table, sweep)
    ranked = ranking.setting_table(table, others, sweep)
    confirming = store.confirmations(session, row.id)
    usage = store.usage_of_sweep(session, row.id)
    return SweepResults(row, sweep, table, ranked, others, values, confirming, usage)


def total(found: SweepResults) -> int | None:
    """The number of trials that there will be; None if only the time ends the sweep."""
    return planned(found.sweep, found.row.seed, found.row.most_trials)


def planned(sweep: SweepConfig, seed: int, most: int | None) -> int | None:
    """The number of trials of a sweep with this seed and at most so many; None if only the time
    ends it."""
    cells = len(search.grid(sweep, seed)) * sweep.seeds if sweep.method == "grid" else None
    whole = None if most is None else most - most % sweep.seeds
    return min((n for n in (cells, whole) if n is not None), default=None)


def seconds_left(found: SweepResults) -> float | None:
    """Seconds until an active sweep has ended, by its pace so far; None where that is not known."""
    row, whole = found.row, total(found)
    ended = sum(many for what, many in found.counts.items() if what not in ranking.GOING_ON)
    if row.status != SweepStatus.ACTIVE or ended < MIN_FOR_PACE or not row.spent_seconds:
        return None
    rest = [] if whole is None else [row.spent_seconds / ended * max(whole - ended, 0)]
    if row.seconds is not None:
        rest.append(max(row.seconds - row.spent_seconds, 0.0))
    return min(rest, default=None)


def best_so_far(found: SweepResults) -> pd.DataFrame:
    """Columns trials, minutes, best: after each setting whose seeds are all scored, in the order of
    their ends; its score is the mean of its seeds.

    Minutes are those for which the processes of all ended trials had trained by then, whatever
    became of them; a pack is one process.
    """
    known = found.trials[["started_at", "ended_at", "process"]].notna().all(axis=1)
    over = found.trials[known]
    begun = over["started_at"].groupby(over["process"]).min()
    ended = over["ended_at"].groupby(over["process"]).max()
    done = ranking.scored(found.trials[~found.others])
    done = done.sort_values("ended_at", kind="stable").assign(trials=range(1, len(done) + 1))
    scores = done.groupby("setting")["score"]
    done = done.assign(score=scores.transform("mean"), seeds=scores.transform("size"))
    done = done[(done["seeds"] == found.sweep.seeds) & ~done["setting"].duplicated(keep="last")]
    best = done["score"].cummax() if found.sweep.mode == "max" else done["score"].cummin()
    return pd.DataFrame(
        {
            "trials": done["trials"].to_numpy(),
            "minutes": (_since(begun, done["ended_at"]) - _since(ended, done["ended_at"])) / 60,
            "best": best.to_numpy(),
        }
    )


def _since(times: pd.Series, moments: pd.Series) -> np.ndarray:
    """Seconds that have passed at each moment since those of the times that lie before it, in
    sum."""
    first = moments.min()
    before, then = np.sort(times - first), (moments - first).to_numpy()
    count = np.searchsorted(before, then)
    return count * then - np.concatenate([[0.0], before.cumsum()])[count]


def packs(session: store.Session, found: SweepResults) -> list[dict[str, Any]]:
    """`store.processes` of the trials, the first to start first, each with how many train `at_once`
    and its {predicted_seconds, predicted_gib}: None where nobody measured."""
    base = base_config(found.sweep)
    speaker = estimate.largest_config(found.sweep, base)
    most = base.pack_size if base.engine == "packed" else 1
    rows = []
    for one in store.processes(session, found.row.id):
        seconds, gib = packing.predicted(speaker, one["trials"]) or (None, None)
        own = {"predicted_seconds": seconds, "predicted_gib": gib}
        rows.append(one | own | {"at_once": min(one["trials"], most)})
    return rows


def importance(found: SweepResults) -> dict[str, float]:
    """{setting: its share} by PED-ANOVA (Watanabe et al. 2023): how far the values of the best
    tenth, of few settings the best four, differ from all; empty where too few have a score."""
    rows = found.settings[~found.settings["other_data"]]
    if len(rows) < MIN_FOR_IMPORTANCE or rows["score"].nunique() < 2:
        return {}
    tried = [
        PastTrial(place, found.values[setting], TrialState.COMPLETE, float(score))
        for place, (setting, score) in enumerate(rows["score"].items())
    ]
    study = search.rebuild_study(found.sweep, tried)
    always = [name for name in found.sweep.space if all(name in one.values for one in tried)]
    # The best tenth of few settings would be one or two.
    share = max(0.1, MIN_FOR_IMPORTANCE / 2 / len(rows))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
    try:
        return dict(
            optuna.importance.get_param_importances(study, evaluator=evaluator, params=always)
        )
    except (ValueError, RuntimeError):
        return {}  # all of the best are alike


# --- the winner -----------------------------------------------------------------------------------


def top(found: SweepResults, count: int = TOP_COUNT) -> list[dict[str, Any]]:
    """The searched values of the best settings."""
    return [dict(found.values[setting]) for setting in found.settings.index[:count]]


def tied(settings: pd.DataFrame) -> int:
    """The number of ranked settings that share the best score; 0 without a score."""
    scores = settings["score"]
    return int((scores == scores.iloc[0]).sum()) if len(scores) else 0


def is_confirming(found: SweepResults) -> bool:
    """True if confirmation runs are still queued or training."""
    return any(not Status(run.status).ended for run in found.confirming)


def confirm(found: SweepResults) -> list[str]:
    """Train the best settings and the default with more seeds, which took no part in the search;
    the ids of the runs. None where another tab was faster."""
    with store.writing() as session:
        known = {run.id for run in found.confirming}
        if any(run.id not in known for run in store.confirmations(session, found.row.id)):
            return []
        ids = [
            store.enqueue(session, config, sweep_id=found.row.id, confirmed_rank=rank).id
            for rank, config in confirming_configs(found)
        ]
    snapshots.write_runs(ids)
    launcher.fill_slots()
    return ids


def confirming_configs(found: SweepResults) -> list[tuple[int | None, RunConfig]]:
    """The runs that `confirm` launches, each with the place of its settings; None is the default's,
    which is among them anyway if it is one of the best."""
    base = base_config(found.sweep)
    last = max((r.config["training"]["seed"] for r in found.confirming), default=None)
    begin = base.training.seed + found.sweep.seeds if last is None else last + 1
    chosen: list[tuple[int | None, dict[str, Any]]] = [*enumerate(top(found), start=1)]
    if not any(is_default(base, values) for _, values in chosen):
        chosen.append((None, {}))
    configs = []
    for rank, values in chosen:
        name = "default" if rank is None else f"place {rank}"
        for seed in range(begin, begin + CONFIRMATION_SEEDS):
            own = {"name": f"{found.row.name} {name}", "training.seed": seed}
            config = with_overrides(base.model_dump(), values | own)
            configs.append((rank, with_absolute_paths(config, Path(found.row.folder))))
    return configs


def is_default(base: RunConfig, values: Mapping[str, Any]) -> bool:
    """True if these searched values are those of the base settings."""
    return all(get(base, name) == value for name, value in values.items())


def _is_first(group: Group) -> bool:
    """True if the runs confirm the parameters that were the best when they were launched."""
    return group.runs[0].confirmed_rank == 1


def judge(
    session: store.Session, found: SweepResults, called: Callable[[Run], str] = attrgetter("name")
) -> tuple[list[Verdict], str]:
    """The verdicts on the winner against the runner-up and the default, and on what they rest.
    `called` names a trial.

    The winner is the best of many by its validation scores, partly by luck. So it is judged on the
    test set by seeds that took no part in the search, where there are such, and else with p-values
    that are corrected for all the settings that it was compared with.
    """
    groups = comparison.grouped(found.confirming)
    ready = [group for group in groups if len(group.seeds) >= verdicts.MIN_SEEDS]
    # Where it was done twice, the newer winner counts.
    ready.sort(key=lambda group: -group.runs[0].created_at)
    ready.sort(key=lambda group: not _is_first(group))
    if len(ready) > 1 and _is_first(ready[0]):
        pairs = comparison.against(session, ready[0], ready[1:])
        return pairs, "by seeds that took no part in the search"
    base = base_config(found.sweep)
    ranked = found.settings
    defaults = np.array([is_default(base, found.values[n]) for n in ranked.index], dtype=bool)
    best = ranked[defaults | (np.arange(len(ranked)) < MAX_COMPARED)]
    if len(best) < 2:
        return [], ""
    members = found.trials[found.trials["setting"].isin(best.index)]
    runs = {run.id: run for run in store.runs_of(session, list(members["run"]))}
    of_setting = {setting: tuple(rows) for setting, rows in members.groupby("setting")["run"]}
    groups = [
        Group(called(runs[first]), tuple(runs[run] for run in of_setting[setting]))
        for setting, first in best["run"].items()
    ]
    pairs = comparison.against(session, groups[0], groups[1:])
    default = [called(runs[run]) for run in ranked.loc[defaults, "run"]]
    shown = {groups[1].name, *default} - {groups[0].name}
    tested = sum(verdict.p_value is not None for verdict in pairs)
    told = f"by the seeds of the search, corrected for the {tested} settings that were compared"
    return [verdict for verdict in pairs if verdict.b in shown], told if tested else ""


# --- as a document --------------------------------------------------------------------------------


def read_document(name: str) -> dict[str, Any]:
    """The `document` of the sweep with this id or name."""
    with store.reading() as session:
        return document(session, read(session, store.find_sweep(session, name)))


def document(session: store.Session, found: SweepResults) -> dict[str, Any]:
    """The document that `spelltune sweep show --json` prints."""
    row, sweep = found.row, found.sweep
    judged, told = judge(session, found)
    best = None
    if len(found.settings):
        first = found.settings.iloc[0]
        best = {
            "settings": top(found, 1)[0],
            "score": float(first["score"]),
            "seeds": int(first["seeds"]),
            "of_seeds": sweep.seeds,
            "trial": int(first["trial"]),
            "run": str(first["run"]),
        }
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "reason": row.reason,
        "failed_at": row.failed_at,
        "method": sweep.method,
        "pruner": sweep.pruner,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "seed": row.seed,
        "budget": {
            "trials": row.most_trials,
            "seconds": row.seconds,
            "spent_seconds": row.spent_seconds,
        },
        "counts": found.counts,
        "best": best,
        "verdicts": [
            {name: getattr(verdict, name) for name in comparison.REPORTED} for verdict in judged
        ],
        "judged": told,
        "importance": importance(found),
        "note": control.drift_notice(row),
        "notes": found.notes,
        "trials": [
            trial | {"searched": found.values[trial["setting"]]}
            for trial in json.loads(found.trials.to_json(orient="records", double_precision=15))
        ],
        "confirming": [run.id for run in found.confirming],
        "created_at": row.created_at,
        "ended_at": row.ended_at,
        **store.usage_document(*found.usage),
    }
