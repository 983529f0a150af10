"""A service that people are told by, as a local HTTP server: it takes, hangs or redirects."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Receiver"], int | str]


@dataclass
class Receiver:
    """What came, and what is answered: a status, or an address to which it redirects."""

    answer: Answer
    port: int = 0
    asked: int = 0
    taken: list[dict[str, Any]] = field(default_factory=list)  # that were answered with 200
    hanging: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


def takes(_: Receiver) -> int:
    return 200


def hangs(receiver: Receiver) -> int:
    """Answers when the test is over."""
    receiver.hanging.set()
    receiver.closed.wait(120)
    return 500


def fails_first(receiver: Receiver) -> int:
    return 500 if receiver.asked == 1 else 200


@contextmanager
def receiving(answer: Answer) -> Iterator[Receiver]:
    """A server on a free port of this machine that answers so."""
    receiver = Receiver(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.asked += 1
            code = receiver.answer(receiver)
            if code == 200:
                receiver.taken.append(json.loads(body))
            try:
                self.send_response(307 if isinstance(code, str) else code)
                if isinstance(code, str):
                    self.send_header("Location", code)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                pass  # whoever asked has gone

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.closed.set()
        server.shutdown()
        server.server_close()
