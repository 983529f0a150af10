"""The panel behind a reverse proxy on another name, in a real browser."""

import contextlib
import shutil
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from tests.helpers.browser import (
    FLAGS,
    reading,
    serving,
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
    import threading

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
