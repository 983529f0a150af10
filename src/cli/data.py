"""`spelltune data`: files of questions and answers as other programs write them."""

from pathlib import Path
from typing import Annotated

import typer

from src.cli.options import AsJson, Columns, by_role
from src.cli.output import note, out, print_json, print_table
from src.config import CHAT, set_arguments

app = typer.Typer(
    no_args_is_help=True, help="Your own data: read the formats that other programs write."
)

PREVIEW = 10  # rows


@app.callback()
def data() -> None:
    """A group of commands, although it has one so far."""


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A file, or a folder with a file for each split or task."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="messages, sharegpt, alpaca, prompt-completion, cute, columns, norvig, birkbeck, "
            "arrow, symspell, or parquet-folder; by default found from the content."
        ),
    ] = None,
    columns: Columns = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new file; by default that of the source.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a file or a folder of questions and answers to one that a run can train on.

    Reads JSON, JSON Lines, CSV and its relatives, Excel, Parquet, chats, and lists of misspellings,
    and writes question and answer as JSON Lines into the folder of your data.
    """
    from src.training import data_import

    found = data_import.import_data(source, format=format, mapping=by_role(columns))
    path = data_import.save(found, name or source.resolve().stem)
    if as_json:
        document = {"path": str(path), "format": found.format, "rows": len(found.rows)}
        document |= {"system_prompt": found.system_prompt}
        return print_json(document | {"notes": found.notes, "examples": found.rows[:PREVIEW]})
    print_table(
        ["question", "answer"], [(r["question"], r["answer"]) for r in found.rows[:PREVIEW]]
    )
    for text in found.notes:
        note(text)
    out.print(f"{len(found.rows):,} rows of the format {found.format}: {path}", highlight=False)
    changes: dict[str, str] = {"data.task": "mine", "data.path": str(path)}
    if found.system_prompt:
        changes |= {"data.template": CHAT, "data.system_prompt": found.system_prompt}
    out.print(f"Next: spelltune launch {' '.join(set_arguments(changes))}", highlight=False)
