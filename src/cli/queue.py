"""Change the order of the queue."""

from typing import Annotated

import typer

from src.cli.options import AsJson
from src.cli.output import out, print_json
from src.runs import launcher


def first(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Queued runs.")],
    as_json: AsJson = False,
) -> None:
    """Move queued runs to the front of the queue, in this order."""
    ids = launcher.move_to_front(runs)
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} next", highlight=False)


def hold(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Queued runs.")],
    as_json: AsJson = False,
) -> None:
    """Keep queued runs from starting until they are released."""
    ids = launcher.hold(runs, held=True)
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} held", highlight=False)


def release(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Held runs.")],
    as_json: AsJson = False,
) -> None:
    """Release held runs: they start again from their old places in the queue."""
    ids = launcher.hold(runs, held=False)
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} released", highlight=False)
