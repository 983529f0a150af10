"""The login in front of the panel: no request without one reaches a page, a file or a WebSocket."""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.access import Role
from src.errors import explain_os_error
from src.panel.access import guard, identity, logins, people, tokens
from src.panel.access.hosts import close_websocket
from src.panel.access.limits import WrongTokens
from src.panel.access.page import WATCH, log_out_page, login_page

LOG_OUT = "log-out"  # address of the page that logs a browser out
POLL_SECONDS = 1.0  # between two looks whether the login of an open WebSocket has ended
MAX_FORM_BYTES = 4096
READS = ("GET", "HEAD")
WRONG = "This is no token of this panel, or it was renewed or revoked."
LOCKED = "Too many wrong tokens were sent. Try again in {} s."
CANNOT_KEEP = "The panel cannot keep the login: {}"
REFUSED = "This link is read-only: it shows everything and changes nothing.\n"
UNLISTED = "{} may not open this panel."
LOG_IN = "Log in first: open the panel in a browser, with its token.\n"
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "same-origin"}


class Login:
    """Asks each browser for a token once, and knows it by a cookie from then on.

    `base_path` is what all addresses begin with.
    """

    def __init__(self, app: ASGIApp, base_path: str = "") -> None:
        self.app, self.base_path = app, base_path
        self.wrong = WrongTokens()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        key, role = _login_of(scope)
        told = [h for h in scope["headers"] if h[0] != guard.HEADER]
        if scope["type"] == "websocket":
            if role is None:
                return await close_websocket(receive, send)
            scope = dict(scope, headers=[*told, (guard.HEADER, key.encode())])
            return await self.app(scope, *_while_logged_in(key, receive, send))
        if (answer := await self._answer(scope, receive, key, role)) is not None:
            return await answer(scope, receive, send)
        guard.work_for(key)
        if scope["method"] == "GET" and self._page(scope) is not None:
            # Whole and as it is, so that the script can be added.
            told = [h for h in told if h[0] not in _PARTLY]
            send = _with_script(send)
        return await self.app(dict(scope, headers=told), receive, send)

    async def _answer(
        self, scope: Scope, receive: Receive, key: str, role: Role | None
    ) -> Response | None:
        """What the login answers itself; None for a request that the panel may answer."""
        page, method = self._page(scope), scope["method"]
        if page in (identity.START, identity.CALLBACK) and method == "GET" and identity.provider():
            if page == identity.CALLBACK:
                return await self._enter_person(scope, receive, key if role else None)
            leaves = await identity.leave(self.app, scope, receive, self.base_path)
            return leaves or _ask(scope, identity.SILENT, status=503)
        if page == LOG_OUT and role is not None:
            if method != "POST":
                return HTMLResponse(log_out_page(), headers=PRIVATE)
            logins.end(key)
            return self._redirect(scope, "./", cookie="")
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if page is not None and method in READS and (given := dict(query).get("token")):
            # The address must not stand in the log of the server.
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            scope["query_string"] = rest.encode()
            return self._enter(scope, given, key if role else None)
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0]
        if page is not None and method == "POST" and kind == _FORM:
            form = parse_qs((await _body(receive)).decode("latin-1"))
            given = form.get("token", [""])[0].strip()
            # Whoever pastes the whole address means its token.
            given = parse_qs(given.partition("?")[2]).get("token", [given])[0]
            return self._enter(scope, given, key if role else None)
        if role is None:
            return _ask(scope)
        if role is Role.READ and method not in READS:
            return PlainTextResponse(REFUSED, status_code=403)
        return None

    def _enter(self, scope: Scope, given: str, old: str | None) -> Response:
        """Log a browser in by what it sent as a token, in the place of its `old` login."""
        client = (scope.get("client") or ("", 0))[0]
        if wait := self.wrong.wait(client):
            answer = _ask(scope, LOCKED.format(wait), status=429)
            answer.headers["Retry-After"] = str(wait)
            return answer
        token = tokens.match(given)
        if token is None:
            self.wrong.note(client)
            return _ask(scope, WRONG)
        try:
            cookie = logins.begin(token)
        except OSError as error:
            return _ask(scope, CANNOT_KEEP.format(explain_os_error(error)), status=503)
        if old:
            logins.end(old)
        # Relative, as a proxy may have put something in front of the path.
        page = scope.get("raw_path", scope["path"].encode()).decode("latin-1").rpartition("/")[2]
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        return self._redirect(scope, f"./{page}" + (f"?{rest}" if rest else ""), cookie=cookie)

    async def _enter_person(self, scope: Scope, receive: Receive, old: str | None) -> Response:
        """Log a browser in that comes back from the identity provider, if its person is listed."""
        address, problem, headers = await identity.returned(self.app, scope, receive)
        if not people.role_of(address):
            return _ask(scope, problem or UNLISTED.format(address), status=403)
        try:
            cookie = logins.begin_for(address)
        except OSError as error:
            return _ask(scope, CANNOT_KEEP.format(explain_os_error(error)), status=503)
        if old:
            logins.end(old)
        return identity.with_cookie_of_try(self._redirect(scope, "./", cookie=cookie), headers)

    def _redirect(self, scope: Scope, address: str, *, cookie: str) -> Response:
        answer = RedirectResponse(address, status_code=303, headers=PRIVATE)
        # Without a path of its own it is for the folder that the browser sees, which only a proxy
        # knows that puts something in front.
        answer.set_cookie(
            _cookie_name(scope),
            cookie,
            max_age=logins.DAYS * 24 * 3600 if cookie else 0,
            path=self.base_path or None,
            secure=scope["scheme"] == "https",  # uvicorn asks a proxy on this machine too
            httponly=True,
            samesite="lax",
        )
        return answer

    def _page(self, scope: Scope) -> str | None:
        """The page that an address names, "" for the first one; None for anything below it."""
        path = scope["path"].removeprefix(self.base_path).removeprefix("/")
        return None if "/" in path else path


_PARTLY = (b"accept-encoding", b"range", b"if-none-match", b"if-modified-since", b"if-range")
_FORM = "application/x-www-form-urlencoded"


def _ask(scope: Scope, problem: str = "", *, status: int = 401) -> Response:
    """The page that asks for a token; a sentence for a program."""
    accepts = ",".join(Headers(scope=scope).getlist("accept"))
    wants_page = scope["method"] == "POST" or "text/html" in accepts
    if wants_page and scope["method"] != "HEAD":
        return HTMLResponse(
            login_page(problem, provider=identity.provider()), status_code=status, headers=PRIVATE
        )
    return PlainTextResponse(problem or LOG_IN, status_code=status, headers=PRIVATE)


def _login_of(scope: Scope) -> tuple[str, Role | None]:
    """The login of the browser that asks, and what it allows."""
    for cookie in _cookies(scope, _cookie_name(scope)):
        key = logins.key_of(cookie)
        if (role := logins.role_of(key)) is not None:
            return key, role
    return "", None


def _cookie_name(scope: Scope) -> str:
    """By the port, as a browser gives the cookies of a host to all of its ports."""
    port = (scope.get("server") or ("", None))[1]
    return f"spelltune-{port or 'socket'}"


def _cookies(scope: Scope, name: str) -> Iterator[str]:
    """All values of a cookie: a browser may have one for each path."""
    for value in Headers(scope=scope).getlist("cookie"):
        for part in value.split(";"):
            found, _, text = part.strip().partition("=")
            if found == name and len(text) <= tokens.MAX_LENGTH:
                yield text


async def _body(receive: Receive) -> bytes:
    """The body of a request, cut where it is longer than any form of ours."""
    body = b""
    while len(body) <= MAX_FORM_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    return body[:MAX_FORM_BYTES]


def _with_script(send: Send) -> Send:
    """The way of an answer, at the end of whose HTML stands the script that waits for the end of
    the login. It comes with the page: what the page loads afterwards may be refused already."""
    is_html = False

    async def send_with(message: Message) -> None:
        nonlocal is_html
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            is_html = headers.get("content-type", "").startswith("text/html")
            if is_html and "content-length" in headers:
                headers["content-length"] = str(int(headers["content-length"]) + len(WATCH))
        elif is_html and not message.get("more_body"):
            message = dict(message, body=message.get("body", b"") + WATCH)
        await send(message)

    return send_with


def _while_logged_in(key: str, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """The two ways of a WebSocket, which closes when its login ends: no message passes then."""
    closed = False
    next_message: asyncio.Future[Any] | None = None

    async def receive_while() -> Message:
        nonlocal closed, next_message
        next_message = next_message or asyncio.ensure_future(receive())
        while True:
            await asyncio.wait([next_message], timeout=POLL_SECONDS)
            if logins.role_of(key) is None:
                next_message.cancel()
                closed = True
                await send({"type": "websocket.close", "code": 1008})
                return {"type": "websocket.disconnect", "code": 1008}
            if next_message.done():
                message: Message = next_message.result()
                next_message = None
                return message

    async def send_while(message: Message) -> None:
        if closed:
            raise OSError("the login has ended")  # as a server says that the browser has gone
        await send(message)

    return receive_while, send_while
