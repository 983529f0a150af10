"""Write docs/settings.md, the tables of all settings, from their schemas: `make settings`."""

import json
from itertools import groupby
from typing import Any, get_origin

from src.config import MachineSettings, Setting, defaults, flattened, settings
from src.paths import ROOT
from src.sweeps.file import Base, Categorical, Range, SweepConfig

FILE = ROOT / "docs" / "settings.md"
HEAD = """# Settings

<!-- Written by `make settings` from src/config and src/sweeps/file.py; a test fails
where they differ. -->

Each setting has one name everywhere: in the form, in YAML (`lora: {r: 16}`), on the command line
(`--set lora.r=16`) and in the run's row. The defaults below are those of configs/training and
configs/models. A preset, a YAML file and `--set` override them, in this order.

A YAML file may also have the older flat keys: `experiment_name` is `name`, `lora_config` is `lora`,
`training_config` is `training` (its `warmup_steps` is `scheduler.warmup_steps`), and `timestamp` is
ignored. A key that stands twice is refused.

A value is read by the type of its setting, in a file as after `--set` and in the form: of
`--set name=7` or `--set data.template='Fix #1: {question}'` the text as it stands. `null` is none,
and a list is `a,b` or `[a, b]`. After `--set` a text in double quotes is read as in JSON, and an
empty value, such as of a variable of the shell that is not set, is refused.
"""
SWEEP = """
## A sweep file

The keys of a sweep file, such as those in configs/sweeps. A setting under `space` has a list of
values, or `low` and `high`. A key without a default is required.

"""
MACHINE = """
## The machine

These are settings of the machine, not of a run: `spelltune machine set price_per_hour 2.49` and the
page Machine write them into `machine.yaml` of the home.

"""
COLUMNS = "| setting | default | allowed | meaning |\n|---|---|---|---|"
# The sections of a sweep file, and the models of their fields.
SECTIONS = (
    ("", SweepConfig),
    ("base.", Base),
    ("space.SETTING.", Categorical),
    ("space.SETTING.", Range),
)


def table() -> str:
    """The text of docs/settings.md: a table per section of RunConfig, and one for a sweep file."""
    values = defaults()
    parts = [HEAD]
    for section, members in groupby(settings(), key=lambda s: s.name.rpartition(".")[0]):
        parts.append(f"\n## {section or 'The run'}\n\n{COLUMNS}")
        inside = values[section] if section else values
        parts += [row(s, inside[s.name.rpartition(".")[2]]) for s in members]
    rows: dict[str, str] = {}
    for prefix, kind in SECTIONS:
        for setting in settings(kind, prefix):
            field = kind.model_fields.get(setting.name.removeprefix(prefix))
            if field is not None:  # else it comes with its section
                value = ... if field.is_required() else field.default
                rows.setdefault(setting.name, row(setting, value))  # lists and ranges share `when`
    parts += [SWEEP + COLUMNS, *rows.values(), MACHINE + COLUMNS]
    values = MachineSettings().model_dump()
    parts += [row(s, flattened(values).get(s.name)) for s in settings(MachineSettings)]
    return "\n".join(parts) + "\n"


def row(setting: Setting, value: Any) -> str:
    """A row of a table; a value of `...` means that the setting is required."""
    shown = "" if value is ... else f"`{json.dumps(value, ensure_ascii=False)}`"
    cells = (f"`{setting.name}`", shown, allowed(setting), setting.help)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def allowed(setting: Setting) -> str:
    """Type and bounds in a few words, such as `whole number, 1 to 1,024`."""
    if setting.choices:
        kind = ", ".join(f"`{choice}`" for choice in setting.choices)
    else:
        names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
        names |= {list[str]: "list of texts", list: "list", dict: "mapping"}
        kind = names.get(setting.type) or names[get_origin(setting.type)]
    low, high = (f"{b:,.12g}" if b is not None else None for b in (setting.low, setting.high))
    bounds = [
        f"{'more than' if setting.low_open else 'at least'} {low}" if low else "",
        f"{'less than' if setting.high_open else 'at most'} {high}" if high else "",
        "may be empty (`null`)" if setting.optional else "",
    ]
    return ", ".join([kind, *filter(None, bounds)])


if __name__ == "__main__":
    FILE.write_text(table(), encoding="utf-8")
