"""The parameters that a sweep tries next: grids, and Optuna's samplers over its earlier trials.

A suggestion depends on nothing but the file, the sweep's seed, its own number and the results so
far, so it is the same after a restart.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from src.config import ConfigError, RunConfig, by_name, get
from src.sweeps.file import (
    ACCUMULATION,
    MICRO_BATCH,
    Categorical,
    Parameter,
    SweepConfig,
    base_config,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

MAX_GRID_CELLS = 100_000  # of a grid


MAX_REDRAWS = 50  # times, for values that have not been tried


@dataclass(frozen=True)
class PastTrial:
    """Parameters that were suggested before, and their outcome."""

    number: int
    values: Mapping[str, Any]
    state: TrialState  # RUNNING also while it waits in the queue
    value: float | None = None  # of the metric where it is complete
    reports: Mapping[int, float] = field(default_factory=dict)  # step -> metric


def suggest(
    sweep: SweepConfig, seed: int, number: int, tried: Sequence[PastTrial]
) -> dict[str, Any] | None:
    """Parameters number `number`: {setting: value}; None where nothing is left to try."""
    if sweep.method == "grid":
        cells = grid(sweep, seed)
        return dict(cells[number]) if number < len(cells) else None
    base = base_config(sweep)
    known = {computation_key(base, one.values) for one in tried}
    study = rebuild_study(sweep, tried)
    for again in range(MAX_REDRAWS):
        state = np.random.SeedSequence([seed, number, again]).generate_state(1)
        # In a small space TPE comes back to its favourites; the budget is there to try others.
        method = sweep.method if again < MAX_REDRAWS // 2 else "random"
        study.sampler = sampler(method, int(state[0]))
        trial = study.ask()
        values = draw(sweep, trial)
        if computation_key(base, values) not in known:
            return values
        study.tell(trial, state=TrialState.FAIL)
    # Drawing seldom finds the last ones of a small space.
    if not _is_countable(sweep):
        return None
    return next((dict(c) for c in grid(sweep, seed) if computation_key(base, c) not in known), None)


def sampler(method: str, seed: int) -> optuna.samplers.BaseSampler:
    if method == "tpe":
        # With trials under way at the same time, each must not be drawn to the same place.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def draw(sweep: SweepConfig, trial: optuna.Trial) -> dict[str, Any]:
    """The trial's values of the settings whose `when` conditions are met."""
    values: dict[str, Any] = {}
    for name, space in distributions(sweep).items():
        if not _met(sweep.space[name], values):
            continue
        match space:
            case CategoricalDistribution():
                place = trial.suggest_categorical(name, range(len(space.choices)))
                values[name] = _listed(sweep, name)[place]
            case IntDistribution():
                values[name] = trial.suggest_int(
                    name, space.low, space.high, step=space.step, log=space.log
                )
            case FloatDistribution():
                values[name] = trial.suggest_float(
                    name, space.low, space.high, step=space.step, log=space.log
                )
    return values


def _met(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    return all(name in values and values[name] in some for name, some in parameter.when.items())


def distributions(sweep: SweepConfig) -> dict[str, BaseDistribution]:
    """The space as Optuna distributions, categoricals as indices: a value may be anything."""
    return {name: _distribution(by_name()[name].type, p) for name, p in sweep.space.items()}


def _distribution(kind: Any, parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Categorical):
        return CategoricalDistribution(range(len(parameter.values)))
    low, high, step = parameter.low, parameter.high, parameter.step
    if kind is int:
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=step)


def _listed(sweep: SweepConfig, name: str) -> list[Any]:
    parameter = sweep.space[name]
    assert isinstance(parameter, Categorical)
    return parameter.values


def rebuild_study(sweep: SweepConfig, tried: Iterable[PastTrial]) -> optuna.Study:
    """An in-memory Optuna study of earlier trials: the run rows are the only record."""
    study = optuna.create_study(direction="maximize" if sweep.mode == "max" else "minimize")
    known = distributions(sweep)
    for one in sorted(tried, key=lambda one: one.number):
        there = {
            name: _listed(sweep, name).index(value)
            if isinstance(known[name], CategoricalDistribution)
            else value
            for name, value in one.values.items()
        }
        study.add_trial(
            optuna.trial.create_trial(
                state=one.state,
                value=one.value if one.state == TrialState.COMPLETE else None,
                params=there,
                distributions={name: known[name] for name in there},
                intermediate_values=dict(one.reports),
            )
        )
    return study


def grid(sweep: SweepConfig, seed: int) -> tuple[dict[str, Any], ...]:
    """The cells of a grid in training order, each {setting: value}."""
    cells, same = _grid(sweep.model_dump_json(), seed)
    skipped = set(same) if sweep.duplicates == "skip" else set()
    return tuple(cell for place, cell in enumerate(cells) if place not in skipped)


def duplicates(sweep: SweepConfig, seed: int) -> int:
    """The number of grid cells that compute the same steps as an earlier one."""
    return len(_grid(sweep.model_dump_json(), seed)[1])


@lru_cache(maxsize=8)
def _grid(text: str, seed: int) -> tuple[list[dict[str, Any]], list[int]]:
    """All distinct cells in Optuna's order, and the indices of those that repeat an earlier one."""
    sweep = SweepConfig.model_validate_json(text)
    axes = {name: _axis(name, parameter) for name, parameter in sweep.space.items()}
    if (size := math.prod(map(len, axes.values()))) > MAX_GRID_CELLS:
        raise ConfigError(
            {"space": f"is a grid of {size:,} settings; {MAX_GRID_CELLS:,} is the most, so list "
             "fewer values or take method random or tpe"}
        )  # fmt: skip
    base = base_config(sweep)
    product = list(itertools.product(*axes.values()))
    # Optuna decides the order. One number a cell: one a setting takes it five times as long.
    study = optuna.create_study(sampler=optuna.samplers.GridSampler({"cell": range(size)}, seed))
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    for trial in (study.ask() for _ in range(size)):
        cell: dict[str, Any] = {}
        chosen = product[trial.suggest_int("cell", 0, size - 1)]
        for (name, parameter), value in zip(sweep.space.items(), chosen, strict=True):
            if _met(parameter, cell):
                cell[name] = value
        # Where a condition is not met, cells that differ in that setting alone are one.
        cells.setdefault(tuple(map(repr, cell.items())), cell)
    kept, seen, same = list(cells.values()), set(), []
    for place, cell in enumerate(kept):
        key = computation_key(base, cell)
        if key in seen:
            same.append(place)
        seen.add(key)
    return kept, same


def _is_countable(sweep: SweepConfig) -> bool:
    """True if a grid could hold every point of the space."""
    found = distributions(sweep).values()
    if any(isinstance(one, FloatDistribution) and one.step is None for one in found):
        return False
    return math.prod(len(_axis(n, p)) for n, p in sweep.space.items()) <= MAX_GRID_CELLS


def _axis(name: str, parameter: Parameter) -> list[Any]:
    if isinstance(parameter, Categorical):
        return parameter.values
    kind = by_name()[name].type
    step = parameter.step or 1
    count = math.floor((parameter.high - parameter.low) / step + 1e-9) + 1
    values = (parameter.low + i * step for i in range(count))
    return [
        int(v) if kind is int else float(f"{v:.12g}")
        for v in itertools.islice(values, MAX_GRID_CELLS + 1)
    ]


def computation_key(base: RunConfig, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key that is equal for parameters whose steps compute the same."""
    own = dict(values)
    dropout = own.get("lora.dropout", base.lora.dropout)
    if dropout == 0 and (MICRO_BATCH in own or ACCUMULATION in own):
        rows = own.pop(MICRO_BATCH, get(base, MICRO_BATCH)) * own.pop(
            ACCUMULATION, get(base, ACCUMULATION)
        )
        own["rows a step"] = rows
    # One that is not searched here has its base value, as one that has just that value.
    return tuple(sorted((n, repr(v)) for n, v in own.items() if n not in values or
                        v != get(base, n)))  # fmt: skip
