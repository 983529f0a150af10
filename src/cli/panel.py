"""`spelltune panel`: the server of the panel, with a login where others can reach it."""

import os
import socket
import sys
from typing import Annotated

import typer

from src import paths
from src.access import Role
from src.cli import tokens as token_commands
from src.cli.output import note, out
from src.errors import UserError
from src.panel.access import addresses, people, tokens


def panel(
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on, 127.0.0.1 by default. On one that other machines reach, "
            "such as 0.0.0.0, readers need a token."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on 127.0.0.1 too.")
    ] = False,
) -> None:
    """Open the panel in the browser.

    Where it asks for a token, the first start makes one and prints the address with it, once. It is
    given to each browser once; `spelltune token` makes others, also read-only ones.
    """
    os.chdir(paths.ROOT)  # Streamlit reads .streamlit/config.toml there
    from streamlit import config

    host = config.get_option("server.address") or "0.0.0.0" if host is None else host
    if why := addresses.why_not(host):
        raise UserError(f"the panel cannot listen on {host!r}: {why}")
    if not addresses.is_loopback(host):
        os.environ["SPELLTUNE_ALLOWED_HOSTS"] = ",".join(allowed_hosts(host))
        token = token or not os.environ.get("SPELLTUNE_PROXY")
    if token:
        os.environ["SPELLTUNE_LOGIN"] = "token"
        scheme = "https" if config.get_option("server.sslCertFile") else "http"
        base = (config.get_option("server.baseUrlPath") or "").strip("/")
        at = addresses.reached_at(host)
        _tell_token([f"{scheme}://{name}:{port}/{base}{'/' if base else ''}" for name in at])
    server = ["--server.port", str(port), "--server.address", host]
    # Else Streamlit asks a service outside for the address that it prints.
    server += ["--browser.serverAddress", addresses.reached_at(host)[0]]
    command = [sys.executable, "-m", "streamlit", "run", str(paths.ROOT / "app.py"), *server]
    os.execv(sys.executable, command)


def allowed_hosts(host: str) -> list[str]:
    """Names beside addresses by which a server that listens on a host may be asked for."""
    names = os.environ.get("SPELLTUNE_ALLOWED_HOSTS", "").split(",")
    if not addresses.is_loopback(host):
        names += [socket.gethostname(), *([] if addresses.is_address(host) else [host])]
    return [name.strip().lower() for name in names if name.strip()]


def first_secret(server: str) -> str | None:
    """A new token, if there is none yet that may change things; else None, and a note that the
    server asks for one."""
    known = tokens.listed()
    if any(token.role is Role.EDIT for token in known):
        names = ", ".join(token.name for token in known)
        note(f"{server} asks for a token ({names}); `spelltune token renew NAME` makes one anew")
        return None
    return tokens.make(token_commands.free_name(Role.EDIT), Role.EDIT)


def _tell_token(opened_at: list[str]) -> None:
    """Print how the panel is opened; make a token if there is none that may change things, and
    nobody else can come in."""
    if people.listed():
        from src.panel.access import identity

        note(f"people log in at {identity.find()}")
        if not tokens.listed():
            return
    secret = first_secret("the panel")
    if secret is None:
        return
    out.print("Open the panel at one of these addresses. The token is shown this once:\n")
    for address in opened_at:
        out.print(f"  {address}?token={secret}", highlight=False)
    out.print()
    note("`spelltune token new --read-only` makes a token whose holder changes nothing")
    sys.stdout.flush()
