"""Browsers that are logged in: each has a random cookie, of which the home keeps the hash."""

import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from src import paths
from src.access import Role
from src.files import read_text
from src.panel.access import people, tokens
from src.panel.access.tokens import Token

DAYS = 30  # from the login to its end


def begin(token: Token) -> str:
    """Log a browser in by a token; returns its cookie."""
    return _begin({"token": token.name, "token_sha256": token.sha256})


def begin_for(address: str) -> str:
    """Log the browser of a person in, known by a verified e-mail address; returns its cookie."""
    return _begin({"address": address})


def _begin(owner: dict[str, str]) -> str:
    for file in _folder().glob("*.json"):
        if _read(file.stem) is None:
            file.unlink(missing_ok=True)
    cookie = secrets.token_urlsafe(32)
    login = owner | {"until": time.time() + DAYS * 24 * 3600}
    tokens.write_private(_file(key_of(cookie)), json.dumps(login))
    return cookie


def key_of(cookie: str) -> str:
    """The name under which the home knows the browser with this cookie."""
    return tokens.digest(cookie)


def role_of(key: str) -> Role | None:
    """The role of a login now; None once it has ended, its token was renewed or revoked, or its
    person is listed no more."""
    login = _read(key)
    if login is None:
        return None
    if "address" in login:
        return people.role_of(str(login["address"]))
    token = tokens.get(str(login.get("token")))
    return token.role if token and token.sha256 == login.get("token_sha256") else None


def end(key: str) -> None:
    """Log a browser out."""
    with suppress(OSError):
        _file(key).unlink(missing_ok=True)


def _read(key: str) -> dict[str, Any] | None:
    try:
        login = json.loads(read_text(_file(key)))
        return login if float(login["until"]) > time.time() else None
    except (OSError, ValueError, KeyError, TypeError):  # ended, or damaged
        return None


def _file(key: str) -> Path:
    return _folder() / f"{key}.json"


def _folder() -> Path:
    return paths.access_dir() / "logins"
