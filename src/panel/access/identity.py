"""Logins at an identity provider (OpenID Connect), by Streamlit's own routes and secrets.toml.

Streamlit sends the browser to the provider and checks what comes back, with Authlib. The login
asks it in the name of the browser, which never reaches those routes itself, and passes on no cookie
of its but that of a try: whoever is listed gets a login of ours, which can be ended.
"""

import json
import stat
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope
from streamlit import config
from streamlit.auth_util import (
    encode_provider_token,
    get_cookie_with_chunks,
    get_secrets_auth_section,
    validate_auth_credentials,
)
from streamlit.errors import StreamlitAuthError
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import (
    SESSION_COOKIE_NAME,
    USER_COOKIE_NAME,
)

from src.errors import UserError, explain_os_error

START, CALLBACK = "log-in", "oauth2callback"
UNVERIFIED = "The provider has not verified that your e-mail address is yours."
FAILED = "The provider did not log you in. Try again."
SILENT = "The identity provider does not answer as it should. Try again later."


class NoProvider(UserError):
    """Nobody can log in at an identity provider."""


def find() -> str:
    """Host of the provider that secrets.toml names; NoProvider where it cannot be used."""
    if not find_spec("authlib"):
        raise NoProvider("a login at an identity provider needs Authlib: `pip install Authlib`")
    for file in map(Path, config.get_option("secrets.files")):
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise NoProvider(f"others may read the secrets in {file}: `chmod 600 {file}`")
    try:
        validate_auth_credentials("default")
        address = str(get_secrets_auth_section()["server_metadata_url"])
    except StreamlitAuthError as error:
        raise NoProvider(" ".join(str(error).split())) from error
    except (KeyError, AttributeError, TypeError) as error:
        raise NoProvider("secrets.toml names no provider under [auth]") from error
    except OSError as error:
        raise NoProvider(explain_os_error(error)) from error
    return urlsplit(address).netloc


def provider() -> str | None:
    """Host of the provider, if people can log in at one."""
    with suppress(NoProvider):
        return find()
    return None


async def leave(app: ASGIApp, scope: Scope, receive: Receive, base_path: str) -> Response | None:
    """What sends a browser to the provider; None where that does not answer."""
    path = f"{base_path}/auth/login"
    query = urlencode({"provider": encode_provider_token("default")})
    asked = dict(scope, path=path, raw_path=path.encode(), query_string=query.encode())
    status, headers = await _asked(app, asked, receive)
    if not 300 <= status < 400:
        return None
    return with_cookie_of_try(Response(None, 303, {"location": headers["location"]}), headers)


async def returned(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[str, str, Headers]:
    """The verified e-mail address of a browser that comes back from the provider, a sentence where
    there is none, and the headers that Streamlit would answer with."""
    _, headers = await _asked(app, scope, receive)
    claims = _claims(headers)
    if not claims:
        return "", FAILED, headers
    address = claims.get("email")
    # Where the provider says nothing of it, anybody may have typed the address there.
    if not isinstance(address, str) or claims.get("email_verified") not in (True, "true"):
        return "", UNVERIFIED, headers
    return address, "", headers


def with_cookie_of_try(answer: Response, headers: Headers) -> Response:
    """An answer with Streamlit's cookie that binds the try to the browser, and none but that."""
    for value in headers.getlist("set-cookie"):
        if value.startswith(f"{SESSION_COOKIE_NAME}="):
            answer.headers.append("set-cookie", value)
    return answer


async def _asked(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[int, Headers]:
    """Status and headers of what the app answers, of which nothing passes on."""
    start: Message = {"status": 500, "headers": []}

    async def hold(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)

    await app(scope, receive, hold)
    return start["status"], Headers(raw=start["headers"])


def _claims(headers: Headers) -> dict[str, Any] | None:
    """The claims in the cookies that Streamlit would set; None where it let nobody in."""
    cookies: SimpleCookie = SimpleCookie()
    for value in headers.getlist("set-cookie"):
        with suppress(CookieError):
            cookies.load(value)

    def decoded(name: str) -> bytes | None:
        found = cookies.get(name)
        return decode_signed_value(get_cookie_secret(), name, found.value) if found else None

    try:
        claims = json.loads(get_cookie_with_chunks(decoded, USER_COOKIE_NAME) or b"null")
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
