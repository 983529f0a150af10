"""The `spelltune` app: its commands by group, and how an error ends a command."""

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

import typer
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from typer.core import TyperGroup

from src import paths, store
from src.cli import (
    data,
    doctor,
    launch,
    machine,
    mcp,
    notify,
    output,
    panel,
    queue,
    report,
    results,
    runs,
    scores,
    share,
    suites,
    sweeps,
    tokens,
    tries,
)
from src.errors import UserError, explain_os_error
from src.runs import idle, lease, restore


class Commands(TyperGroup):
    """Print an error that a user can mend as one sentence, and exit with BAD_CALL."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        output.adapt_to_encoding()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            # UnknownRun is a LookupError, whose str() is plain; a KeyError's would be quoted.
            output.refuse(str(error))
        except (SQLAlchemyError, ImportError) as error:
            if why := store.explain_unreachable(error):
                output.refuse(why)
            raise
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has gone: Click ends quietly
                raise
            output.refuse(explain_os_error(error))

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of GROUPS; Typer would put subgroups last."""
        order = list(GROUPS)

        def place(name: str) -> int:
            return order.index(getattr(self.commands[name], "rich_help_panel", ""))

        return sorted(self.commands, key=place)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach a language model to spell: launch fine-tunings, follow them, read their mistakes.",
)


@app.callback()
def prepare() -> None:
    # Only the owner may read what runs write.
    os.umask(0o077)
    # Threads of torch that spin would take the cores from each other, and from a training beside.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What the environment names from the current folder is made absolute, before any command
    # starts a process that runs in another folder.
    paths.home()
    with contextlib.suppress(ArgumentError):  # said by the first command that needs the table
        store.database_url()
        # Before anything can queue runs into a new table.
        if not lease.other_host():
            restore.restore_database()
    idle.keep_watching()


# As `spelltune --help` shows them. A command is named after its function; an underscore at its end
# keeps a word of Python apart.
GROUPS: dict[str, list[Callable[..., None]]] = {
    "Run": [
        launch.preview,
        launch.preflight,
        launch.launch,
        launch.resume,
        launch.fork,
        queue.first,
        queue.hold,
        queue.release,
        runs.stop,
        runs.archive,
        runs.unarchive,
        runs.delete,
    ],
    "Watch": [panel.panel, mcp.mcp, runs.runs, runs.show, runs.metrics, runs.checkpoints],
    "Compare": [results.compare, results.errors, tries.try_, scores.evaluate, results.export],
    "Sweep": [],  # a subcommand: sweeps.app
    "Share": [report.report, share.adapter, share.merge, share.push, share.capsule],
    "Machine": [doctor.doctor],
}
for group, commands in GROUPS.items():
    for command in commands:
        name = command.__name__.removesuffix("_")
        app.command(name, rich_help_panel=group)(command)
app.add_typer(machine.app, name="machine", rich_help_panel="Machine")
app.add_typer(data.app, name="data", rich_help_panel="Run")
app.add_typer(notify.app, name="notify", rich_help_panel="Machine")
app.add_typer(suites.app, name="suite", rich_help_panel="Compare")
app.add_typer(tokens.app, name="token", rich_help_panel="Watch")
app.add_typer(sweeps.app, name="sweep", rich_help_panel="Sweep")
app.command(rich_help_panel="Machine", hidden=True)(doctor.reconcile)  # for processes
