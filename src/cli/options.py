"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from src.config import parse_override, presets

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or its name where only one has it.")
]
CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@STEP]", help="A run, for the adapter that it kept, or one of its checkpoints."
    ),
]
ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file of settings.")
]
ConfigArguments = Annotated[
    list[Path], typer.Argument(metavar="[CONFIG]...", help="YAML files of settings.")
]
Preset = Annotated[str | None, typer.Option(help=f"Start from a preset: {', '.join(presets())}.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Stay until the run ends; exit 0 only if it completed.")
]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="SETTING=VALUE", help="Change one setting, such as lora.r=16."),
]


def overrides(changes: list[str]) -> dict[str, Any]:
    """{setting: value} of all --set options."""
    return dict(parse_override(text) for text in changes)
