"""`spelltune mcp`: the tools for agents, over stdio or HTTP."""

import importlib.util
import sys
from typing import Annotated

import typer

from src.access import Role
from src.cli.output import err
from src.cli.panel import allowed_hosts, first_secret
from src.errors import UserError
from src.panel.access import addresses
from src.runs.environment import leave


def mcp(
    http: Annotated[
        bool,
        typer.Option("--http", help="Serve over HTTP, to clients with a token of the panel."),
    ] = False,
    host: Annotated[
        str, typer.Option(help="With --http: address to listen on, 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="With --http: port to listen on.")
    ] = 8502,
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
    if not http:
        from src.mcp.stdio import serve

        serve(Role.READ if read_only else Role.EDIT)
        sys.stdout.flush()
        leave(0)
    if why := addresses.why_not(host):
        raise UserError(f"the tools cannot be served on {host!r}: {why}")
    from src.mcp import http as over_http

    for name in addresses.reached_at(host):
        err.print(f"The tools are at http://{name}:{port}{over_http.PATH}", highlight=False)
    if secret := first_secret("`spelltune mcp`"):
        err.print("Clients send this token, shown this once, in each request:\n")
        err.print(f"  Authorization: Bearer {secret}\n", highlight=False)
    over_http.serve(host, port, allowed_hosts(host), most=Role.READ if read_only else Role.EDIT)
