"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from src.config import ConfigError, parse_override, presets, shortened

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or its name if no other run has it.")
]
RunsArgument = Annotated[
    list[str], typer.Argument(metavar="RUN", help="Runs, by id, or by name if no other has it.")
]
_CHECKPOINT = typer.Argument(
    metavar="RUN[@STEP]", help="A run (its final adapter), or one of its checkpoints."
)
CheckpointArgument = Annotated[str, _CHECKPOINT]
OptionalCheckpoint = Annotated[str | None, _CHECKPOINT]
ConfigArgument = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", help="A YAML file of settings; without one, the defaults."),
]
ConfigArguments = Annotated[
    list[Path],
    typer.Argument(
        metavar="CONFIG",
        help="YAML files of settings, one per run; without one, the defaults.",
    ),
]
Preset = Annotated[str | None, typer.Option(help=f"Start from a preset: {', '.join(presets())}.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until the run ends; exit with 0 only if it completed.")
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="Change a setting, such as lora.r=16; may be repeated. A value is read as it stands: "
        "null is none, a,b or [a, b] a list.",
    ),
]

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="ROLE=COLUMN",
        help="The column of the question or of the answer, such as question=input.",
    ),
]
Format = Annotated[
    Literal["csv", "json", "parquet", "xlsx"], typer.Option("--format", help="File format.")
]
Output = Annotated[Path | None, typer.Option(help="File to write; by default, standard output.")]

ROLES = ("question", "answer")


def by_role(columns: list[str] | None) -> dict[str, str]:
    """{question or answer: its column} of all --map options."""
    pairs = dict(part.partition("=")[::2] for part in columns or ())
    if wrong := next((r for r, c in pairs.items() if r not in ROLES or not c.strip()), None):
        given = f"{wrong}={pairs[wrong]}" if pairs[wrong] else wrong
        raise typer.BadParameter(f"--map {given}: it takes question=COLUMN and answer=COLUMN")
    return pairs


def overrides(changes: list[str]) -> dict[str, Any]:
    """The values of all --set options, by setting; ConfigError for two that contradict."""
    given: dict[str, Any] = {}
    for name, value in map(parse_override, changes):
        if name in given and given[name] != value:
            told = f"is set twice, to {shortened(given[name])} and to {shortened(value)}; keep one"
            raise ConfigError({name: told})
        given[name] = value
    return given
