"""Write docs/cli.md, the reference of all commands, from the commands: `make commands`."""

from collections.abc import Iterator
from typing import Any

import typer

from src.cli import app
from src.paths import ROOT

FILE = ROOT / "docs" / "cli.md"
HEAD = """# The command line

<!-- Written by `make commands` from src/cli; a test fails where they differ. -->

`spelltune COMMAND --help` shows the same in a terminal.

- A run is named by its id, or by its name if no other run has it; `RUN@STEP` names one of its
  checkpoints. `spelltune runs` and `spelltune checkpoints RUN` list them.
- With `--json` a command prints one JSON document on standard output and nothing else there. Notes
  and errors go to standard error.
- The exit code is 0 if all went well, 1 if a run did not complete or cannot fit into memory, and 2
  if the command cannot be carried out as written; a sentence then says what can be done.
"""


def page() -> str:
    """The text of docs/cli.md: a section for each group of `spelltune --help`."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="spelltune")
    parts, group = [HEAD], None
    for name in root.list_commands(context):
        command = root.commands[name]
        if command.hidden:
            continue
        if command.rich_help_panel != group:
            group = command.rich_help_panel
            parts.append(f"## {group}\n")
        parts += section(command, typer.Context(command, info_name=name, parent=context))
    return "\n".join(parts)


def section(command: Any, context: typer.Context) -> Iterator[str]:
    """A command's usage, help text, and a table of its arguments and options."""
    if subcommands := getattr(command, "commands", None):
        if command.invoke_without_command:
            yield from _usage(command, context)
        else:
            yield f"{command.help}\n"
        for name, subcommand in subcommands.items():
            yield from section(
                subcommand, typer.Context(subcommand, info_name=name, parent=context)
            )
        return
    yield from _usage(command, context)


def _usage(command: Any, context: typer.Context) -> Iterator[str]:
    # Typer puts required arguments in braces.
    usage = " ".join(command.collect_usage_pieces(context)).replace("{", "").replace("}", "")
    yield f"### {context.command_path.removeprefix('spelltune ')}\n"
    yield f"`{context.command_path} {usage}`\n"
    yield f"{command.help}\n"
    rows = [
        record for parameter in command.params if (record := parameter.get_help_record(context))
    ]
    if rows:
        yield "| argument or option | |\n|---|---|"
        yield from (f"| `{cell(name)}` | {cell(text)} |" for name, text in rows)
        yield ""


def cell(text: str) -> str:
    """Text that a Markdown table does not read as two cells."""
    return text.replace("|", "\\|").replace("  [", " [")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
