"""`spelltune suite`: sets of questions that runs are scored on besides their own data."""

from pathlib import Path
from typing import Annotated

import typer

from src.cli.options import AsJson, Columns, by_role
from src.cli.output import out, print_json, print_table
from src.format import counted

app = typer.Typer(
    no_args_is_help=True,
    help="Sets of questions that runs are scored on besides their own data.",
)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the suites that a run can be scored on."""
    from src.training import suites

    listed = [
        {"name": name, "source": source, "about": about} for name, source, about in suites.listed()
    ]
    if as_json:
        return print_json(listed)
    print_table(["name", "source", "asks"], [tuple(one.values()) for one in listed])
    out.print(
        "Next: spelltune launch --set evaluation.suites=NAME,NAME; a file is a suite by its path",
        highlight=False,
    )


@app.command()
def add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file or folder of questions and answers.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the suite; by default that of the file.")
    ] = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Keep a file of questions and answers in the home, as a suite that runs name.

    Reads what `spelltune data import` reads; of data with splits the test split.
    """
    from src.training import suites

    kept, path, rows = suites.add(file, name, by_role(columns))
    if as_json:
        return print_json({"name": kept, "path": str(path), "rows": rows})
    out.print(f"the suite {kept} has {counted(rows, 'row')}: {path}", highlight=False)
    out.print(f"Next: spelltune launch --set evaluation.suites={kept}", highlight=False)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A suite that was added.")],
) -> None:
    """Forget a suite that was added to the home. What runs scored on it stays."""
    from src.training import suites

    suites.remove(name)
    out.print(f"removed the suite {name}", highlight=False)
