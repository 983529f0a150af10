"""The panel's server around Streamlit: answers known hosts only, on loopback or after a login,
serves plotly.js, and keeps statuses up to date."""

import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

import streamlit as st
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from src.panel.access import guard
from src.panel.access.addresses import is_loopback
from src.panel.access.hosts import KnownHosts, close_websocket
from src.panel.access.login import Login
from src.panel.downloads import exported
from src.panel.live_curves import live_curves
from src.panel.ui.assets import CURVES, EXPORTS, PLOTLY_JS
from src.panel.ui.desktop import NOTICES, notices
from src.panel.ui.idle import IN_FRONT, KEEP_ON, in_front, keep_on
from src.runs import idle
from src.runs.reconciler import reconcile
from src.runs.standby import Keeper
from src.runs.timeouts import TIMEOUTS

standby_keeper = Keeper()


def middleware() -> list[Middleware]:
    """The layers in front of the pages; with a login, this process guards its home from then on."""
    if os.environ.get("SPELLTUNE_LOGIN"):
        guard.install()
    return layers()


def layers() -> list[Middleware]:
    """Known hosts alone, and a login with SPELLTUNE_LOGIN, else loopback or a proxy alone."""
    extra = os.environ.get("SPELLTUNE_ALLOWED_HOSTS", "")
    names = [name.strip().lower() for name in extra.split(",") if name.strip()]
    known = Middleware(KnownHosts, names=names)
    if os.environ.get("SPELLTUNE_LOGIN"):
        return [known, Middleware(Login, base_path=base_path())]
    return [Middleware(LoopbackOnly, proxy=os.environ.get("SPELLTUNE_PROXY")), known]


@asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """Reconcile statuses and fill slots, in a thread, while the panel runs."""
    os.umask(0o077)  # files of runs are for their owner alone
    closing = threading.Event()
    threading.Thread(
        target=_keep_reconciling, args=(closing,), name="reconciler", daemon=True
    ).start()
    yield
    closing.set()


def _keep_reconciling(closing: threading.Event) -> None:
    import src.panel.ui.charts  # noqa: F401 (so that the first visitor need not wait for plotly)

    while True:
        try:
            reconcile()
            standby_keeper.round()
            idle.keep_watching()
        except (SQLAlchemyError, OSError) as error:
            print(f"warning: could not bring statuses up to date: {error}", file=sys.stderr)
        except Exception:  # a fault of ours; without this thread nothing would start any more
            traceback.print_exc()
        if closing.wait(TIMEOUTS.reconcile):
            return


def routes() -> list[BaseRoute]:
    base = base_path()
    return [
        Route(f"{base}/overview", overview),
        Route(f"{base}/{PLOTLY_JS}", plotly_js),
        Route(f"{base}/{EXPORTS}/{{run}}/{{what}}", exported),
        Route(f"{base}/{CURVES}", live_curves, middleware=[Middleware(GZipMiddleware)]),
        Route(f"{base}/{NOTICES}", notices),
        Route(f"{base}/{IN_FRONT}", in_front, methods=["POST"]),
        Route(f"{base}/{KEEP_ON}", keep_on, methods=["POST"]),
    ]


def overview(request: Request) -> RedirectResponse:
    """The first page, to who types its name as an address."""
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{base_path()}/{query}")


def base_path() -> str:
    """The first part of all addresses of the panel (`server.baseUrlPath`), such as "/spell"."""
    path = (st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{path}" if path else ""


def plotly_js(_request: Request) -> FileResponse:
    # The address holds the version, so browsers may cache it without limit.
    return FileResponse(
        str(files("plotly") / "package_data" / "plotly.min.js"),
        media_type="text/javascript",
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


class LoopbackOnly:
    """Refuses requests that do not come over the loopback interface, where there is no login.

    Behind a `proxy` that authenticates readers, any interface is allowed.
    """

    def __init__(self, app: ASGIApp, proxy: str | None):
        self.app, self.proxy = app, proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = (scope.get("server") or ("", None))[0]
        if self.proxy or scope["type"] == "lifespan" or is_loopback(server):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await close_websocket(receive, send)
        response: Response = PlainTextResponse(
            f"The panel listens on {server}, where anybody may come, and was started without a "
            "login. Start it by `spelltune panel --host`, which asks for a token, or name the "
            "proxy that authenticates its readers in SPELLTUNE_PROXY.\n",
            status_code=403,
        )
        return await response(scope, receive, send)
