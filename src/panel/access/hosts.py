"""The hosts under which a server of ours is asked: others are pages of other sites, or attacks."""

import ipaddress
import re
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from src.panel.access.addresses import is_loopback


class KnownHosts:
    """Refuses requests for other host names than localhost and `names`, and those from pages of
    other sites: also of another port of this machine, which is another program.

    Streamlit's own `server.allowedHosts` guards WebSockets alone and asks a service outside for
    this machine's address when a proxy has rewritten the Host header.
    """

    def __init__(self, app: ASGIApp, names: list[str]):
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        # Of one that is sent twice another reader may take the other: joined it is no known name.
        host, origin = (_joined(scope, name) for name in ("host", "origin"))
        host, refusal = host or "", None
        if not self.known(host):
            refusal = host
        elif origin is not None and _netloc(origin) != host.lower():
            # A page of another site must not talk to the panel. Behind a proxy that rewrote Host,
            # the Origin still names the host that the reader opened.
            if self.opened_through_proxy(origin):
                scope = dict(scope, headers=[h for h in scope["headers"] if h[0] != b"origin"])
            else:
                refusal = origin
        if refusal is None:
            return await self.app(scope, receive, send)
        text = (
            f"This server does not answer to {refusal!r}. Add the host name to "
            "SPELLTUNE_ALLOWED_HOSTS (comma-separated) and start it again.\n"
        )
        if scope["type"] == "websocket":
            return await close_websocket(receive, send)
        response: Response = PlainTextResponse(text, status_code=403)
        return await response(scope, receive, send)

    def known(self, host: str) -> bool:
        """A literal address cannot be rebound by a foreign name server, so it needs no list."""
        if "," in host:  # sent twice
            return False
        name = _name(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or self.named(host)
        return True

    def named(self, host: str) -> bool:
        """True if the host is one of `names`, with its port where that has one."""
        told = {_name(host), host.lower()}
        return any(fnmatchcase(one, name) for one in told for name in self.names)

    def opened_through_proxy(self, origin: str) -> bool:
        """True if readers open the panel there; on this machine it is named with its port."""
        netloc, name = _netloc(origin), _name(_netloc(origin))
        if name == "localhost" or is_loopback(name):
            port = "" if re.search(r":\d+$", netloc) else ":443" if origin[:5] == "https" else ":80"
            return netloc + port in self.names
        return self.named(netloc)


def _joined(scope: Scope, name: str) -> str | None:
    """The values of a header, with commas between; None where it is not sent."""
    values = Headers(scope=scope).getlist(name)
    return ", ".join(values) if values else None


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # a bracket without its other half
        return ""


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


async def close_websocket(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket that asks to be opened."""
    await receive()  # websocket.connect; closing before accepting answers 403
    await send({"type": "websocket.close", "code": 1008})
