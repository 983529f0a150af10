"""`spelltune token`: tokens that open a panel which asks for one."""

import itertools
import time
from typing import Annotated, Any

import typer

from src.access import Role
from src.cli.options import AsJson
from src.cli.output import note, out, print_json, print_table
from src.panel.access import tokens
from src.panel.access.tokens import Token

MAY = {Role.EDIT: "change everything", Role.READ: "read"}
NAMES = {Role.EDIT: "edit", Role.READ: "read-only"}
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="A token's name.")]

app = typer.Typer(no_args_is_help=True, help="Tokens for a panel that asks for one.")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the tokens that open the panel of this home."""
    known = tokens.listed()
    if as_json:
        return print_json([_document(token) for token in known])
    if not known:
        note("there are no tokens yet; `spelltune token new` makes one")
        return
    print_table(
        ["name", "may", "made"],
        [(token.name, MAY[token.role], _day(token.created_at)) for token in known],
    )


@app.command()
def new(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Its name; by default what it may do.")
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Its holder sees everything and changes nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, once: only its hash is kept."""
    role = Role.READ if read_only else Role.EDIT
    name = free_name(role) if name is None else name
    _print_secret(name, tokens.make(name, role), as_json)


@app.command()
def renew(name: TokenName, as_json: AsJson = False) -> None:
    """Make a token anew and print it. Browsers that came in by the old one are logged out."""
    _print_secret(name, tokens.renew(name), as_json)


@app.command()
def revoke(name: TokenName) -> None:
    """Delete a token. Browsers that came in by it are logged out at once."""
    tokens.revoke(name)
    note(f"token {name} is revoked")


def free_name(role: Role) -> str:
    """A name for a new token that has none: what it may do, with a number where that is taken."""
    name, taken = NAMES[role], {token.name for token in tokens.listed()}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if n not in taken)


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _document(token: Token) -> dict[str, Any]:
    return {"name": token.name, "role": token.role.value, "created_at": token.created_at}


def _print_secret(name: str, secret: str, as_json: bool) -> None:
    if as_json:
        return print_json(_document(tokens.find(name)) | {"token": secret})
    out.print(secret, highlight=False)
    note(f"{name}, shown this once: give it to the panel's page, or as ?token=... in its address")
