"""JSON schemas of what the tools take, from the models that check it: RunConfig and SweepConfig."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from src.config import RunConfig, presets, settings
from src.sweeps.file import SweepConfig

# Keys that say nothing to a client, or that are ours (src/config/effects.py).
_DROPPED = ("title", "affects", "basic")


@cache
def run_settings() -> dict[str, Any]:
    """The schema of settings by dotted name, as `--set` takes them: each with type, bounds and
    help text of its field; none is required."""
    schema = RunConfig.model_json_schema()
    properties = {}
    for setting in settings():
        own: Any = schema
        for part in setting.name.split("."):
            own = _resolved(schema, own)["properties"][part]
        properties[setting.name] = _plain({k: v for k, v in own.items() if k != "default"})
    return {"type": "object", "properties": properties, "additionalProperties": False}


@cache
def sweep() -> dict[str, Any]:
    """The schema of a sweep file's content."""
    schema = SweepConfig.model_json_schema()
    found: dict[str, Any] = _plain(_inlined(schema, schema))
    found.pop("$defs", None)
    return found


def _resolved(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a schema, or the definition to which it points."""
    name = str(part.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = schema["$defs"][name] if name else part
    return found


def _inlined(schema: Mapping[str, Any], part: Any) -> Any:
    """A part of a schema in which each reference is the definition itself."""
    if isinstance(part, Mapping):
        return {key: _inlined(schema, value) for key, value in _resolved(schema, part).items()}
    return [_inlined(schema, one) for one in part] if isinstance(part, list) else part


def _plain(part: Any, *, named: bool = False) -> Any:
    """A part of a schema with texts on one line, without what clients need not know; in a mapping
    of `named` properties each key is a name."""
    if isinstance(part, Mapping):
        kept = {k: v for k, v in part.items() if named or k not in _DROPPED}
        return {k: _plain(v, named=k in ("properties", "$defs")) for k, v in kept.items()}
    if isinstance(part, list):
        return [_plain(one) for one in part]
    return " ".join(part.split()) if isinstance(part, str) else part


Settings = Annotated[
    dict[str, Any],
    WithJsonSchema(
        run_settings()
        | {"description": "Settings on top of the preset, by dotted name. Others keep its values."}
    ),
]
# Told once, in the tool that launches a run: it is long.
SameSettings = Annotated[
    dict[str, Any],
    Field(description="Settings by dotted name, such as lora.r, as launch takes them."),
]
Preset = Annotated[
    str | None,
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "enum": presets()}, {"type": "null"}],
            "description": f"Preset to start from; {presets()[0]} without one.",
        }
    ),
]
RunName = Annotated[
    str, Field(description="A run's id, or its name if no other run has it.", max_length=200)
]
Checkpoint = Annotated[
    str,
    Field(
        description="RUN (its kept adapter) or RUN@STEP (one of its checkpoints).", max_length=200
    ),
]
SweepName = Annotated[
    str, Field(description="A sweep's id, or its name for the newest one.", max_length=200)
]
Split = Annotated[str, Field(description="validation, test, or suite/NAME of a suite.")]
Confirm = Annotated[
    bool,
    Field(description="Without it nothing is done: the answer says what would happen."),
]
SweepContent = Annotated[
    dict[str, Any] | None,
    WithJsonSchema(
        {
            "anyOf": [sweep(), {"type": "null"}],
            "description": "The sweep: what a sweep file holds. Name either this or a file.",
        }
    ),
]
SweepFile = Annotated[
    str | None,
    Field(description="A sweep file instead: a path, or the name of one in configs/sweeps."),
]
