"""The panel behind a reverse proxy on another name, and far away, in a real browser."""

import contextlib
import queue
import re
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.helpers.browser import (
    FLAGS,
    reading,
    serving,
    still,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


def test_behind_a_proxy_on_another_name(browser, module_home, ended):
    """As a hosting service opens it: another host name, which the proxy rewrites or keeps."""
    with serving(module_home, SPELLTUNE_ALLOWED_HOSTS="panel.test") as address:
        port = int(address.rpartition(":")[2])
        for keep_host in (True, False):
            with proxying(port, keep_host) as outside:
                chromium = browser.browser_type.launch(
                    executable_path=shutil.which("chromium"),
                    args=[*FLAGS, "--host-resolver-rules=MAP *.test 127.0.0.1"],
                )
                with reading(chromium) as page:
                    page.goto(f"http://panel.test:{outside}/errors?run={ended}")
                    page.get_by_role("cell", name="rythm", exact=True).wait_for()
                with reading(chromium) as page:
                    refused = page.goto(f"http://127.0.0.1:{outside}/", wait_until="commit")
                    assert refused.status == 200
                chromium.close()
        for headers in ({"Host": "evil.test"}, {"Origin": "http://evil.test"}):
            request = urllib.request.Request(address, headers=headers)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request)


@contextlib.contextmanager
def proxying(port: int, keep_host: bool) -> Iterator[int]:
    """A reverse proxy, WebSockets included: it copies bytes and may rewrite the Host header."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                target.sendall(block)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        inner = socket.create_connection(("127.0.0.1", port))
        head = b""
        while b"\r\n\r\n" not in head:
            block = client.recv(65536)
            if not block:
                return
            head += block
        lines, _, body = head.partition(b"\r\n\r\n")
        kept = [h for h in lines.split(b"\r\n") if keep_host or not h.lower().startswith(b"host:")]
        if not keep_host:
            kept.insert(1, b"Host: 127.0.0.1:%d" % port)
        if not any(h.lower().startswith(b"upgrade:") for h in kept):
            kept = [h for h in kept if not h.lower().startswith(b"connection:")]
            kept.append(b"Connection: close")  # one request a connection: only heads are rewritten
        inner.sendall(b"\r\n".join(kept) + b"\r\n\r\n" + body)
        threading.Thread(target=pump, args=(client, inner), daemon=True).start()
        pump(inner, client)
        client.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_edits_faster_than_the_network_are_all_kept(browser, panel):
    """The browser sends an edit before it has heard what the one before did to the address."""
    with delaying(int(panel.rpartition(":")[2]), 0.5) as port, reading(browser) as page:
        page.goto(f"http://127.0.0.1:{port}/launch?preset=tiny-spell")
        page.get_by_text("tokens per row").wait_for()  # the data are read
        still(page)
        edits = {"Steps": "training.max_steps", "Rank": "lora.r", "Batch size": ""}
        edits["Batch size"] = "training.per_device_train_batch_size"
        for number, title in enumerate(edits, 3):
            page.get_by_role("spinbutton", name=re.compile(f"^{title}")).fill(str(number))
            page.keyboard.press("Tab")
        expected = {name: [str(number)] for number, name in enumerate(edits.values(), 3)}

        def address() -> dict[str, list[str]]:
            return parse_qs(urlsplit(page.evaluate("location.href")).query)

        wait_for(lambda: expected.items() <= address().items(), "all edits in the address", 60)
        page.get_by_text("was 600").wait_for()
        still(page)
        shown = {
            name: [page.get_by_role("spinbutton", name=re.compile(f"^{title}")).input_value()]
            for title, name in edits.items()
        }
        assert shown == expected
        assert expected.items() <= address().items()


@contextlib.contextmanager
def delaying(port: int, seconds: float) -> Iterator[int]:
    """A network between a browser and a panel in which each byte takes `seconds`, either way."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def deliver() -> None:
            with contextlib.suppress(OSError):
                while True:
                    due, block = under_way.get()
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not block:
                        target.shutdown(socket.SHUT_WR)
                        return
                    target.sendall(block)

        threading.Thread(target=deliver, daemon=True).start()
        block = b"first"
        while block:
            try:
                block = source.recv(65536)
            except OSError:
                block = b""
            under_way.put((time.monotonic() + seconds, block))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                inner = socket.create_connection(("127.0.0.1", port))
                for pair in ((client, inner), (inner, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()
