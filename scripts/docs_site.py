"""What MkDocs asks while it builds the site (`make docs`): the README is its first page."""

import re
from typing import Any

from mkdocs.structure.files import File, Files

from src.paths import ROOT


def on_files(files: Files, config: Any) -> Files:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    # The pages of docs/ lie beside the first page there.
    files.append(File.generated(config, "index.md", content=text.replace("](docs/", "](")))
    icon = (ROOT / "src" / "panel" / "icon.svg").read_bytes()
    files.append(File.generated(config, "images/icon.svg", content=icon))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the repository that are no pages become plain names."""
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"`\1`", markdown)
