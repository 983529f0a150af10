"""The tools over HTTP, for who brings a token of the panel."""

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from src.access import Role
from src.mcp.caller import Caller
from src.mcp.server import CALLER, SpelltuneServer
from src.panel.access import tokens
from src.panel.access.hosts import KnownHosts, close_websocket
from src.panel.access.limits import WrongTokens

PATH = "/mcp"
CLOSING_SECONDS = 3  # for calls that are under way at the end

NO_TOKEN = (
    "send a token of this home as `Authorization: Bearer TOKEN`; `spelltune token new` makes one"
)
WRONG = "this token is wrong, or was renewed or revoked"
LOCKED = "too many wrong tokens; try again in {} s"


def app(names: list[str], most: Role = Role.EDIT) -> ASGIApp:
    """The server as an ASGI app, for this machine's own addresses and the host `names`; no token
    may do more than `most`."""
    # KnownHosts looks at Host and Origin, by the names that the panel knows too.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    # Each request stands for itself, so none can go on with the rights of another one's token.
    served = SpelltuneServer().streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, transport_security=security
    )
    return KnownHosts(TokenOnly(served, most), names=names)


def serve(host: str, port: int, names: list[str], most: Role = Role.EDIT) -> None:
    """Serve until the process is asked to end."""
    uvicorn.run(
        app(names, most),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


class TokenOnly:
    """Lets a request through that brings a token, and notes whose it is."""

    def __init__(self, app: ASGIApp, most: Role) -> None:
        self.app, self.most = app, most
        self.wrong = WrongTokens()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await close_websocket(receive, send)
        found = self._asked_by(scope)
        if isinstance(found, Response):
            return await found(scope, receive, send)
        return await self.app({**scope, CALLER: found}, receive, send)

    def _asked_by(self, scope: Scope) -> Caller | Response:
        """The client that sent a request, or the answer to one that may not."""
        secret = _bearer(scope)
        if not secret:
            return _refusal(401, NO_TOKEN)
        client = (scope.get("client") or ("", 0))[0]
        if wait := self.wrong.wait(client):
            return _refusal(429, LOCKED.format(wait), {"Retry-After": str(wait)})
        token = tokens.match(secret)
        if token is None:
            self.wrong.note(client)
            return _refusal(401, WRONG)
        role = token.role if self.most is Role.EDIT else Role.READ
        return Caller(role, is_remote=True)


def _bearer(scope: Scope) -> str:
    """The token of a request; empty without one, or with more than one."""
    given = Headers(scope=scope).getlist("authorization")
    kind, _, secret = (given[0] if len(given) == 1 else "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else ""


def _refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    own = {"Cache-Control": "no-store"} | (headers or {})
    if status == 401:
        own["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": sentence}, status_code=status, headers=own)
