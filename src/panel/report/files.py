"""Reports as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import write_atomic
from src.panel.report import button, content, latex, page
from src.panel.report.content import Content

ENDINGS = (".html", ".tex")


class WrongReport(UserError, ValueError):
    """It is not clear what to report on, or as which kind of file."""


@dataclass(frozen=True)
class Written:
    """A report, and the files that hold it."""

    told: Content
    files: Sequence[Path]

    def document(self) -> dict[str, Any]:
        """The document that `spelltune report --json` prints."""
        return {
            "runs": [run.id for run in self.told.runs],
            "sweep": self.told.sweep.found.row.id if self.told.sweep else None,
            "files": [{"path": str(f), "size_bytes": f.stat().st_size} for f in self.files],
        }


def check(runs: Sequence[str], sweep: str | None, files: Sequence[Path]) -> None:
    """WrongReport unless either runs or a sweep are named, and files of the kinds there are."""
    if bool(runs) == (sweep is not None):
        raise WrongReport("name either runs or a sweep")
    if wrong := next((file for file in files if file.suffix not in ENDINGS), None):
        raise WrongReport(f"{wrong}: the name ends in .html, or in .tex for a table")


def write(
    runs: Sequence[str], sweep: str | None, files: Sequence[Path] = (), *, folder: Path = Path()
) -> Written:
    """Write a report on runs or a sweep into these files: FILE.html is the page, FILE.tex a LaTeX
    table of the scores. Without any, the page into a folder, named after what it is on."""
    check(runs, sweep, files)
    told = content.read(runs, sweep)
    of = told.sweep.found.row.id if told.sweep else None
    targets = files or [folder / f"{button.file_name([run.id for run in told.runs], of)}.html"]
    for file in targets:
        write_atomic(file, latex.document(told) if file.suffix == ".tex" else page.page(told))
    return Written(told, targets)
