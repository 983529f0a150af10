"""Hooks of MkDocs for the site of `make docs`: README.md becomes its first page."""

import re
from typing import Any

from mkdocs.structure.files import File, Files

from src.paths import ROOT


def on_files(files: Files, config: Any) -> Files:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    # In the site the pages of docs/ are beside the first page.
    files.append(File.generated(config, "index.md", content=text.replace("](docs/", "](")))
    icon = (ROOT / "src" / "panel" / "icon.svg").read_bytes()
    files.append(File.generated(config, "images/icon.svg", content=icon))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files of the repository that are not pages by their names."""
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"`\1`", markdown)
