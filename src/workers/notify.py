"""Tells people what happened: `python -m src.workers.notify`, or sends a test with `--test`.

Each service that is set gets the notices of the run table, those that come within seconds in one
message. One that does not take it is tried again a few times; the others do not wait for it. A
service has told a notice when the table says so: who dies between an answer and that line leaves
the notice to the next process, which tells it again. No torch.
"""

import json
import os
import queue
import re
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from src import paths, store
from src.errors import UserError
from src.runs import notifications
from src.runs.environment import ignore_output_errors, leave
from src.runs.locks import FileLock
from src.runs.notifications import WEBHOOK, Service
from src.runs.timeouts import TIMEOUTS
from src.store.tables import Notice
from src.sweeps import messages
from src.sweeps.messages import Message

TRIES = 4
MAX_WAITS = 4  # times `gather`, after which a message is sent though notices still come
NICENESS = 10  # a training needs the processor more


@dataclass(frozen=True)
class Told:
    """All that a service is told at once: a webhook a document, any other a message."""

    message: Message
    document: dict[str, Any] | None = None


def main() -> None:
    parser = ArgumentParser(prog="python -m src.workers.notify")
    parser.add_argument("--test", action="store_true", help="send a test; say what came of it")
    test = parser.parse_args().test
    os.umask(0o077)
    # A proxy of this machine's environment knows no other loopback than its own.
    own = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    os.environ["NO_PROXY"] = ",".join(filter(None, [own, "localhost,127.0.0.1,::1"]))
    if test:
        print(json.dumps(send_test()), flush=True)
        leave(0)
    ignore_output_errors()
    os.nice(NICENESS)
    lock = FileLock(paths.notify_lock())
    while lock.acquire():
        tell_all()
        lock.release()
        # What was left since the last look, by a process that saw the lock taken.
        with store.reading() as session:
            if not store.is_untold(session, notifications.host()):
                break
    leave(0)


def send_test() -> list[dict[str, Any]]:
    """Send a test to each service at once: {number, name, problem or None} of each."""
    document = {
        "event": messages.TEST.kind, "id": None, "at": time.time(), "title": messages.TEST.title,
        "text": messages.TEST.body, "run": None, "sweep": None,
    }  # fmt: skip
    sending = [Sending(service) for service in notifications.services()]
    for one in sending:
        one.start(Told(messages.TEST, document), [])
    return [
        {"number": one.service.number, "name": one.service.name, "problem": one.result()}
        for one in sending
    ]


# --- all that is to be told -----------------------------------------------------------------------


@dataclass
class Sending:
    """How far a service has got."""

    service: Service
    told: Told | None = None  # what it is being told, and of which notices
    ids: Sequence[int] = ()
    tries: int = 0
    again_at: float = 0.0  # monotonic
    began_at: float = 0.0
    thread: threading.Thread | None = None
    answers: "queue.SimpleQueue[str | None]" = field(default_factory=queue.SimpleQueue)

    def start(self, told: Told | None, ids: Sequence[int]) -> None:
        """Send in a thread: no library keeps a time limit on everything that a network does."""
        self.told, self.ids = told, ids
        self.tries += 1
        self.began_at = time.monotonic()
        self.answers = queue.SimpleQueue()
        self.thread = threading.Thread(
            target=lambda answers: answers.put(deliver(self.service, told)),
            args=(self.answers,), name=self.service.name, daemon=True,
        )  # fmt: skip
        self.thread.start()

    def is_over(self) -> bool:
        assert self.thread is not None
        late = time.monotonic() - self.began_at > TIMEOUTS.notify
        return late or not self.thread.is_alive()

    def result(self) -> str | None:
        """The problem, None if there was none; waits for it as long as it may take."""
        try:
            left = self.began_at + TIMEOUTS.notify - time.monotonic()
            return self.answers.get(timeout=max(0.01, left))
        except queue.Empty:
            return f"no answer within {TIMEOUTS.notify:g} s"


def tell_all() -> None:
    """Tell each service what it has not told, until nothing is left."""
    with store.writing() as session:
        store.forget_old(session)
    try:
        sending = [Sending(service) for service in notifications.services()]
    except UserError as error:
        return _give_up(str(error))
    if not sending:
        return _give_up("no service is set")
    begun: set[int] = set()
    while _round(sending, begun):
        if (busy := next((one.thread for one in sending if one.thread), None)) is not None:
            busy.join(TIMEOUTS.poll)
        else:
            time.sleep(TIMEOUTS.poll)


def _give_up(problem: str) -> None:
    """Note why nothing can be told."""
    with store.writing() as session:
        ids = _ids(store.untold(session, notifications.host()))
        store.mark_told(session, ids, {"": problem}, last=[])


def _round(sending: Sequence[Sending], begun: set[int]) -> bool:
    """Go on with each service; False once there is nothing left to tell."""
    for one in sending:
        if one.thread is not None and one.is_over():
            _end_try(one, [s.service.key for s in sending])
    with store.reading() as session:
        waiting = store.untold(session, notifications.host())
    if new := set(_ids(waiting)) - begun:
        # First: what cannot be noted as told must not be told by one process after the other.
        with store.writing() as session:
            store.count_process(session, sorted(new))
        begun |= new
    for one in sending:
        own = [n for n in waiting if one.service.key not in n.told]
        if one.thread is not None or not own or time.monotonic() < one.again_at:
            continue
        if one.ids:  # again
            one.start(one.told, one.ids)
        elif one.service.is_webhook:  # a program need not be spared messages
            one.start(_compose(own[:1], document=True), _ids(own[:1]))
        elif _is_gathered(own):
            one.start(_compose(own), _ids(own))
    return bool(waiting) or any(one.thread is not None for one in sending)


def _ids(notices: Sequence[Notice]) -> list[int]:
    return [notice.id for notice in notices if notice.id is not None]


def _end_try(one: Sending, keys: Sequence[str]) -> None:
    """Note what came of a message that was sent, or have it tried again."""
    problem, one.thread = one.result(), None
    if problem is not None and one.tries < TRIES and one.service.problem is None:
        one.again_at = time.monotonic() + TIMEOUTS.notify_again * 4 ** (one.tries - 1)
        return
    store.write_with_retry(
        lambda session: store.mark_told(session, one.ids, {one.service.key: problem}, last=keys),
        seconds=TIMEOUTS.start,
    )
    one.told, one.ids = None, ()
    # A service that took nothing for so long gets one try for each further message.
    one.tries = 0 if problem is None else TRIES - 1


def _is_gathered(waiting: Sequence[Notice]) -> bool:
    """True once no other notice has come for a while, or the first one has waited long enough."""
    now = time.time()
    quiet = now - waiting[-1].at
    # A clock that was set must not hold back anything.
    return not 0 <= quiet < TIMEOUTS.gather or now - waiting[0].at >= MAX_WAITS * TIMEOUTS.gather


def _compose(waiting: Sequence[Notice], *, document: bool = False) -> Told | None:
    """All that a service is told of these notices; None where there is nothing to tell."""
    told, documents = [], []
    for notice in waiting:
        with store.reading() as session:
            # Of any run or sweep that is there: one that cannot be read is told in fewer words.
            try:
                if (found := messages.message(session, notice)) is None:
                    continue
                if document:
                    documents.append(messages.document(session, notice, found))
            except Exception as error:
                print(f"warning: {error!r}", file=sys.stderr)
                found = messages.plain(notice)
                documents.append({"event": found.kind, "id": notice.id, "text": found.body})
        told.append(found)
    return Told(messages.together(told), next(iter(documents), None)) if told else None


# --- one message to one service -------------------------------------------------------------------


def deliver(service: Service, told: Told | None) -> str | None:
    """Send to a service; what went wrong, in words that have nothing of its URL, or None."""
    if told is None or service.problem is not None:
        return service.problem
    try:
        if service.is_webhook:
            return _post(service.url.removeprefix(WEBHOOK), told.document)
        return _notify(service, told.message)
    # Of any library; its text may have the URL in it.
    except Exception as error:
        return f"it could not be sent ({type(error).__name__})"


def _post(url: str, document: dict[str, Any] | None) -> str | None:
    """POST a document to a webhook; what went wrong, or None."""
    import requests

    try:
        with requests.post(
            url,
            data=store.to_json(document).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "Spelltune"},
            timeout=TIMEOUTS.notify / 2,
            allow_redirects=False,  # the person named this address and no other
            stream=True,  # what it says is not read
        ) as answer:
            if 300 <= answer.status_code < 400:
                return f"it answered {answer.status_code}, and a redirect is not followed"
            return None if answer.ok else f"it answered {answer.status_code}"
    except requests.exceptions.SSLError:
        return "its certificate cannot be verified"
    except requests.Timeout:
        return f"no answer within {TIMEOUTS.notify / 2:g} s"
    except requests.ConnectionError:
        return "no connection to it"


def _notify(service: Service, message: Message) -> str | None:
    """Send a message through Apprise; what went wrong, or None."""
    import logging

    target = notifications.apprise_service(service.url)
    if target is None:
        return "no service takes its URL"
    target.socket_connect_timeout = target.socket_read_timeout = TIMEOUTS.notify / 2
    said: list[str] = []
    logger = logging.getLogger("apprise")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        taken = target.notify(body=message.body, title=message.title, body_format="text")
    finally:
        logger.removeHandler(handler)
    if taken:
        return None
    # The rest of what it says may have the URL in it.
    code = next((found[1] for text in said if (found := re.search(r"\berror=(\d+)\b", text))), None)
    if code is None and any("onnection error" in text for text in said):
        return "no connection to it, or no answer"
    return f"it answered {code}" if code else "it did not take the message"


if __name__ == "__main__":
    main()
