"""Reorder the queue."""

from typing import Annotated

import typer

from src import store
from src.cli.options import AsJson
from src.cli.output import out, print_json
from src.runs import launcher


def first(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Queued runs.")],
    as_json: AsJson = False,
) -> None:
    """Let queued runs be the next to start, in this order."""
    with store.writing() as session:
        ids = store.move_to_front(session, [store.find(session, name) for name in runs])
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} next", highlight=False)


def hold(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Queued runs.")],
    as_json: AsJson = False,
) -> None:
    """Let queued runs wait, whatever slot is free, until they are released."""
    with store.writing() as session:
        ids = store.hold(session, [store.find(session, name) for name in runs], held=True)
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} held", highlight=False)


def release(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Held runs.")],
    as_json: AsJson = False,
) -> None:
    """Let held runs start when it is their turn, in their old places of the queue."""
    with store.writing() as session:
        ids = store.hold(session, [store.find(session, name) for name in runs], held=False)
    launcher.fill_slots()
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} released", highlight=False)
