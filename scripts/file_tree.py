"""Write the tree of files into docs/architecture.md, from their docstrings: `make tree`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from src.paths import ROOT

FILE = ROOT / "docs" / "architecture.md"
MAX_LENGTH = 90  # of a sentence
START, END = "<!-- files: written by `make tree` -->\n", "<!-- files end -->"


def lines(folder: Path, indent: int = 0) -> Iterator[str]:
    """A line for the folder and each file in it, the packages after the files."""
    about = first_sentence(folder / "__init__.py")
    yield row(indent, f"{folder.name}/", about)
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield row(indent + 2, file.name, first_sentence(file))
    for inner in sorted(path for path in folder.iterdir() if any(path.glob("*.py"))):
        yield from lines(inner, indent + 2)


def row(indent: int, name: str, about: str) -> str:
    return f"{' ' * indent}{name:{30 - indent}}{about}".rstrip()


def first_sentence(file: Path) -> str:
    """The first sentence of a file's docstring; of a long one the part before its colon."""
    text = ast.get_docstring(ast.parse(file.read_text())) if file.exists() else None
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?]) |: `python -m", paragraph)[0].rstrip(".")
    return sentence if len(sentence) <= MAX_LENGTH else sentence.partition(": ")[0]


def page() -> str:
    """The text of docs/architecture.md with its tree as the files are now."""
    text = FILE.read_text()
    before, rest = text.split(START)
    tree = "\n".join([*lines(ROOT / "src"), *lines(ROOT / "pages")])
    return f"{before}{START}```text\n{tree}\n```\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    FILE.write_text(page())
