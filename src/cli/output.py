"""Printing: results on standard output, everything about them on standard error."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

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


def print_table(heads: Sequence[str | Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under bold heads; cells are escaped."""
    table = Table(*heads, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair per line."""
    table = Table(Column(style="bold"), Column(overflow="fold"), box=None, show_header=False)
    for name, value in facts:
        table.add_row(name, escape(value))
    out.print(table)


def write_export(content: bytes, format: str, output: Path | None, summary: str) -> None:
    """Write an exported table to a file, or to standard output if none is named."""
    if output:
        output.write_bytes(content)
        err.print(f"{output} holds {summary}", highlight=False)
    elif sys.stdout.isatty() and format in ("parquet", "xlsx"):
        raise typer.BadParameter(f"{format} is a binary format; name a file with --output")
    else:
        sys.stdout.buffer.write(content)
