"""The tools for whoever starts this process, over its standard input and output."""

from contextlib import suppress

from src.access import Role
from src.mcp.caller import Caller
from src.mcp.server import SpelltuneServer


def serve(role: Role) -> None:
    """Serve until standard input closes."""
    with suppress(KeyboardInterrupt):
        SpelltuneServer(Caller(role, is_remote=False)).run("stdio")
