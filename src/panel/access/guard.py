"""Keeps the threads of a reader who may change nothing from rows, files and processes.

Two places decide for all pages: `store.writing` asks `access.check`, and an audit hook of Python
asks the same before a file of the home is written or a process is started. So a button that nobody
thought of is refused too.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

from src import access, paths
from src.access import Role
from src.panel.access import logins

READ_ONLY = "this link is read-only: it shows everything and changes nothing"
ENDED = "this login has ended; load the page again"

# .streamlit/config.toml has Streamlit keep what this header of a WebSocket says, under USER_KEY.
# The login (login.py) writes it and drops it from what browsers send.
HEADER = b"x-spelltune-login"
USER_KEY = "login"

P = ParamSpec("P")
T = TypeVar("T")

_working_for: ContextVar[str | None] = ContextVar("login for which a thread works", default=None)

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_STARTS = {"subprocess.Popen", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "os.exec"}
_CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename",
    "os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime", "shutil.move",
    "shutil.rmtree",
}  # fmt: skip
_LOOKED_AT = {"open", "os.kill", "os.killpg"} | _STARTS | _CHANGES


def install() -> None:
    """Guard this process from now on; there is no way back."""
    access.set_rule(refusal)
    sys.addaudithook(_audit)


def login_key() -> str | None:
    """The login for which this thread works; None for the panel's own threads, and where nobody
    has to log in. Empty where it is not known."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return _working_for.get()
    return str(context.user_info.get(USER_KEY) or "")


def refusal() -> str | None:
    """Why this thread may change nothing, or None. The login is looked up each time, so one that
    ends changes nothing any more, also in a page that is being drawn."""
    key = login_key()
    if key is None:
        return None
    role = logins.role_of(key) if key else None
    return None if role is Role.EDIT else READ_ONLY if role is Role.READ else ENDED


def work_for(key: str) -> None:
    """Have this task of the server, and the threads that it hands work to, work for a login."""
    _working_for.set(key)


class Pool(ThreadPoolExecutor):
    """Threads that work for the login of whoever handed the work in."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        key = login_key()

        def work() -> T:
            before = _working_for.set(key)
            try:
                return fn(*args, **kwargs)
            finally:
                _working_for.reset(before)

        return super().submit(work)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """ReadOnlyAccess before Python does what this thread may not; of files those of the home, as
    libraries need temporary ones to show something."""
    if event not in _LOOKED_AT or login_key() is None:
        return
    if event == "open":
        path, _, flags = arguments
        if not flags & _WRITES or not _is_in_home(path):
            return
    elif event in ("os.kill", "os.killpg"):
        if arguments[1] == 0:  # only asks whether it lives
            return
    elif event in _CHANGES and not any(_is_in_home(a) for a in arguments[: _paths_of(event)]):
        return
    access.check()


def _paths_of(event: str) -> int:
    return 2 if event in ("os.link", "os.rename", "os.symlink", "shutil.move") else 1


def _is_in_home(path: object) -> bool:
    """False for a descriptor: whoever opened it was asked."""
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    # A name that counts from an open folder is taken for one of the home.
    name = os.fsdecode(path)
    home = str(paths.home())
    if not os.path.isabs(name):
        return True
    real = os.path.realpath(name)
    return real == home or real.startswith(home + os.sep)
