"""Printing: results on standard output, everything about them on standard error."""

from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from src import store

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

# Exit codes: 1 a run did not complete, 2 the command cannot be carried out as written.
DID_NOT_COMPLETE, BAD_CALL = 1, 2


def refuse(why: str) -> NoReturn:
    """Print an error and exit with BAD_CALL."""
    error(why)
    raise typer.Exit(BAD_CALL) from None


def error(text: str) -> None:
    err.print(f"[red]error:[/] {escape(text)}", highlight=False)


def note(text: str) -> None:
    err.print(f"note: {text}", highlight=False)


def print_json(document: Any) -> None:
    print(store.to_json(document))
