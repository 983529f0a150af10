"""Tokens that open the panel. A home keeps the hash of each, never the token itself."""

import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from src import paths
from src.access import Role
from src.errors import UserError, did_you_mean
from src.files import read_text, write_atomic

MAX_LENGTH = 200  # characters of a token that is looked at
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class TokenError(UserError):
    """A token cannot be made, or there is none of that name."""


@dataclass(frozen=True)
class Token:
    name: str
    role: Role
    sha256: str
    created_at: float


def make(name: str, role: Role) -> str:
    """Keep a new token under a free name and return it: nobody can read it again."""
    if not NAME.fullmatch(name):
        raise TokenError(f"a token's name has up to 40 of a-z, 0-9 and -; got {name!r}")
    if _file(name).exists():
        raise TokenError(
            f"there is a token {name!r} already; take another name, or let "
            f"`spelltune token renew {name}` make it anew"
        )
    return _write(name, role)


def renew(name: str) -> str:
    """Put a new token in the place of one, whose logins end; return it."""
    return _write(name, find(name).role)


def revoke(name: str) -> None:
    """Delete a token. Whoever came in by it is out."""
    find(name)
    _file(name).unlink(missing_ok=True)


def find(name: str) -> Token:
    """The token of that name, or TokenError."""
    if NAME.fullmatch(name) and (found := _read(_file(name))):
        return found
    hint = did_you_mean(name, [token.name for token in listed()])
    raise TokenError(f"there is no token {name!r}{hint}")


def get(name: str) -> Token | None:
    """The token of that name, if there is one."""
    return _read(_file(name)) if NAME.fullmatch(name) else None


def listed() -> list[Token]:
    """All tokens, oldest first."""
    found = [_read(file) for file in _folder().glob("*.json")]
    return sorted((t for t in found if t), key=lambda token: (token.created_at, token.name))


def match(secret: str) -> Token | None:
    """The token that this is. Takes equally long for a wrong one, however much of it is right."""
    given = digest(secret[: MAX_LENGTH + 1])
    right = [token for token in listed() if hmac.compare_digest(token.sha256, given)]
    return right[0] if right else None


def digest(secret: str) -> str:
    """The hash that is kept of a secret. It has 256 random bits, so a slow hash would add
    nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(name: str, role: Role) -> str:
    secret = secrets.token_urlsafe(32)
    token = Token(name, role, digest(secret), time.time())
    write_private(_file(name), json.dumps(asdict(token)))
    return secret


def write_private(file: Path, text: str) -> None:
    """Write a file that its owner alone can read."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(file, text + "\n", mode=0o600)


def _read(file: Path) -> Token | None:
    try:
        values = json.loads(read_text(file))
        return Token(
            file.stem, Role(values["role"]), str(values["sha256"]), float(values["created_at"])
        )
    except (OSError, ValueError, KeyError, TypeError):  # gone meanwhile, or damaged: opens nothing
        return None


def _file(name: str) -> Path:
    return _folder() / f"{name}.json"


def _folder() -> Path:
    return paths.access_dir() / "tokens"
