"""Printing: results on standard output, everything about them on standard error.

Names, notes, reasons and what a model answered are untrusted text: a terminal would obey the escape
codes in it, so whatever is printed goes through `visible`, and is never read as markup.
"""

import codecs
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from src import store

# Format characters that turn the direction of what follows.
TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# What a terminal that is not UTF-8 shows for the signs of our own sentences.
NEAREST = {"–": "-", "—": "-", "…": "...", "·": "-", "×": "x", "≈": "~", "⏎": "\\n", "␣": "_",
           "“": '"', "”": '"', "’": "'", "→": "->", "−": "-"}  # fmt: skip


def visible(text: str) -> str:
    """The text with control characters as escapes such as `\\x1b`; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if _is_control(c) else c for c in text)


def _is_control(sign: str) -> bool:
    if sign in "\n\t":
        return False
    return sign in TURNS or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")


class _Visible(RenderHook):
    """Makes the control characters in all that a console prints visible."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_VisibleText(one) for one in renderables]


class _VisibleText:
    def __init__(self, inner: ConsoleRenderable):
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.inner, options):
            yield Segment(text if control else visible(text), style, control)


def terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console for untrusted text."""
    console = Console(stderr=stderr, soft_wrap=width is None, width=width, markup=False)
    console.push_render_hook(_Visible())
    return console


out = terminal()
err = terminal(stderr=True)


def nearest(error: UnicodeError) -> tuple[str, int]:
    """Handler of signs that a stream's encoding lacks: one like it, or an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(NEAREST.get(sign, ascii(sign)[1:-1]) for sign in signs), error.end


def adapt_to_encoding() -> None:
    """Make standard output and error accept every sign in any encoding of the terminal."""
    codecs.register_error("spelltune.nearest", nearest)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure and not stream.encoding.lower().startswith("utf"):
            reconfigure(errors="spelltune.nearest")


# Exit codes: 1 a run did not complete, 2 the command cannot be carried out as written.
DID_NOT_COMPLETE, BAD_CALL = 1, 2


def refuse(why: str) -> NoReturn:
    """Print an error and exit with BAD_CALL."""
    error(why)
    raise typer.Exit(BAD_CALL) from None


def error(text: str) -> None:
    err.print(Text.assemble(("error:", "red"), f" {text}"), highlight=False)


def note(text: str) -> None:
    err.print(f"note: {text}", highlight=False)


def print_json(document: Any) -> None:
    print(store.to_json(document))


def print_line(*cells: object) -> None:
    """Print cells with tabs between them."""
    print("\t".join(visible(str(cell)) for cell in cells))


def print_table(heads: Sequence[str | Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under bold heads."""
    table = Table(*heads, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair per line."""
    table = Table(Column(style="bold"), Column(overflow="fold"), box=None, show_header=False)
    for name, value in facts:
        table.add_row(name, value)
    out.print(table)


def write_export(content: bytes, format: str, output: Path | None, summary: str) -> None:
    """Write an exported table to a file, or to standard output if none is named."""
    if output:
        output.write_bytes(content)
        err.print(f"{output} holds {summary}", highlight=False)
    elif sys.stdout.isatty() and format in ("parquet", "xlsx"):
        raise typer.BadParameter(f"{format} is a binary format; name a file with --output")
    elif sys.stdout.isatty():
        print(visible(content.decode()), end="")
    else:
        sys.stdout.buffer.write(content)
