"""The settings of RunConfig one by one: name, type, bounds, help text and value."""

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from src.config.schema import RunConfig


@dataclass(frozen=True)
class Setting:
    """One leaf of RunConfig, as the form, the command line and the documentation need it."""

    name: str  # dotted, such as lora.r
    annotation: Any
    help: str
    first: bool
    low: float | None  # bounds; `low_open` and `high_open` exclude the bound itself
    high: float | None
    low_open: bool
    high_open: bool

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
    def choices(self) -> tuple[str, ...]:
        """The allowed words of a Literal, else none."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()


def settings(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting, in the order of its definition."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield _setting(prefix + name, field)


def _setting(name: str, field: FieldInfo) -> Setting:
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
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    text = " ".join((field.description or "").split())
    return Setting(
        name, field.annotation, text, bool(extra.get("first")), low, high, low_open, high_open
    )


def get(config: BaseModel, name: str) -> Any:
    """The value of a setting by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def differences(config: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ, by dotted name: (value here, value there)."""
    pairs = {s.name: (get(config, s.name), get(other, s.name)) for s in settings()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
