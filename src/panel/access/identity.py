"""Logins at an identity provider (OpenID Connect), by Streamlit's own routes and secrets.toml.

Streamlit sends the browser to the provider and checks what comes back, with Authlib. The cookie
that it would set stays here: whoever is listed gets a login of ours, which can be ended.
"""

import json
from http.cookies import CookieError, SimpleCookie
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope
from streamlit.auth_util import (
    encode_provider_token,
    get_cookie_with_chunks,
    get_secrets_auth_section,
)
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

START, LOGIN, CALLBACK = "log-in", "auth/login", "oauth2callback"
UNVERIFIED = "The provider has not verified that your e-mail address is yours."
FAILED = "The provider did not log you in. Try again."


def provider() -> str | None:
    """Host of the provider that secrets.toml names; None without one, or without Authlib."""
    address = get_secrets_auth_section().get("server_metadata_url")
    return urlsplit(str(address)).netloc if address and find_spec("authlib") else None


def start_address() -> str:
    """Address, relative to the page `log-in`, that leads to the provider; good for two minutes."""
    return f"./{LOGIN}?provider={encode_provider_token('default')}"


async def returned(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[str | None, str]:
    """The verified e-mail address of a browser that comes back from the provider, and a sentence
    where there is none. Nothing that Streamlit answers passes on."""
    headers: list[tuple[bytes, bytes]] = []

    async def hold(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers.extend(message["headers"])

    await app(scope, receive, hold)
    claims = _claims(headers)
    if not claims:
        return None, FAILED
    address = claims.get("email")
    # Where the provider says nothing of it, anybody may have typed the address there.
    if not isinstance(address, str) or claims.get("email_verified") not in (True, "true"):
        return None, UNVERIFIED
    return address, ""


def _claims(headers: list[tuple[bytes, bytes]]) -> dict[str, Any] | None:
    """The claims in the cookies that Streamlit would set; None where it let nobody in."""
    cookies: SimpleCookie = SimpleCookie()
    for name, value in headers:
        if name.lower() == b"set-cookie":
            try:
                cookies.load(value.decode("latin-1"))
            except CookieError:
                continue

    def decoded(name: str) -> bytes | None:
        found = cookies.get(name)
        return decode_signed_value(get_cookie_secret(), name, found.value) if found else None

    try:
        claims = json.loads(get_cookie_with_chunks(decoded, USER_COOKIE_NAME) or b"null")
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
