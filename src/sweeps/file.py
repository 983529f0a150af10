"""A sweep file: what is searched, by which method, and for how long."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from src.config import (
    ConfigError,
    RunConfig,
    Section,
    Setting,
    by_name,
    flattened,
    get,
    load_config,
    parse_yaml,
    read_text,
    sentence,
    shortened,
    with_overrides,
)
from src.errors import did_you_mean
from src.models.metrics import MONITORED, lower_is_better
from src.sweeps.budget import Budget

METRIC = ("early_stopping.metric", "early_stopping.mode")

# Their product, the effective batch, decides what a step computes.
MICRO_BATCH, ACCUMULATION = (
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
)


class Categorical(Section):
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
    listed = isinstance(given, list | Categorical) or isinstance(given, dict) and "values" in given
    return "listed" if listed else "range"


Parameter = Annotated[
    Annotated[Categorical, Tag("listed")] | Annotated[Range, Tag("range")], Discriminator(_kind)
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
    seed: int = Field(0, ge=0, le=2**32 - 1)
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
        less = isinstance(given, dict) and lower_is_better(str(given.get("metric")))
        return {"mode": "min"} | given if less else given

    @field_validator("space", mode="before")
    @classmethod
    def _parameters(cls, given: Any) -> Any:
        known = by_name()
        for name, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, dict) and not value.keys() & {"values", "low", "high"}:
                inner = next((f"{name}.{one}" for one in value if f"{name}.{one}" in known), name)
                raise ValueError(
                    f"{name} takes a list of values, or low and high, at the dotted name of its "
                    f"setting, such as `{inner}: [...]`; got {shortened(value)}"
                )
        return given

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, given: Any) -> Any:
        if given is not None:
            Budget.parse(str(given))
        return None if given is None else str(given)

    @property
    def limits(self) -> Budget:
        return Budget.parse(self.budget) if self.budget else Budget()


def load_sweep(path: str | Path) -> SweepConfig:
    """The sweep of a file, or ConfigError that names every problem at once."""
    return parse_sweep(read_text(Path(path)), path)


def parse_sweep(text: str, source: str | Path) -> SweepConfig:
    """The sweep that a YAML text describes; ConfigError as for `read_document`."""
    return read_document(parse_yaml(text, source))


def read_document(document: Mapping[str, Any]) -> SweepConfig:
    """The sweep of a file's content, with each value of its space read as RunConfig reads it.

    ConfigError names every problem at once.
    """
    try:
        sweep = SweepConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(dict(_sentences(error))) from None
    base = base_config(sweep)
    problems = dict(_problems(sweep, base))
    if problems:
        raise ConfigError(problems)
    overrides = {name: get(base, name) for name in flattened(sweep.base.overrides)}
    return sweep.model_copy(
        update={
            "base": sweep.base.model_copy(update={"overrides": overrides}),
            "space": {n: _typed(base, n, p) for n, p in sweep.space.items()},
        }
    )


def base_config(sweep: SweepConfig) -> RunConfig:
    """The config that all trials share: the default that the search has to beat."""
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
    """The config of one trial: the base, its searched `values` and the seed of its number."""
    seed = base.training.seed + number % sweep.seeds
    own = {"name": f"{sweep.name} {number}", "training.seed": seed}
    return with_overrides(base.model_dump(), dict(values) | own)


def _sentences(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Pairs (field, sentence) of pydantic's errors."""
    for item in error.errors():
        path = [str(part) for part in item["loc"] if part not in ("listed", "range")]
        match item["type"]:
            case "extra_forbidden":
                known: type[Section] = SweepConfig if len(path) == 1 else Base
                if path[0] == "space":
                    known = Categorical if "listed" in item["loc"] else Range
                message = f"no such field{did_you_mean(path[-1], known.model_fields)}"
                if known is Categorical and path[-1] in Range.model_fields:
                    message = "stands beside values; keep either the values or low and high"
            case "model_type" | "model_attributes_type" | "dict_type" if path[0] == "space":
                message = f"takes a list of values, or low and high; got {shortened(item['input'])}"
            case "too_short" if path[0] == "space":
                message = "has no values to try"
            case _:
                message = sentence(item)
        yield ".".join(path), message


def _problems(sweep: SweepConfig, base: RunConfig) -> Iterator[tuple[str, str]]:
    """Pairs (field, sentence) of what cannot be searched."""
    if not sweep.space:
        yield "space", "is empty; name a setting and what to try, such as `lora.r: [4, 8, 16]`"
    known = by_name()
    above: dict[str, Parameter] = {}
    for name, parameter in sweep.space.items():
        if name not in known:
            leaves = {n.rpartition(".")[2]: n for n in known}
            leaf = name.rpartition(".")[2]
            near = (
                f"; did you mean {leaves[leaf]!r}?" if leaf in leaves else did_you_mean(name, known)
            )
            yield f"space.{name}", f"no such setting{near}"
            continue
        why = (
            "is given by `seeds`" if name == "training.seed"
            else "is given by the sweep" if name == "name"
            else "is given by `metric` and `mode`" if name in METRIC
            else "holds paths that are not written from the root" if name == "data.path"
            and not _rooted(parameter)
            else _unmet(parameter, above)
            or _unusable(parameter, known[name], base, sweep.method)
        )  # fmt: skip
        if why:
            yield f"space.{name}", why
        above[name] = parameter
    if sweep.metric not in MONITORED:
        names = ", ".join(MONITORED)
        near = did_you_mean(sweep.metric, MONITORED)
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
    """The reason these values cannot be searched, or None."""
    if isinstance(parameter, Categorical):
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
            _value(base, setting.name, value, parameter.when)
        except ConfigError as error:
            return "; ".join(error.problems.values())
    return None


def _rooted(parameter: Parameter) -> bool:
    values = parameter.values if isinstance(parameter, Categorical) else []
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
    if isinstance(parameter, Categorical):
        values = [_value(base, name, v, parameter.when) for v in parameter.values]
        update["values"] = [v for i, v in enumerate(values) if v not in values[:i]]
    return parameter.model_copy(update=update)


def _value(
    base: RunConfig, name: str, value: Any, when: Mapping[str, Sequence[Any]] | None = None
) -> Any:
    """The value as RunConfig reads it, where the settings that `when` names have a value of it."""
    there = {other: values[0] for other, values in (when or {}).items() if values}
    return get(with_overrides(base.model_dump(), there | {name: value}), name)


def _number(setting: Setting, value: float) -> float:
    return int(value) if setting.type is int and value == int(value) else value
