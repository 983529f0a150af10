"""`spelltune notify`: the services by which people are told that something ended."""

import sys
from typing import Annotated, Any

import typer

from src.cli.options import AsJson
from src.cli.output import DID_NOT_COMPLETE, out, print_json, print_table
from src.format import duration
from src.runs import notifications
from src.sweeps import messages

app = typer.Typer()


@app.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Tell people by Telegram, e-mail, Slack and a hundred other services, or by a webhook.

    Without a command: the services that are set, by their names alone, and what they tell.
    """
    if context.invoked_subcommand:
        return
    state = notifications.state()
    if as_json:
        return print_json({"services": state, "told_of": messages.TOLD_OF})
    if state:
        rows = [(str(one["number"]), one["name"], one["source"], _last(one)) for one in state]
        print_table(["number", "service", "from", "last message"], rows)
    else:
        out.print("No service is set: `spelltune notify add` sets one.", highlight=False)
    out.print("You are told that")
    for text in messages.TOLD_OF:
        out.print(f"- {text}", highlight=False)


def _last(one: dict[str, Any]) -> str:
    """`told, 3 min ago`, or why the last message of a service was not told."""
    if one["problem"]:
        return str(one["problem"])
    if one["last_seconds"] is None:
        return "none yet"
    how = one["last_problem"] or "told"
    return f"{how}, {duration(one['last_seconds'])} ago"


@app.command()
def add(as_json: AsJson = False) -> None:
    """Set a service: reads its URL from standard input, as it is a secret.

    A URL of Apprise, such as tgram://TOKEN/CHAT (https://appriseit.com lists them), or a webhook,
    such as webhook+https://HOST/PATH, which gets a JSON document. It is kept in `notify.urls` of
    the home, for its owner alone.
    """
    if sys.stdin.isatty():
        url = typer.prompt("URL (it is not shown)", hide_input=True, err=True)
    else:
        url = sys.stdin.readline()
    service = notifications.add(url)
    if as_json:
        return print_json({"number": service.number, "name": service.name})
    out.print(f"{service.number} {service.name}: set", highlight=False)
    out.print("Next: spelltune notify test", highlight=False)


@app.command()
def remove(
    number: Annotated[int, typer.Argument(metavar="N", help="Its number in `spelltune notify`.")],
) -> None:
    """Forget a service."""
    service = notifications.remove(number)
    out.print(f"{service.number} {service.name}: forgotten", highlight=False)


@app.command()
def test(as_json: AsJson = False) -> None:
    """Send a test by each service, and say what came of it; exit with 0 only if all took it."""
    found = notifications.send_test()
    if as_json:
        print_json(found)
    for one in () if as_json else found:
        out.print(f"{one['number']} {one['name']}: {one['problem'] or 'sent'}", highlight=False)
    if any(one["problem"] for one in found):
        raise typer.Exit(DID_NOT_COMPLETE)
