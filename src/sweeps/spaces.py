"""A sweep file and its search space: what is tried, by which method, and for how long.

Optuna's samplers suggest the values; a suggestion depends on nothing but the file, the sweep's
seed, its own number and what was tried before it, so it is the same after a restart.
"""

import itertools
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from src.config import (
    ConfigError,
    RunConfig,
    Section,
    Setting,
    get,
    load_config,
    nearest,
    parse_yaml,
    read_text,
    settings,
    with_overrides,
)
from src.training.early_stopping import LESS, TRAINING, VALIDATION

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

MOST_CELLS = 100_000  # of a grid
LOADING_SECONDS = 10  # a trial takes so long before its first step
ASKED_AGAIN = 50  # times, for values that have not been tried
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

METRIC = ("early_stopping.metric", "early_stopping.mode")
# Trials that compute the same: rows of a step are what counts, not how they are cut.
BATCH, TIMES = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"


# --- the file -------------------------------------------------------------------------------------


class Listed(Section):
    values: list[Any] = Field(min_length=1)
    """The values to try; a bare list is short for this."""
    when: dict[str, list[Any]] = {}
    """Search this setting only where the settings named here have one of these values; elsewhere it
    has its base value."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, given: Any) -> Any:
        return {"values": given} if isinstance(given, list) else given


class Range(Section):
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Draw by order of magnitude."""
    step: float | None = Field(None, gt=0)
    """Distance of neighbouring values; a grid needs it, and whole numbers have 1."""
    when: dict[str, list[Any]] = {}
    """As for a list."""


def _kind(given: Any) -> str:
    listed = isinstance(given, list | Listed) or isinstance(given, dict) and "values" in given
    return "listed" if listed else "range"


Parameter = Annotated[
    Annotated[Listed, Tag("listed")] | Annotated[Range, Tag("range")], Discriminator(_kind)
]


class Base(Section):
    preset: str | None = None
    """Preset that each trial starts from; empty takes the default one."""
    overrides: dict[str, Any] = {}
    """Settings on top of it, by dotted name."""


class SweepConfig(Section):
    """A file under configs/sweeps. Load one with `load_sweep`."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the sweep; a trial is called after it and its number."""
    base: Base = Base()
    """What all trials have in common."""
    method: Literal["grid", "random", "tpe"]
    """grid tries all combinations in a random order; random draws; tpe draws where the results so
    far are good (Tree-structured Parzen Estimator)."""
    pruner: Literal["none", "median", "asha", "hyperband"] = "none"
    """Ends trials early that fall behind: behind the median of those before, or by successive
    halving."""
    metric: str = "val/exact_match"
    """Recorded metric that is searched for, and by which each trial keeps its best checkpoint."""
    mode: Literal["min", "max"] = "max"
    """Whether less or more of the metric is better. Without it less is of losses, error rates and
    distances."""
    space: dict[str, Parameter]
    """{setting: list of values, or low and high}."""
    seeds: int = Field(1, ge=1, le=100)
    """Trials of each setting, which differ in their seed alone."""
    budget: str | None = None
    """`200 trials` or `45 minutes`; empty lets a grid run to its end."""
    seed: int = Field(0, ge=0)
    """Rules what the search draws; each trial has its own seed besides."""
    duplicates: Literal["train", "skip"] = "train"
    """What to do with a cell of a grid that takes the same steps as another one, such as 4 rows
    x 8 and 32 rows x 1 without dropout."""
    retries: int = Field(1, ge=0, le=20)
    """Launch a failed trial again at most so many times, then set it aside."""
    at_once: int | None = Field(None, ge=1, le=4096)
    """Trials that are queued or training at a time. Empty: a full pack or a run for each slot, and
    as many as wait for it; with tpe, which learns from those that ended, 8 in a pack."""
    executor: Literal["local", "ray"] = "local"
    """Who trains: this machine, or with `ray` all machines of the Ray cluster that it belongs to,
    which share a run table on PostgreSQL."""

    @model_validator(mode="before")
    @classmethod
    def _mode(cls, given: Any) -> Any:
        less = isinstance(given, dict) and given.get("metric") in LESS
        return {"mode": "min"} | given if less else given

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, given: Any) -> Any:
        if given is not None:
            Budget.parse(str(given))
        return None if given is None else str(given)

    @property
    def limits(self) -> "Budget":
        return Budget.parse(self.budget) if self.budget else Budget()


@dataclass(frozen=True)
class Budget:
    """What a sweep may take; None where there is no such limit."""

    trials: int | None = None
    seconds: float | None = None

    @staticmethod
    def parse(text: str) -> "Budget":
        """`200 trials`, `45 minutes`, `1.5h`; ValueError says what is understood."""
        # A comma parts thousands: `1,5h` could be meant as an hour and a half.
        number = r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?|\.\d+)"
        found = re.fullmatch(rf"\s*{number}\s*([A-Za-z]+)\s*", text)
        words = found[2].lower() if found else ""
        short = words.rstrip("s") in {"second", "minute", "hour", "day", "min", "sec", "hr"}
        amount = float(found[1].replace(",", "")) if found else 0.0
        if words in ("trial", "trials"):
            if amount < 1:
                raise ValueError("the budget is too small for one trial")
            if amount == int(amount):
                return Budget(trials=int(amount))
        if words in UNITS or short:
            seconds = amount * UNITS[words[0]]
            if seconds < LOADING_SECONDS:
                raise ValueError(
                    "the budget is too small for one trial, which takes about "
                    f"{LOADING_SECONDS} seconds before its first step"
                )
            return Budget(seconds=seconds)
        raise ValueError(f"a budget is such as `200 trials` or `45 minutes`; got {text!r}")


def load_sweep(path: str | Path) -> SweepConfig:
    """The sweep of a file, or ConfigError that names every problem at once."""
    return parse_sweep(read_text(Path(path)), path)


def parse_sweep(text: str, source: str | Path) -> SweepConfig:
    """The sweep that a text describes; each value of its space is as RunConfig has it."""
    try:
        sweep = SweepConfig.model_validate(parse_yaml(text, source))
    except ValidationError as error:
        raise ConfigError(dict(_sentences(error))) from None
    base = base_config(sweep)
    problems = dict(_problems(sweep, base))
    if problems:
        raise ConfigError(problems)
    return sweep.model_copy(
        update={"space": {n: _typed(base, n, p) for n, p in sweep.space.items()}}
    )


def base_config(sweep: SweepConfig) -> RunConfig:
    """What all trials have in common, as a run: the default that the search has to beat."""
    try:
        config = load_config(preset=sweep.base.preset, overrides=sweep.base.overrides)
    except ConfigError as error:
        named = {f"base.overrides.{n}" if n else "base": t for n, t in error.problems.items()}
        raise ConfigError(named) from None
    own = {
        "early_stopping": {"metric": sweep.metric, "mode": sweep.mode},
        "supervision": {"auto_resume": max(config.supervision.auto_resume, 2)},
    }
    sections = {name: getattr(config, name).model_copy(update=new) for name, new in own.items()}
    return config.model_copy(update=sections)


def trial_config(
    sweep: SweepConfig, base: RunConfig, values: Mapping[str, Any], number: int
) -> RunConfig:
    """The run of one trial: the values of its setting, and the seed of its number."""
    seed = base.training.seed + number % sweep.seeds
    own = {"name": f"{sweep.name} {number}", "training.seed": seed}
    return with_overrides(base.model_dump(), dict(values) | own)


def _sentences(error: ValidationError) -> Iterator[tuple[str, str]]:
    """(field, sentence) of what pydantic found."""
    for item in error.errors():
        path = [str(part) for part in item["loc"] if part not in ("listed", "range")]
        message = item["msg"].removeprefix("Value error, ")
        match item["type"]:
            case "extra_forbidden":
                known = SweepConfig if len(path) == 1 else Range if path[0] == "space" else Base
                message = f"no such field{nearest(path[-1], known.model_fields)}"
            case "missing":
                message = "no value given"
            case "model_type" | "model_attributes_type" | "dict_type" if path[0] == "space":
                message = f"takes a list of values, or low and high; got {item['input']!r}"
            case "too_short" if path[0] == "space":
                message = "has no values to try"
            case "value_error":
                pass
            case _:
                message = f"{message[0].lower()}{message[1:]}; got {item['input']!r}"
        yield ".".join(path), message


def _problems(sweep: SweepConfig, base: RunConfig) -> Iterator[tuple[str, str]]:
    """(field, sentence) of what cannot be searched."""
    if not sweep.space:
        yield "space", "is empty; name a setting and what to try, such as `lora.r: [4, 8, 16]`"
    known = {setting.name: setting for setting in settings()}
    above: dict[str, Parameter] = {}
    for name, parameter in sweep.space.items():
        if name not in known:
            leaves = {n.rpartition(".")[2]: n for n in known}
            leaf = name.rpartition(".")[2]
            near = f"; did you mean {leaves[leaf]!r}?" if leaf in leaves else nearest(name, known)
            yield f"space.{name}", f"no such setting{near}"
            continue
        why = (
            "is given by `seeds`" if name == "training.seed"
            else "is given by the sweep" if name == "name"
            else "is given by `metric` and `mode`" if name in METRIC
            else "holds paths that are not written from the root" if name == "data.path"
            and not _rooted(parameter)
            else _unusable(parameter, known[name], base, sweep.method)
        )  # fmt: skip
        why = why or _unmet(parameter, above)
        if why:
            yield f"space.{name}", why
        above[name] = parameter
    if sweep.metric not in VALIDATION + TRAINING:
        names = ", ".join(VALIDATION + TRAINING)
        near = nearest(sweep.metric, VALIDATION + TRAINING)
        yield "metric", f"{sweep.metric!r} is not recorded{near or f'; take one of {names}'}"
    if sweep.method != "grid" and sweep.budget is None:
        yield "budget", f"{sweep.method} search has no end; set one, such as `50 trials`"
    most = sweep.limits.trials
    if most is not None and most < sweep.seeds:
        yield (
            "budget",
            f"{most} {'trial is' if most == 1 else 'trials are'} too small for one setting, which "
            f"is trained with {sweep.seeds} seeds",
        )


def _unusable(parameter: Parameter, setting: Setting, base: RunConfig, method: str) -> str | None:
    """Why these values cannot be searched, or None."""
    if isinstance(parameter, Listed):
        tried = parameter.values
    elif setting.type not in (int, float):
        return "has no numbers between low and high; list its values"
    elif parameter.low > parameter.high:
        return f"its bounds are upside down: low {parameter.low:g} is above high {parameter.high:g}"
    elif parameter.log and parameter.low <= 0:
        return f"low must be above 0 for log; got {parameter.low:g}"
    elif parameter.log and parameter.step:
        return "has both log and step; keep one of them, or list the values"
    elif setting.type is int and (parameter.step or 1) != int(parameter.step or 1):
        return f"counts whole numbers, so its step must be one; got {parameter.step:g}"
    elif method == "grid" and setting.type is float and parameter.step is None:
        return "a grid needs a step, or a list of values"
    else:
        tried = [_number(setting, parameter.low), _number(setting, parameter.high)]
    for value in tried:
        try:
            with_overrides(base.model_dump(), {setting.name: value})
        except ConfigError as error:
            return "; ".join(error.problems.values())
    return None


def _rooted(parameter: Parameter) -> bool:
    values = parameter.values if isinstance(parameter, Listed) else []
    return all(v is None or Path(str(v)).expanduser().is_absolute() for v in values)


def _unmet(parameter: Parameter, above: Mapping[str, Parameter]) -> str | None:
    for other in parameter.when:
        if other not in above:
            return f"`when` names {other!r}, which must stand above it in the space"
    return None


def _typed(base: RunConfig, name: str, parameter: Parameter) -> Parameter:
    """The parameter with its values as RunConfig reads them: YAML's 1e-4 is a text."""
    when = {n: [_value(base, n, v) for v in values] for n, values in parameter.when.items()}
    update: dict[str, Any] = {"when": when}
    if isinstance(parameter, Listed):
        values = [_value(base, name, v) for v in parameter.values]
        update["values"] = [v for i, v in enumerate(values) if v not in values[:i]]
    return parameter.model_copy(update=update)


def _value(base: RunConfig, name: str, value: Any) -> Any:
    return get(with_overrides(base.model_dump(), {name: value}), name)


def _number(setting: Setting, value: float) -> float:
    return int(value) if setting.type is int and value == int(value) else value


# --- suggestions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tried:
    """A setting that was suggested before, and what became of it."""

    number: int
    values: Mapping[str, Any]
    state: TrialState  # RUNNING also while it waits in the queue
    value: float | None = None  # of the metric where it is complete
    reports: Mapping[int, float] = field(default_factory=dict)  # step -> metric


def suggest(
    sweep: SweepConfig, seed: int, number: int, tried: Sequence[Tried]
) -> dict[str, Any] | None:
    """Values of the searched settings for setting `number`; None where nothing is left to try."""
    if sweep.method == "grid":
        cells = grid(sweep, seed)
        return dict(cells[number]) if number < len(cells) else None
    base = base_config(sweep)
    known = {computed(base, one.values) for one in tried}
    study = rebuilt(sweep, tried)
    for again in range(ASKED_AGAIN):
        state = np.random.SeedSequence([seed, number, again]).generate_state(1)
        # In a small space TPE comes back to its favourites; the budget is there to try others.
        method = sweep.method if again < ASKED_AGAIN // 2 else "random"
        study.sampler = sampler(method, int(state[0]))
        trial = study.ask()
        values = draw(sweep, trial)
        if computed(base, values) not in known:
            return values
        study.tell(trial, state=TrialState.FAIL)
    # Drawing seldom finds the last ones of a small space.
    if not _is_countable(sweep):
        return None
    return next((dict(c) for c in grid(sweep, seed) if computed(base, c) not in known), None)


def sampler(method: str, seed: int) -> optuna.samplers.BaseSampler:
    if method == "tpe":
        # With trials under way at the same time, each must not be drawn to the same place.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def draw(sweep: SweepConfig, trial: optuna.Trial) -> dict[str, Any]:
    """What a trial suggests for the settings whose conditions are met."""
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
    """The space as Optuna has it. A listed value is its place in the list, so any value may be."""
    types = {setting.name: setting.type for setting in settings()}
    return {name: _distribution(types[name], p) for name, p in sweep.space.items()}


def _distribution(kind: Any, parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Listed):
        return CategoricalDistribution(range(len(parameter.values)))
    low, high, step = parameter.low, parameter.high, parameter.step
    if kind is int:
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=step)


def _listed(sweep: SweepConfig, name: str) -> list[Any]:
    parameter = sweep.space[name]
    assert isinstance(parameter, Listed)
    return parameter.values


def rebuilt(sweep: SweepConfig, tried: Iterable[Tried]) -> optuna.Study:
    """An Optuna study of what was tried, in memory: the run rows are the only ledger."""
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


# --- grids ----------------------------------------------------------------------------------------


def grid(sweep: SweepConfig, seed: int) -> tuple[dict[str, Any], ...]:
    """The settings of a grid in the order in which they are trained."""
    cells, same = _grid(sweep.model_dump_json(), seed)
    skipped = set(same) if sweep.duplicates == "skip" else set()
    return tuple(cell for place, cell in enumerate(cells) if place not in skipped)


def duplicates(sweep: SweepConfig, seed: int) -> int:
    """Settings of a grid that take the same steps as one before them."""
    return len(_grid(sweep.model_dump_json(), seed)[1])


@lru_cache(maxsize=8)
def _grid(text: str, seed: int) -> tuple[list[dict[str, Any]], list[int]]:
    """All distinct cells in Optuna's order, and the places of those whose steps came before."""
    sweep = SweepConfig.model_validate_json(text)
    axes = {name: _axis(name, parameter) for name, parameter in sweep.space.items()}
    if (size := math.prod(map(len, axes.values()))) > MOST_CELLS:
        raise ConfigError(
            {"space": f"is a grid of {size:,} settings; {MOST_CELLS:,} is the most, so list fewer "
             "values or take method random or tpe"}
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
        key = computed(base, cell)
        if key in seen:
            same.append(place)
        seen.add(key)
    return kept, same


def _is_countable(sweep: SweepConfig) -> bool:
    """Whether a grid could hold all settings of the space."""
    spaces = distributions(sweep).values()
    if any(isinstance(space, FloatDistribution) and space.step is None for space in spaces):
        return False
    return math.prod(len(_axis(n, p)) for n, p in sweep.space.items()) <= MOST_CELLS


def _axis(name: str, parameter: Parameter) -> list[Any]:
    if isinstance(parameter, Listed):
        return parameter.values
    kind = next(setting.type for setting in settings() if setting.name == name)
    step = parameter.step or 1
    count = math.floor((parameter.high - parameter.low) / step + 1e-9) + 1
    values = (parameter.low + i * step for i in range(count))
    return [
        int(v) if kind is int else float(f"{v:.12g}")
        for v in itertools.islice(values, MOST_CELLS + 1)
    ]


def computed(base: RunConfig, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for settings whose steps are the same by arithmetic."""
    own = dict(values)
    dropout = own.get("lora.dropout", base.lora.dropout)
    if dropout == 0 and (BATCH in own or TIMES in own):
        rows = own.pop(BATCH, get(base, BATCH)) * own.pop(TIMES, get(base, TIMES))
        own["rows a step"] = rows
    # One that is not searched here has its base value, as one that has just that value.
    return tuple(sorted((n, repr(v)) for n, v in own.items() if n not in values or
                        v != get(base, n)))  # fmt: skip
