"""RunConfig from YAML files, presets, overrides and rows, and back to YAML."""

import copy
import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from src.config.evaluation import names_file
from src.config.fields import Setting, by_name, flattened, settings
from src.config.mixture import EXAMPLE
from src.config.schema import RunConfig
from src.config.section import Section
from src.config.sentences import sentence, shortened
from src.config.values import NULL, from_text, to_text
from src.config.yaml_text import MAX_BYTES, NotYaml, Written, YamlError, load_kept, plain
from src.errors import UserError, did_you_mean, reason
from src.files import read_head
from src.paths import CONFIGS, base_model

DEFAULTS = CONFIGS / "training" / "config.yaml"
PRESETS = CONFIGS / "presets"
DEFAULT_PRESET = "tiny-spell"

SchemaT = TypeVar("SchemaT", bound=BaseModel)


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
        merge(values, {"name": preset} | read_yaml(PRESETS / f"{preset}.yaml"))
    if path is not None:
        own = _from_flat(read_yaml(Path(path)))
        if problems := _empty(own):
            raise ConfigError(problems)
        merge(values, {"name": Path(path).stem} | own)
    return with_overrides(values, overrides or {})


def with_overrides(values: dict[str, Any], overrides: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of nested `values` with `overrides`, by dotted name, on top."""
    given: dict[str, str] = {}  # setting -> the override that gives it
    problems: dict[str, str] = {}
    for name, value in overrides.items():
        if whole := next((one for one in _mappings() if name.startswith(f"{one}.")), None):
            problems[name] = f"is given with its neighbours, as {whole}='{EXAMPLE}'"
            continue
        own = nested(name, value)
        for leaf in flattened(own):
            if leaf in given:
                problems[leaf] = f"is given twice, as {given[leaf]!r} and as {name!r}; keep one"
            given[leaf] = name
        problems |= _empty(own)
        merge(values, own)
    if problems:
        raise ConfigError(problems)
    return parse_config(values)


def _empty(values: Mapping[str, Any]) -> dict[str, str]:
    """{setting: problem} of empty texts where a setting may be none.

    An empty text is more often a variable that is not set than the wish for none.
    """
    return {
        name: f"is empty; write {NULL} for none, or leave it out for its default"
        for name, value in flattened(values).items()
        if isinstance(value, str) and not value.strip() and name in _optional()
    }


@cache
def _optional() -> frozenset[str]:
    """The settings that may be none."""
    return frozenset(setting.name for setting in settings() if setting.optional)


@cache
def _mappings() -> frozenset[str]:
    """The settings whose value is a mapping."""
    return frozenset(setting.name for setting in settings() if setting.is_mapping)


def defaults() -> dict[str, Any]:
    """The values of the four files under configs/, nested; the caller's own copy."""
    return copy.deepcopy(_defaults())


@cache
def _defaults() -> dict[str, Any]:
    values = read_yaml(DEFAULTS)
    for part in values.pop("include"):
        merge(values, read_yaml(DEFAULTS.parent / part))
    return dict(plain(values))


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of nested `values`, or ConfigError with one sentence a field."""
    return parse_settings(RunConfig, values)


def parse_settings(schema: type[SchemaT], values: Mapping[str, Any]) -> SchemaT:
    """The settings of a schema in nested `values`, or ConfigError with one sentence a field."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_problems(error, schema)) from None


def parse_override(text: str) -> tuple[str, Any]:
    """`lora.r=16` -> ("lora.r", 16); the value is read by its setting's type, as the form reads it.

    In double quotes it is a text as in JSON. An empty one stays empty, which is refused.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ConfigError({"": f"--set takes SETTING=VALUE, such as lora.r=16; got {text!r}"})
    if not value.strip():
        return name, value
    setting = by_name().get(name)
    if len(value) > 1 and value[0] == value[-1] == '"':
        with suppress(ValueError):
            value = json.loads(value)
            if setting is None or setting.type is str:
                return name, value
    return name, value if setting is None else from_text(setting, value)


def override_text(setting: Setting, value: Any) -> str:
    """The inverse of `parse_override`: one line without control characters."""
    text = NULL if value is None else to_text(setting, value) or "[]"
    told = f"{setting.name}={text}"
    if text.isprintable() and parse_override(told)[1] == value:
        return told
    return f"{setting.name}={json.dumps(text, ensure_ascii=False)}"


def set_arguments(values: Mapping[str, Any]) -> list[str]:
    """`--set lora.r=16` of each setting, as a shell takes it."""
    texts = (override_text(by_name()[name], value) for name, value in values.items())
    return [f"--set {shlex.quote(text)}" for text in texts]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; anything else is a ConfigError."""
    return parse_yaml(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a settings file; ConfigError where it cannot be read."""
    try:
        content = read_head(path, MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError({"": f"no file {path}"}) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise ConfigError({"": f"cannot read {path}: {reason(error)}"}) from None
    if len(content) > MAX_BYTES:
        raise ConfigError({"": f"{path} is over {MAX_BYTES:,} bytes: no file of settings"})
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError({"": f"cannot read {path}: line {line} is not UTF-8"}) from None


def parse_yaml(text: str, source: str | Path, *, unique: bool = True) -> dict[str, Any]:
    """The mapping that a YAML text holds; `source` is what an error calls it.

    A key that stands twice is refused, except where `unique` is False: in what was launched before.
    """
    try:
        values = load_kept(text, unique=unique)
    except YamlError as error:
        what = " is not valid YAML" if isinstance(error, NotYaml) else ""
        raise ConfigError({"": f"{source}{what}, {error}"}) from None
    if not isinstance(values, dict):
        held = "is empty" if values is None else f"holds a {_kind(values)}"
        example = "`training: {max_steps: 600}`"
        raise ConfigError({"": f"{source} {held}; it maps settings to values, as in {example}"})
    return values


def _kind(value: Any) -> str:
    return "number" if isinstance(value, Written) else type(value).__name__


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def with_absolute_paths(config: RunConfig, folder: Path | None = None) -> RunConfig:
    """The config with local paths made absolute, from `folder` or else the current one: the trainer
    runs in another."""
    here = folder or Path.cwd()
    sections: dict[str, Section] = {}
    if config.data.path:
        path = str(here / config.data.path)
        sections["data"] = config.data.model_copy(update={"path": path})
    model = here / config.model.name
    is_local = model.is_dir() or (model.is_file() and _may_be_file(config.model.name))
    if is_local and base_model(config.model.name) == config.model.name:
        sections["model"] = config.model.model_copy(update={"name": str(model)})
    if any(map(names_file, config.evaluation.suites)):
        suites = [str(here / s) if names_file(s) else s for s in config.evaluation.suites]
        sections["evaluation"] = config.evaluation.model_copy(update={"suites": suites})
    return config.model_copy(update=sections)


def _may_be_file(model: str) -> bool:
    """False for a word such as gpt2, which is a hub id even where a file is called so."""
    return "/" in model or model.endswith(".gguf") or model.startswith("sha256-")


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
    twice = {new: f"{old} and {new}" for old, new in _FLAT.items() if {old, new} <= values.keys()}
    moved = {_FLAT.get(key, key): value for key, value in values.items() if key != "timestamp"}
    training = moved.get("training")
    if isinstance(training, dict):
        moved["training"] = {k: v for k, v in training.items() if k not in _FLAT_TRAINING}
        for key, section in _FLAT_TRAINING.items():
            there = moved.get(section)
            if key in training and isinstance(there, dict) and key in there:
                twice[f"{section}.{key}"] = f"training_config.{key} and {section}.{key}"
            elif key in training:
                moved[section] = {**(there or {}), key: training[key]}
    if twice:
        raise ConfigError({n: f"is given twice, as {told}; keep one" for n, told in twice.items()})
    return moved


def nested(name: str, value: Any) -> dict[str, Any]:
    """A value in its section, by the dotted name of its setting."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    """`over` on top of `values`, section by section; a setting that is a mapping is replaced."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            values[key] |= value
        else:
            values[key] = value


def _problems(error: ValidationError, schema: type[BaseModel]) -> dict[str, str]:
    """One sentence a field: what arrived, what is allowed, what to do."""
    names = by_name(schema)
    problems: dict[str, str] = {}
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
        if item["type"] == "extra_forbidden":
            message = _unknown(name, str(item["loc"][-1]), item["input"], schema)
        elif item["type"] in ("model_type", "model_attributes_type"):
            message = _no_section(name, item["input"], schema)
        else:
            message = sentence(item, _default(name))
        if item["type"] == "value_error":
            # A rule over several settings names first the one to change: the form shows it there.
            first, _, rest = message.partition(" ")
            name, message = (first, rest) if first in names else (name, message)
        problems.setdefault(name, message)
    return problems


def _default(name: str) -> Any:
    """The value that a setting has in the files of configs/training; None if it has none there."""
    section, _, leaf = name.rpartition(".")
    values = _defaults()
    found = values.get(section) if section else values
    return found.get(leaf) if isinstance(found, dict) else None


def _unknown(name: str, key: str, value: Any, schema: type[BaseModel]) -> str:
    names = by_name(schema)
    if "." in key and key in names:
        section, _, leaf = key.rpartition(".")
        return f"stands in its section in a file: `{section}: {{{leaf}: {value}}}`"
    siblings = [n for n in [*names, *schema.model_fields] if n.count(".") == name.count(".")]
    leaf = name.rpartition(".")[2]
    return f"no such setting{did_you_mean(name, siblings) or did_you_mean(leaf, names)}"


def _no_section(name: str, value: Any, schema: type[BaseModel]) -> str:
    """The problem of a section that holds no settings."""
    field = schema.model_fields[name].annotation if name in schema.model_fields else None
    first = next(iter(field.model_fields)) if isinstance(field, type) and issubclass(
        field, BaseModel) else "..."  # fmt: skip
    example = f"`{name}: {{{first}: {_defaults().get(name, {}).get(first, '...')}}}`"
    if value is None:
        return f"has nothing beneath it; write its settings there, as in {example}, or leave it out"
    return f"is a section, which holds settings, as in {example}; got {shortened(value)}"
