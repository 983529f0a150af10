"""Write docs/settings.md, the table of all settings, from RunConfig: `make settings`."""

import json
from itertools import groupby

from src.config import Setting, defaults, settings
from src.paths import ROOT

FILE = ROOT / "docs" / "settings.md"
HEAD = """# Settings

<!-- Written by `make settings` from src/config.py; a test fails where the two differ. -->

Each setting has one name everywhere: in the form, in YAML (`lora: {r: 16}`), on the command line
(`--set lora.r=16`) and in the run's row. The values below are those of configs/training and
configs/models, from which every run starts; a preset, your own YAML file and `--set` go on top, in
this order.
"""


def table() -> str:
    """The page, one table a section of RunConfig."""
    values = defaults()
    parts = [HEAD]
    for section, found in groupby(settings(), key=lambda s: s.name.rpartition(".")[0]):
        parts.append(f"\n## {section or 'The run'}\n\n| setting | value | allowed | what it does |")
        parts.append("|---|---|---|---|")
        inside = values[section] if section else values
        for setting in found:
            value = json.dumps(inside[setting.name.rpartition(".")[2]], ensure_ascii=False)
            cells = (f"`{setting.name}`", f"`{value}`", allowed(setting), setting.help)
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(parts) + "\n"


def allowed(setting: Setting) -> str:
    """Type and bounds in a few words, such as `whole number, 1 to 1,024`."""
    if setting.choices:
        kind = ", ".join(f"`{choice}`" for choice in setting.choices)
    else:
        names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
        kind = names.get(setting.type, "list of texts")
    low, high = (f"{b:,.12g}" if b is not None else None for b in (setting.low, setting.high))
    bounds = [
        f"{'more than' if setting.low_open else 'at least'} {low}" if low else "",
        f"{'less than' if setting.high_open else 'at most'} {high}" if high else "",
        "may be empty (`null`)" if setting.optional else "",
    ]
    return ", ".join([kind, *filter(None, bounds)])


if __name__ == "__main__":
    FILE.write_text(table(), encoding="utf-8")
