"""Files, classes and functions stay small, or docs/architecture.md says why they do not."""

import ast
import re
from collections.abc import Iterator

from src.paths import ROOT

MAX_FILE, MAX_CLASS, MAX_FUNCTION = 350, 200, 60


def long_parts(folder: str) -> Iterator[str]:
    """`PATH`, or `PATH NAME` of a class or function, for each that is longer than it may be."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        text = file.read_text()
        path = str(file.relative_to(ROOT))
        if text.count("\n") > MAX_FILE:
            yield path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                most = MAX_CLASS if isinstance(node, ast.ClassDef) else MAX_FUNCTION
                if (node.end_lineno or 0) - node.lineno + 1 > most:
                    yield f"{path} {node.name}"


def test_what_is_long_is_explained() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## What is long, and why")[2]
    explained = set(re.findall(r"^\| `([^`|]+)` \|", text.partition("\n## ")[0], re.MULTILINE))
    found = {part for folder in ("src", "pages") for part in long_parts(folder)}
    assert found - explained == set(), "shorten these, or say why in docs/architecture.md"
    assert explained - found == set(), "these are short enough now: take them out of the list"
