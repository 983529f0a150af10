"""`spelltune mcp`: the tools for agents, over stdio or HTTP."""

import importlib.util
import sys
from typing import Annotated

import typer

from src.access import Role
from src.cli.output import note, out
from src.cli.panel import allowed_hosts, first_secret
from src.errors import UserError
from src.panel.access import addresses
from src.runs.environment import leave

PORT = 8502


def mcp(
    http: Annotated[
        bool,
        typer.Option("--http", help="Serve over HTTP, to clients with a token of the panel."),
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(help="With --http: address to listen on, 127.0.0.1 by default."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help=f"With --http: port to listen on, by default {PORT}."),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Offer only the tools that change nothing.")
    ] = False,
) -> None:
    """Serve tools to agents by the Model Context Protocol, over standard input and output.

    An agent lists, launches, follows, compares and stops runs as these commands do. With --http
    each request brings a token (`spelltune token`); a read-only one looks at everything and changes
    nothing.
    """
    if importlib.util.find_spec("mcp") is None:
        raise UserError('`spelltune mcp` needs the MCP SDK: pip install "spelltune[mcp]"')
    role = Role.READ if read_only else Role.EDIT
    if http:
        _serve_http(host or "127.0.0.1", port or PORT, role)
    elif host or port:
        raise UserError("--host and --port go with --http")
    else:
        from src.mcp.stdio import serve

        if sys.stdin.isatty():
            note("an agent starts this and talks to it here; --http waits for agents elsewhere")
        serve(role)
    leave(0)  # not after calls that hang


def _serve_http(host: str, port: int, role: Role) -> None:
    if why := addresses.why_not(host, port):
        raise UserError(f"the tools cannot be served on {host!r}, port {port}: {why}")
    from src.mcp import http as over_http

    for name in addresses.reached_at(host):
        out.print(f"The tools are at http://{name}:{port}{over_http.PATH}", highlight=False)
    if secret := first_secret("`spelltune mcp`"):
        out.print("Clients send this token, shown this once, in each request:\n")
        out.print(f"  Authorization: Bearer {secret}\n", highlight=False)
    sys.stdout.flush()
    over_http.serve(host, port, allowed_hosts(host), most=role)
