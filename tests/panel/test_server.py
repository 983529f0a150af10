"""The panel's server: which hosts and origins it answers."""

import threading

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from src.panel import server
from src.panel.access.hosts import KnownHosts
from src.panel.server import routes
from src.runs.timeouts import Timeouts


@pytest.mark.parametrize(
    ("kind", "host", "origin", "answer"),
    [
        ("http", "127.0.0.1:8501", None, True),
        ("http", "localhost:8501", None, True),
        ("http", "192.168.1.4:8501", None, True),
        ("http", "evil.example", None, False),
        ("http", "panel.example", None, True),
        ("http", "x.studio.example", None, True),
        ("http", "studio.example.evil.com", None, False),
        ("http", "", None, False),
        ("http", "127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("http", "127.0.0.1:8501", "https://evil.example", False),
        ("http", "127.0.0.1:8501", "https://panel.example", True),
        ("websocket", "127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("websocket", "127.0.0.1:8501", "https://evil.example", False),
        ("websocket", "127.0.0.1:8501", "https://panel.example", True),
        ("websocket", "panel.example", "https://panel.example", True),
        ("websocket", "evil.example", "https://evil.example", False),
        ("websocket", "127.0.0.1:8501", "null", False),
        # Another port of this machine is another program.
        ("http", "127.0.0.1:8501", "http://127.0.0.1:3000", False),
        ("http", "127.0.0.1:8501", "http://localhost:3000", False),
        ("http", "localhost:8501", "http://localhost:3000", False),
        ("http", "localhost:8501", "http://localhost", False),
        ("http", "localhost:8501", "http://LOCALHOST.:3000", False),
        ("http", "localhost:8501", "http://[::1]:8501", False),
        ("http", "localhost:8501", "http://[", False),
        ("http", "localhost:8501", "", True),
        ("websocket", "127.0.0.1:8501", "http://127.0.0.1:3000", False),
        ("websocket", "127.0.0.1:8501", "http://localhost:3000", False),
        ("websocket", "localhost:8501", "http://localhost:8502", False),
        ("websocket", "localhost:8501", "http://localhost:8501", True),
        # Except where it is named with its port, as a proxy on this machine is.
        ("websocket", "127.0.0.1:8501", "http://localhost:8888", True),
        ("http", "127.0.0.1:8501", "http://localhost:8888", True),
    ],
)
def test_only_known_hosts_are_answered(kind, host, origin, answer):
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    names = ["panel.example", "*.studio.example", "localhost:8888"]
    reached, sent = asked(headers, kind, names)
    assert bool(reached) is answer
    if not answer:
        refused = {"http": 403, "websocket": 1008}[kind]
        assert refused in (sent[0].get("status"), sent[0].get("code"))


def asked(headers, kind="http", names=()):
    """What the layer lets through of a request, and what it answers itself."""
    import asyncio

    reached, sent = [], []

    async def inner(scope, receive, send):
        reached.append(dict(scope["headers"]))

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": kind, "headers": headers, "method": "GET", "path": "/"}
    asyncio.run(KnownHosts(inner, names=list(names))(scope, receive, send))
    return reached, sent


@pytest.mark.parametrize("twice", [b"host", b"origin"])
def test_a_header_that_is_sent_twice_names_no_known_host(twice):
    """A proxy may join them, and another reader take the other one."""
    own = {b"host": b"localhost:8501", b"origin": b"http://localhost:8501"}
    other = {b"host": b"evil.example", b"origin": b"https://evil.example"}[twice]
    for headers in ([(twice, other), *own.items()], [*own.items(), (twice, other)]):
        reached, sent = asked(headers)
        assert not reached and sent[0]["status"] == 403


@pytest.mark.parametrize("own", ["localhost:8501", "127.0.0.1:8501", "panel.example", "[::1]"])
def test_a_host_that_is_sent_twice_is_refused_without_an_origin_too(own):
    two = [(b"host", own.encode()), (b"host", b"evil.example")]
    for headers in (two, two[::-1], two[:1] * 2):
        reached, sent = asked(headers, names=["panel.example"])
        assert not reached and sent[0]["status"] == 403


def test_the_name_of_the_first_page_is_an_address_of_it():
    with TestClient(Starlette(routes=routes())) as browser:
        told = browser.get("/overview?find=status%3Afailed", follow_redirects=False)
    assert told.status_code == 307
    assert told.headers["location"] == "/?find=status%3Afailed"


def test_nothing_ends_the_thread_that_reconciles(monkeypatch: pytest.MonkeyPatch) -> None:
    closing, rounds = threading.Event(), []

    def reconcile() -> None:
        rounds.append(1)
        if len(rounds) == 2:
            closing.set()
        raise LookupError("of no kind that was foreseen")

    monkeypatch.setattr(server, "reconcile", reconcile)
    monkeypatch.setattr(server, "TIMEOUTS", Timeouts(reconcile=0))
    server._keep_reconciling(closing)
    assert len(rounds) == 2
