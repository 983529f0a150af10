"""A pytest plugin: writes the outcomes of the chaos tests as a table into docs/results.md."""

import os
import platform
from typing import Any

import pytest

from src.paths import ROOT

FILE = ROOT / "docs" / "results.md"
START, END = "<!-- chaos: written by `make chaos` -->", "<!-- chaos: end -->"

_rows: list[str] = []


def pytest_runtest_logreport(report: Any) -> None:
    if report.when != "call":
        return
    name = report.nodeid.partition("::test_")[2].replace("_", " ")
    seen = dict(report.user_properties).get("outcome", "FAILED" if report.failed else "as it must")
    _rows.append(f"| {name} | {seen} | {report.duration:,.0f} |")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not _rows:
        return
    head, _, rest = FILE.read_text().partition(START)
    tail = rest.partition(END)[2]
    cores, kind = len(os.sched_getaffinity(0)), platform.machine()
    lines = [
        START, "", f"{cores} CPU cores ({kind}), Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}.", "",
        "| fault | outcome | seconds |", "|---|---|---|", *_rows, "", END,
    ]  # fmt: skip
    FILE.write_text(head + "\n".join(lines) + tail)
