"""The best score of each sweep, for a list of all sweeps"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from src import store
from src.config import ConfigError
from src.store.tables import Sweep
from src.sweeps import control, ranking, results
from src.sweeps.file import SweepConfig
from src.sweeps.trials import data_searched

MAX_KEPT = 256  # sweeps that are remembered while nothing of them changes
COLUMNS = ("trial", "setting", "run", "became", "score", "data_fingerprint")


@dataclass(frozen=True)
class Best:
    """The state of a sweep in a few numbers, as its own page tells them."""

    total: int | None  # trials that there will be; None if only the time ends it
    metric: str
    score: float | None  # of the best setting; None before any has one
    sd: float | None  # over its seeds; None of one
    tied: int  # settings that have that score


def of_each(session: store.Session, rows: Sequence[Sweep]) -> dict[str, Best]:
    """{sweep id: its Best}, by two queries for all sweeps; without those whose file this version
    cannot read."""
    launched = {}
    for row in rows:
        key = (row.file, row.path, json.dumps(row.base))
        try:
            launched[row.id] = key, _config(*key)
        except ConfigError:
            continue
    trials = store.scores_of_all(session, {sweep.metric for _, sweep in launched.values()})
    found = {}
    for row in rows:
        if row.id in launched:
            key, sweep = launched[row.id]
            cells = [_cells(*trial, sweep) for trial in trials.get(row.id, [])]
            found[row.id] = _best(key, row.seed, row.most_trials, tuple(cells))
    return found


@lru_cache(maxsize=MAX_KEPT)
def _config(file: str, path: str, base: str) -> SweepConfig:
    return control.launched_file(file, path, json.loads(base))


def _cells(trial: Any, values: dict[str, float | None], sweep: SweepConfig) -> tuple[Any, ...]:
    """COLUMNS of a trial, and its values of what decides on its data."""
    asked = [str((trial.searched or {}).get(name)) for name in data_searched(sweep)]
    return (
        trial.number, trial.number // sweep.seeds, trial.id, ranking.outcome(trial),
        values.get(sweep.metric), trial.data_fingerprint, *asked,
    )  # fmt: skip


@lru_cache(maxsize=MAX_KEPT)
def _best(
    key: tuple[str, str, str], seed: int, most: int | None, trials: tuple[tuple[Any, ...], ...]
) -> Best:
    sweep = _config(*key)
    frame = pd.DataFrame(list(trials), columns=[*COLUMNS, *data_searched(sweep)])
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *sweep.space])))
    ranked = ranking.setting_table(frame, ranking.other_data(frame, sweep), sweep)
    total = results.planned(sweep, seed, most)
    if ranked.empty:
        return Best(total, sweep.metric, None, None, 0)
    first = ranked.iloc[0]
    sd = float(first["sd"]) if first["seeds"] > 1 else None
    return Best(total, sweep.metric, float(first["score"]), sd, results.tied(ranked))
