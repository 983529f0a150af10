"""The tools on sweeps, as those on runs"""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from src import files, paths, store
from src.config import dump_yaml
from src.errors import UserError
from src.mcp import reach
from src.mcp.registry import Told, not_done, tool
from src.mcp.schemas import Confirm, SameSettings, SweepContent, SweepFile, SweepName
from src.store.tables import Sweep
from src.sweeps import control, results
from src.sweeps.estimate import SweepEstimate
from src.sweeps.file import read_document

Budget = Annotated[
    str | None, Field(description="`200 trials` or `45m`, instead of the budget of the sweep.")
]


class WrongSweep(UserError, ValueError):
    """It is not clear which sweep is meant."""


@tool(reads=True)
def sweep_list() -> list[dict[str, Any]]:
    """List all sweeps, newest first."""
    with store.reading() as session:
        return [row.document() for row in store.list_sweeps(session)]


@tool(reads=True)
def sweep_show(sweep_id: SweepName) -> dict[str, Any]:
    """Show a sweep: outcomes of its trials, the best settings, and how certain they are."""
    return results.read_document(sweep_id)


@tool(reads=True)
def sweep_plan(
    sweep: SweepContent = None,
    file: SweepFile = None,
    budget: Budget = None,
    settings: SameSettings = {},
) -> Told:
    """Show what a sweep would take: trials, duplicates, processes, time. Launches nothing."""
    planned = _prepared(sweep, file, budget, settings)[1]
    return Told(asdict(planned), planned.lines())


@tool()
def sweep_launch(
    sweep: Annotated[
        dict[str, Any] | None, Field(description="As sweep_plan takes it. Either this or a file.")
    ] = None,
    file: SweepFile = None,
    budget: Budget = None,
    settings: SameSettings = {},
) -> Told:
    """Start a sweep, which goes on by itself. Follow it with sweep_show."""
    text, planned = _prepared(sweep, file, budget, settings)
    notes = planned.lines()
    if file is not None:
        own: dict[str, Any] = {"budget": budget, "overrides": settings}
        sweep_id = control.launch(reach.sweep_file(file), **own, tell=notes.append)
    else:
        name = read_document(sweep or {}).name
        kept = files.keep(text.encode(), paths.own_sweeps(), f"{name}.yaml")
        sweep_id = control.launch(kept, tell=notes.append)
    return Told(results.read_document(sweep_id), notes)


@tool()
def sweep_pause(sweep_id: SweepName) -> dict[str, Any]:
    """Start no further trials of a sweep; those that are training go on."""
    found = _find(sweep_id)
    control.pause(found.id)
    return _find(found.id).document()


@tool()
def sweep_resume(sweep_id: SweepName) -> dict[str, Any]:
    """Resume a paused sweep, or one whose driver failed."""
    found = _find(sweep_id)
    control.resume(found.id)
    return _find(found.id).document()


@tool(destroys=True)
def sweep_cancel(sweep_id: SweepName, confirm: Confirm = False) -> dict[str, Any]:
    """End a sweep: cancel its queued trials, and stop those that are training."""
    found = _find(sweep_id)
    if not confirm:
        would = "its queued trials are cancelled, and those that train stop at their next step"
        return not_done(found.id, would)
    control.cancel(found.id)
    return _find(found.id).document()


def _find(name: str) -> Sweep:
    with store.reading() as session:
        return store.find_sweep(session, name)


def _prepared(
    sweep: dict[str, Any] | None, file: str | None, budget: str | None, settings: dict[str, Any]
) -> tuple[str, SweepEstimate]:
    """The text of a sweep and its estimate. WrongSweep where not one of the two is given."""
    if (sweep is None) == (file is None):
        raise WrongSweep("name either a sweep file or, as `sweep`, what such a file holds")
    if file is not None:
        own: dict[str, Any] = {"budget": budget, "overrides": settings}
        text, config, planned = control.prepare(reach.sweep_file(file), **own)
    elif budget or settings:
        raise WrongSweep("budget and settings go with a file; write them into `sweep`")
    else:
        config = read_document(sweep or {})
        text = dump_yaml(sweep or {})
        _, planned = control.read_and_estimate(text, config.name)
    reach.check_sweep(config)
    return text, planned
