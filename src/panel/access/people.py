"""People who may log in at an identity provider, as `access/allowed.yaml` lists them."""

from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import yaml

from src import paths
from src.access import Role
from src.errors import UserError, explain_os_error
from src.files import read_text


class PeopleError(UserError):
    """The list cannot be used."""


def file() -> Path:
    return paths.access_dir() / "allowed.yaml"


def listed() -> dict[str, Role]:
    """{address or pattern such as *@lab.org: what it may do}; PeopleError for a list that is none.

    Empty without the file.
    """
    try:
        if file().stat().st_mode & 0o022:
            raise PeopleError(f"others may add people to {file()}: `chmod 600 {file()}`")
        return _read(read_text(file()))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PeopleError(explain_os_error(error)) from error
    except UnicodeError as error:
        raise PeopleError(f"{file()} is no text: {error}") from error


@lru_cache(maxsize=1)  # it is asked for at each request, and by each open page once a second
def _read(text: str) -> dict[str, Role]:
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PeopleError(f"{file()} is no YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(given, dict) or not all(
        isinstance(name, str) and "@" in name and may in list(Role) for name, may in given.items()
    ):
        raise PeopleError(
            f"{file()} lists addresses and what they may do, as in `ann@lab.org: edit` and "
            f'`"*@lab.org": read`'
        )
    return {name.strip().lower(): Role(may) for name, may in given.items()}


def role_of(address: str) -> Role | None:
    """The role of the person of an e-mail address; None for one who is not listed.

    An address by itself counts more than a pattern, and of patterns the first one.
    """
    try:
        known = listed()
    except PeopleError:
        return None
    address = address.lower()
    if address in known:
        return known[address]
    return next((may for name, may in known.items() if fnmatchcase(address, name)), None)
