"""The settings of RunConfig one by one: name, type, bounds, help text and value."""

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from src.config.effects import EFFECTS, Effect
from src.config.schema import RunConfig
from src.paths import found_again


@dataclass(frozen=True)
class Setting:
    """One leaf of RunConfig, as the form, the command line and the documentation need it."""

    name: str  # dotted, such as lora.r
    annotation: Any
    help: str
    effects: frozenset[Effect] = EFFECTS
    basic: bool = False  # people change it most
    low: float | None = None  # bounds; `low_open` and `high_open` exclude the bound itself
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    @property
    def optional(self) -> bool:
        return type(None) in typing.get_args(self.annotation)

    @property
    def type(self) -> Any:
        """The annotation without `None`: bool, int, float, str, list[str] or a Literal."""
        if isinstance(self.annotation, types.UnionType):
            return next(a for a in typing.get_args(self.annotation) if a is not type(None))
        return self.annotation

    @property
    def is_mapping(self) -> bool:
        return typing.get_origin(self.type) is dict

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words of a Literal, else none."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()


def settings(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting, in the order of its definition."""
    shared = _extra(section.model_config)
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield _setting(prefix + name, field, shared)


def _setting(name: str, field: FieldInfo, shared: Mapping[str, Any]) -> Setting:
    """One setting; `shared` is the metadata of its section, for what the field leaves open."""
    low: Any = None
    high: Any = None
    low_open = high_open = False
    for rule in field.metadata:
        match rule:
            case Ge(bound):
                low = bound
            case Gt(bound):
                low, low_open = bound, True
            case Le(bound):
                high = bound
            case Lt(bound):
                high, high_open = bound, True
    own = {**shared, **_extra({"json_schema_extra": field.json_schema_extra})}
    return Setting(
        name=name,
        annotation=field.annotation,
        help=" ".join((field.description or "").split()),
        basic=bool(own.get("basic")),
        effects=frozenset(own.get("affects", EFFECTS)),
        low=low,
        high=high,
        low_open=low_open,
        high_open=high_open,
    )


def _extra(holder: Mapping[str, Any]) -> dict[str, Any]:
    extra = holder.get("json_schema_extra")
    return extra if isinstance(extra, dict) else {}


@cache
def by_name(section: type[BaseModel] = RunConfig) -> Mapping[str, Setting]:
    """{dotted name: setting}, in the order of their definition."""
    return {setting.name: setting for setting in settings(section)}


@cache
def affecting(*effects: Effect) -> frozenset[str]:
    """Dotted names of the settings that have one of these effects, or any where none is given."""
    return frozenset(s.name for s in settings() if s.effects & (set(effects) or EFFECTS))


def subset(config: RunConfig, names: Iterable[str]) -> dict[str, Any]:
    """The nested values of these settings alone, as JSON holds them."""
    include: dict[str, Any] = {}
    for name in names:
        section, _, field = name.rpartition(".")
        if section:
            include.setdefault(section, {})[field] = True
        else:
            include[field] = True
    return config.model_dump(mode="json", include=include)


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of nested sections by dotted name; what has one already is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and "." not in name:
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return flat


def get(config: BaseModel, name: str) -> Any:
    """The value of a setting by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def differences(config: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ, by dotted name: (value here, value there)."""
    pairs = {name: (get(config, name), get(other, name)) for name in by_name()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


# Settings that may name a file or a folder of the home, which may have moved since.
_PATHS = ("data.path", "model.name", "evaluation.suites")


def paths_found(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values, nested or by dotted name, with the paths in them as `found_again` finds them."""
    found = dict(values)
    for name in _PATHS:
        section, _, leaf = name.partition(".")
        own = found.get(section)
        if isinstance(own, dict) and leaf in own:
            found[section] = own | {leaf: _found(own[leaf])}
        if name in found:
            found[name] = _found(found[name])
    return found


def _found(value: Any) -> Any:
    if isinstance(value, list):
        return [_found(part) for part in value]
    is_path = isinstance(value, str) and Path(value).is_absolute()
    return found_again(value) if is_path else value
