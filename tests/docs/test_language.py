"""The code and its documents keep to the words of the glossary in docs/architecture.md."""

import ast
import re
from collections.abc import Iterator

from src.paths import ROOT

# How a docstring must not begin: its first sentence says what comes back or what happens.
WEAK_OPENINGS = ("What ", "Whether ", "Let ", "Who ", "One whose ", "Those ", "That ")
WEAK_CONSTANTS = ("MOST_", "FEWEST_", "LONGEST_", "HIGHEST_")
PAGES = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def trees() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("src", "pages", "scripts", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text())


def retired() -> dict[str, str]:
    """{retired word: the word to use}, from the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition("### Retired words")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|$", text.partition("\n## ")[0], re.MULTILINE)
    assert len(rows) > 15
    return dict(rows)


def names(tree: ast.Module) -> Iterator[str]:
    """Every name that a file defines: classes, functions, arguments, variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_no_name_is_a_retired_word() -> None:
    words = retired()
    found = {
        (path, name, words[name.lstrip("_")])
        for path, tree in trees()
        for name in names(tree)
        if name.lstrip("_") in words
    }
    assert found == set()


def test_no_file_is_named_by_a_retired_word() -> None:
    assert {path for path, _ in trees() if path.rpartition("/")[2][:-3] in retired()} == set()


def test_no_page_names_what_is_retired() -> None:
    quoted = {
        (page.name, word)
        for page in PAGES
        for word in re.findall(r"`(\w+)`", page.read_text().partition("### Retired words")[0])
        if word in retired()
    }
    assert quoted == set()


def test_docstrings_begin_with_what_comes_back_or_happens() -> None:
    found = {
        (path, getattr(node, "name", "module"), docstring.split("\n")[0])
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and (docstring := ast.get_docstring(node))
        and docstring.startswith(WEAK_OPENINGS)
    }
    assert found == set()


def test_limits_are_named_max_and_min() -> None:
    found = {
        (path, name) for path, tree in trees() for name in names(tree)
        if name.lstrip("_").startswith(WEAK_CONSTANTS)
    }  # fmt: skip
    assert found == set()
