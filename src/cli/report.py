"""Reports on runs and sweeps, for those who have no Spelltune."""

from pathlib import Path
from typing import Annotated

import typer

from src.cli.options import AsJson
from src.cli.output import out, print_json
from src.runs import reconciler


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
    reconciler.reconcile()
    from src.panel.report.files import write

    written = write(runs or [], sweep, files or [])
    if as_json:
        return print_json(written.document())
    for file in written.files:
        what = "a table of" if file.suffix == ".tex" else "a report on"
        out.print(f"{file} holds {what} {written.told.title}", highlight=False)
    return None
