"""Reports on runs and sweeps, for those who have no Spelltune."""

from pathlib import Path
from typing import Annotated

import typer

from src.cli.options import AsJson
from src.cli.output import out, print_json
from src.files import write_atomic
from src.runs import reconciler

ENDINGS = (".html", ".tex")


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="One run or several.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A sweep instead: its id, or its name for the newest."),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File to write: FILE.html is the page, FILE.tex a LaTeX table of the scores; may "
            "be repeated. By default report-RUN.html.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a report on runs or a sweep as one page that needs no network.

    It holds verdicts, curves, the settings that differ, kinds of error, twenty words, and how to
    train the runs again: commands, versions and the fingerprint of the data. Of a sweep its winner,
    its ranked settings and its search.
    """
    if bool(runs) == (sweep is not None):
        raise typer.BadParameter("name either runs or, with --sweep, a sweep")
    if wrong := next((file for file in files or () if file.suffix not in ENDINGS), None):
        raise typer.BadParameter(f"--out {wrong}: the name ends in .html, or in .tex for a table")
    reconciler.reconcile()
    from src.panel.report import button, content, latex, page

    told = content.read(runs or [], sweep)
    of = told.sweep.found.row.id if told.sweep else None
    targets = files or [Path(f"{button.file_name([run.id for run in told.runs], of)}.html")]
    for file in targets:
        write_atomic(file, latex.document(told) if file.suffix == ".tex" else page.page(told))
    if as_json:
        sizes = [{"path": str(file), "size_bytes": file.stat().st_size} for file in targets]
        return print_json({"runs": [run.id for run in told.runs], "sweep": of, "files": sizes})
    for file in targets:
        what = "a table of" if file.suffix == ".tex" else "a report on"
        out.print(f"{file} holds {what} {told.title}", highlight=False)
    return None
