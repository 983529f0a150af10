"""The end of a run's log: found in, narrowed to warnings and errors, and copied in the browser."""

import os
import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import streamlit as st

from src import paths
from src.panel.ui import html
from src.store.tables import Run, Status

LOG_BYTES = 16_384  # of the log's end, as shown

# Where libraries write the level of a line: first, in brackets, or between dashes or bars.
_LEVEL = r"(^\W*|[\[|-] ?)({})\b"
_ERROR = re.compile(_LEVEL.format("critical|error|fatal") + r"|^[\w.]*(Error|Exception)\b", re.I)
_WARNING = re.compile(_LEVEL.format("warn|warning") + r"|\w+Warning:", re.I)
_TRACEBACK = "Traceback (most recent call last)"

_lines = st.components.v2.component(
    "spelltune.log",
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def draw(run: Run) -> None:
    text = tail(paths.log_file(run.id))
    if not text and Status(run.status).ended:
        html.draw_empty("No log", "This run ended before it had written a line.")
        return
    _lines(key="log", data={"html": as_html(text.splitlines())})


def as_html(lines: Iterable[str]) -> str:
    """HTML: an element per line, whose class is its level if it warns or tells of an error."""
    return "".join(f'<span class="{level}">{escape(line)}\n</span>' for line, level in told(lines))


def told(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each line with its level: error, warning or none. A traceback is an error to its last
    line."""
    is_trace = False
    for line in lines:
        inside = is_trace and (not line.strip() or line[0].isspace())
        was_trace, is_trace = is_trace, inside or _TRACEBACK in line
        if was_trace or is_trace or _ERROR.search(line):
            yield line, "error"
        else:
            yield line, "warning" if _WARNING.search(line) else ""


def tail(path: Path) -> str:
    """The last lines of a log; reads at most LOG_BYTES of it."""
    try:
        with open(path, "rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - LOG_BYTES)
            file.seek(start)
            text = file.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    # A progress bar overwrites its line with carriage returns: keep what it said last.
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines[1 if start else 0 :]).rstrip()
