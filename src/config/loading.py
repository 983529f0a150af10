"""RunConfig from YAML files, presets, overrides and rows, and back to YAML."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from src.config.fields import settings
from src.config.schema import RunConfig, Section
from src.errors import UserError, did_you_mean
from src.paths import CONFIGS, base_model

DEFAULTS = CONFIGS / "training" / "config.yaml"
PRESETS = CONFIGS / "presets"
DEFAULT_PRESET = "tiny-spell"


class ConfigError(UserError, ValueError):
    """Settings that cannot be used. `problems` maps a setting's dotted name ('' for the whole file)
    to a sentence."""

    def __init__(self, problems: dict[str, str]):
        self.problems = problems
        super().__init__(
            "\n".join(f"{name}: {text}" if name else text for name, text in problems.items())
        )


def presets() -> list[str]:
    """Names of the shipped presets, the default first."""
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT_PRESET)


def load_config(
    path: str | Path | None = None,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The four files under configs/, then the preset, then the file at `path`, then `overrides` by
    dotted name.

    With neither a path nor a preset, the default preset. Raises ConfigError that names every
    problem at once.
    """
    values = defaults()
    if preset is None and path is None:
        preset = DEFAULT_PRESET
    if preset is not None:
        if preset not in presets():
            near = did_you_mean(preset, presets())
            raise ConfigError({"": f"no preset {preset!r}{near} ({', '.join(presets())})"})
        _merge(values, {"name": preset} | read_yaml(PRESETS / f"{preset}.yaml"))
    if path is not None:
        _merge(values, {"name": Path(path).stem} | _from_flat(read_yaml(Path(path))))
    return with_overrides(values, overrides or {})


def with_overrides(values: dict[str, Any], overrides: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of nested `values` with `overrides`, by dotted name, on top."""
    for name, value in overrides.items():
        _merge(values, _nest(name, value))
    return parse_config(values)


def defaults() -> dict[str, Any]:
    """The values of the four files under configs/, nested; the caller's own copy."""
    return copy.deepcopy(_defaults())


@cache
def _defaults() -> dict[str, Any]:
    values = read_yaml(DEFAULTS)
    for part in values.pop("include"):
        _merge(values, read_yaml(DEFAULTS.parent / part))
    return values


def stored_config(values: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of a run's row; a setting that came later than the run has its default."""
    complete = defaults()
    _merge(complete, values)
    return parse_config(complete)


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of nested `values`, or ConfigError with one sentence a field."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_problems(error)) from None


def parse_override(text: str) -> tuple[str, Any]:
    """`lora.r=16` -> ("lora.r", 16); the value is read as YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError({"": f"--set takes SETTING=VALUE, such as lora.r=16; got {text!r}"})
    try:
        return name.strip(), yaml.load(value, Loader)
    except (yaml.YAMLError, ValueError):
        return name.strip(), value


class Loader(yaml.SafeLoader):
    """Safe YAML whose only booleans are true and false, as in YAML 1.2: `mode: off` is a word."""

    yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if first in "tTfF" or not tag.endswith(":bool")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; anything else is a ConfigError."""
    return parse_yaml(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a settings file; ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError({"": f"no file {path}"}) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError({"": f"cannot read {path}: {error}"}) from None


def parse_yaml(text: str, source: str | Path) -> dict[str, Any]:
    """The mapping that a YAML text holds; `source` is what an error calls it."""
    try:
        values = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            {"": f"{source} is not valid YAML: {' '.join(str(error).split())}"}
        ) from None
    if not isinstance(values, dict):
        held = "is empty" if values is None else f"holds a {type(values).__name__}"
        example = "`training: {max_steps: 600}`"
        raise ConfigError({"": f"{source} {held}; it maps settings to values, as in {example}"})
    return values


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def with_absolute_paths(config: RunConfig, folder: Path | None = None) -> RunConfig:
    """The config with local paths made absolute, from `folder` or else the current one: the trainer
    runs in another."""
    here = folder or Path.cwd()
    sections: dict[str, Section] = {}
    if config.data.path:
        path = str(here / Path(config.data.path).expanduser())
        sections["data"] = config.data.model_copy(update={"path": path})
    model = here / Path(config.model.name).expanduser()
    if model.is_dir() and base_model(config.model.name) == config.model.name:
        sections["model"] = config.model.model_copy(update={"name": str(model)})
    return config.model_copy(update=sections)


# Public: docs/settings.md promises that YAML files with the older flat keys are read. `timestamp`
# is given by the launch now.
_FLAT = {
    "experiment_name": "name",
    "lora_config": "lora",
    "training_config": "training",
}
_FLAT_TRAINING = {"warmup_steps": "scheduler"}


def _from_flat(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the keys of the older flat shape moved to where they are now."""
    if not _FLAT.keys() & values.keys():
        return values
    moved = {_FLAT.get(key, key): value for key, value in values.items() if key != "timestamp"}
    training = moved.get("training")
    if isinstance(training, dict):
        moved["training"] = {k: v for k, v in training.items() if k not in _FLAT_TRAINING}
        for key, section in _FLAT_TRAINING.items():
            if key in training:
                moved.setdefault(section, {})[key] = training[key]
    return moved


def _nest(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    """`over` on top of `values`, section by section."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _problems(error: ValidationError) -> dict[str, str]:
    """One sentence a field: what arrived, what is allowed, what to do."""
    names = [setting.name for setting in settings()]
    problems: dict[str, str] = {}
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            siblings = [
                n for n in names + list(RunConfig.model_fields) if n.count(".") == name.count(".")
            ]
            leaf = name.rpartition(".")[2]
            message = f"no such setting{did_you_mean(name, siblings) or did_you_mean(leaf, names)}"
        elif item["type"] == "missing":
            message = "no value given"
        elif item["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}; got {item['input']!r}"
        else:
            # A rule over several settings names first the one to change: the form shows it there.
            first, _, rest = message.partition(" ")
            name, message = (first, rest) if first in names else (name, message)
        problems.setdefault(name, message)
    return problems
