"""The services by which people are told what happened, and the start of the process that does it.

A service is a URL with a secret: one of Apprise, such as tgram://TOKEN/CHAT, or webhook+https://...
It stands in SPELLTUNE_NOTIFY_URLS or in `notify.urls` of the home (0600), and nowhere else. What is
shown of it is its name.
"""

import ipaddress
import json
import logging
import os
import shutil
import socket
import stat
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.config import ConfigError, load_machine
from src.errors import UserError
from src.files import alone, read_text, write_atomic
from src.format import GIB, money
from src.runs import cost
from src.runs.environment import NOTIFY_URLS
from src.runs.locks import LocksUnavailable, holder
from src.runs.processes import end_hung
from src.runs.spawn import Worker, run, start_detached
from src.store.tables import NoticeKind

if TYPE_CHECKING:
    from apprise import NotifyBase

WEBHOOK = "webhook+"
TAKEN = (
    "a URL of Apprise, such as tgram://TOKEN/CHAT or mailto://USER:PASSWORD@HOST, or a webhook, "
    "such as webhook+https://HOST/PATH"
)
LOOKED_THROUGH = 200  # notices, for the last message of a service
LOW_DISK_BYTES = 2 * GIB
WELL_AGAIN = 1.5  # times as much, before another notice may follow


class BadService(UserError):
    """A service that cannot be used; its text has nothing of the URL."""


@dataclass(frozen=True)
class Service:
    """A service by which people are told."""

    number: int  # from 1, as people name it
    name: str  # such as Telegram, or `webhook to 127.0.0.1:8080`
    source: str  # environment or file
    url: str = field(repr=False)
    problem: str | None = None  # why it cannot be used

    @property
    def key(self) -> str:
        """Its name in notices."""
        return f"{self.number} {self.name}"

    @property
    def is_webhook(self) -> bool:
        return self.url.startswith(WEBHOOK)


def is_set() -> bool:
    """True if there may be a service, at the cost of one look at a file."""
    if os.environ.get(NOTIFY_URLS, "").strip():
        return True
    with suppress(OSError):
        return paths.notify_urls().stat().st_size > 0
    return False


def services() -> list[Service]:
    """The services that are set. BadService where others may read their secrets."""
    given = [("environment", url) for url in os.environ.get(NOTIFY_URLS, "").split()]
    given += [("file", url) for url in _lines()]
    found = []
    for number, (source, url) in enumerate(given, start=1):
        try:
            found.append(Service(number, name_of(url), source, url))
        except BadService as error:
            found.append(Service(number, "no service", source, url, str(error)))
    return found


def _lines() -> list[str]:
    file = paths.notify_urls()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        lines = [line.strip() for line in read_text(file, errors="replace").splitlines()]
    except FileNotFoundError:
        return []
    if mode & 0o077:
        raise BadService(f"others may read the secrets in {file}: `chmod 600 {file}`")
    return [line for line in lines if line and not line.startswith("#")]


def name_of(url: str) -> str:
    """The name of a service for people, without its secrets; BadService where nothing takes it."""
    if url.startswith(WEBHOOK):
        return _webhook_name(url)
    if (found := apprise_service(url)) is None:
        raise BadService(f"no service takes this URL: it is {TAKEN}")
    return str(found.service_name)


def _webhook_name(url: str) -> str:
    try:
        parts = urlsplit(url.removeprefix(WEBHOOK))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise BadService("a webhook is webhook+https://HOST/PATH or webhook+http://HOST/PATH")
    with suppress(ValueError):
        # Where machines of a cloud hand out their credentials.
        if ipaddress.ip_address(host).is_link_local:
            raise BadService(f"a webhook does not go to {host}, which is a link-local address")
    return f"webhook to {host}" + (f":{port}" if port else "")


def apprise_service(url: str) -> "NotifyBase | None":
    """Apprise's object for a URL; None if none of its services takes it."""
    import apprise

    logger = logging.getLogger("apprise")  # it says which URLs it could not read
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    asset = apprise.AppriseAsset(app_id="Spelltune", app_desc="Spelltune", http_redirects=False)
    made: Any = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    return made if isinstance(made, apprise.NotifyBase) else None


def add(url: str) -> Service:
    """Keep a service in the home; BadService if it cannot be used or is there already."""
    url = url.strip()
    if not url or len(url.split()) > 1:
        raise BadService(f"one URL is needed: {TAKEN}")
    name_of(url)
    with alone(paths.changes_lock()):
        if same := next((one for one in services() if one.url == url), None):
            raise BadService(f"this URL is set already: number {same.number}, {same.name}")
        _write([*_lines(), url])
        added = services()[-1]
    begin()
    return added


def remove(number: int) -> Service:
    """Forget a service of the home, by its number."""
    with alone(paths.changes_lock()):
        there = services()
        found = next((one for one in there if one.number == number), None)
        if found is None:
            known = f"there are {len(there)}" if there else "none is set"
            raise BadService(f"there is no service {number}: {known} (`spelltune notify`)")
        if found.source == "environment":
            raise BadService(f"number {number} comes from {NOTIFY_URLS}: take it out of there")
        _write([one.url for one in there if one.source == "file" and one is not found])
    if len(there) == 1:
        with store.writing() as session:
            store.end_telling(session, host())
    return found


def state() -> list[dict[str, Any]]:
    """The services by number, name, source and problem, and what became of their last message."""
    with store.reading() as session:
        recent = list(reversed(store.recent(session, after=0, limit=LOOKED_THROUGH)))
    found = []
    for one in services():
        last = next((notice for notice in recent if one.key in notice.told), None)
        seconds = None if last is None else max(0.0, time.time() - (last.told_at or last.at))
        found.append(
            {"number": one.number, "name": one.name, "source": one.source, "problem": one.problem,
             "last_seconds": seconds, "last_problem": last.told[one.key] if last else None}
        )  # fmt: skip
    return found


def send_test() -> list[dict[str, Any]]:
    """Send a test by each service, from a process of its own: {number, name, problem or None} of
    each. BadService without any."""
    if not services():
        raise BadService("no service is set: `spelltune notify add` sets one")
    done = run(Worker.NOTIFY, "", "--test")
    try:
        return list(json.loads(done.stdout))
    except ValueError:
        raise BadService("the process that sends did not say what came of it") from None


def _write(urls: list[str]) -> None:
    """Write the file of the home, never readable for others and never half of it."""
    file = paths.notify_urls()
    if not urls:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(file, "".join(f"{url}\n" for url in urls), mode=0o600)


def host() -> str | None:
    """The machine whose notices are told here: of a shared run table this one; None: any."""
    return socket.gethostname() if store.is_shared() else None


def begin() -> None:
    """Tell what happens from now on, if that has not begun."""
    with store.writing() as session:
        store.begin_telling(session, host())


def tell() -> None:
    """Start the process that tells people, if there is something to tell and a service that does.

    A problem with it is a warning: its callers have runs to look after.
    """
    if not is_set():
        return
    try:
        with store.reading() as session:
            begun = store.is_telling(session, host())
        if not begun:
            begin()
        _watch_disk()
        _watch_budget()
        with store.reading() as session:
            waiting = store.is_untold(session, host())
        if waiting and (holder(paths.notify_lock()) is None or end_hung(paths.notify_lock())):
            start_detached(Worker.NOTIFY)
    except (SQLAlchemyError, OSError, LocksUnavailable) as error:
        print(f"warning: nobody is told: {error}", file=sys.stderr, flush=True)


def _watch_disk() -> None:
    """Leave a notice once little space is left, and another one only after there was enough."""
    free = shutil.disk_usage(paths.home()).free
    if not LOW_DISK_BYTES <= free < WELL_AGAIN * LOW_DISK_BYTES:
        text = f"{free / GIB:.1f} GiB are left on the disk of {paths.home()}"
        _leave_once(NoticeKind.DISK, text if free < LOW_DISK_BYTES else None)


def _watch_budget() -> None:
    """Leave a notice once the budget is spent, and another one only after there was some again: a
    larger one, or a new start of the machine."""
    try:
        kept = load_machine()
    except ConfigError:
        return  # said where it is mended
    left, spent = cost.left(kept), cost.spent(kept)
    if kept.budget is None or spent is None or left is None:
        return
    text = (
        f"{money(spent, kept.currency)} of the budget of {money(kept.budget, kept.currency)} are "
        "spent since this machine was started; nothing is stopped"
    )
    _leave_once(NoticeKind.BUDGET, text if left <= 0 else None)


def _leave_once(kind: NoticeKind, text: str | None) -> None:
    """Leave a notice of a state that lasts, unless it was left; None: the state is over."""
    with store.reading() as session:
        lasts = store.last_of(session, kind) is not None
    if lasts == (text is not None):
        return
    with store.writing() as session:
        if text is None:
            store.forget(session, kind)
        elif store.last_of(session, kind) is None:
            store.leave(session, kind, None, text)
