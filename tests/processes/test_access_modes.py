"""One suite of attacks on a real panel in each mode in which it can be opened."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import pytest

from src.access import Role
from src.panel.access import addresses, logins, tokens
from src.panel.ui.assets import CURVES, EXPORTS, PLOTLY_JS
from src.panel.ui.desktop import NOTICES
from src.panel.ui.idle import IN_FRONT, KEEP_ON
from src.panel.ui.navigation import PAGES
from tests.helpers.browser import serving
from tests.helpers.store import fill_run

Headers = list[tuple[str, str]]
ALL = {"STREAMLIT_SERVER_ADDRESS": "0.0.0.0"}
LOGIN = {"SPELLTUNE_LOGIN": "token"}
SOCKET = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
          ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]  # fmt: skip
MODES: dict[str, dict[str, str]] = {
    "loopback": {},
    "token on all addresses": LOGIN | ALL,
    "token below a base path": LOGIN | {"STREAMLIT_SERVER_BASE_URL_PATH": "spell"},
    "proxy": {"SPELLTUNE_PROXY": "nginx", "SPELLTUNE_ALLOWED_HOSTS": "spell.example.org"} | ALL,
    # As somebody starts Streamlit who knows nothing of the login.
    "neither token nor proxy on all addresses": ALL,
}


@dataclass
class Door:
    """A panel in one of its modes."""

    address: str
    mode: str
    run: str
    base: str = field(init=False)

    def __post_init__(self) -> None:
        path = MODES[self.mode].get("STREAMLIT_SERVER_BASE_URL_PATH")
        self.base = f"/{path}" if path else ""

    @property
    def asks(self) -> bool:
        return "SPELLTUNE_LOGIN" in MODES[self.mode]

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    @property
    def host(self) -> str:
        """As its readers write it into the address."""
        return "spell.example.org" if self.mode == "proxy" else f"127.0.0.1:{self.port}"

    def cookie(self, name: str = "owner") -> str:
        return f"spelltune-{self.port}={logins.begin(tokens.find(name))}"

    def reader(self) -> Headers:
        """What the browser of a right reader sends."""
        own = [("Host", self.host), ("Origin", f"http://{self.host}")]
        return own + ([("Cookie", self.cookie())] if self.asks else [])

    def status(
        self, method: str, path: str, headers: Headers, *, at: str = "127.0.0.1"
    ) -> tuple[int, str]:
        """Status and text of an answer; 101 where a WebSocket was opened."""
        connection = http.client.HTTPConnection(at, self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            text = "" if answer.status == 101 else answer.read().decode(errors="replace")
            return answer.status, text
        finally:
            connection.close()

    def routes(self) -> list[tuple[str, str, Headers]]:
        """All that can be asked for: pages, API, files, WebSocket; also by odd ways to write it."""
        asked = {"source": {"page": "monitor", "run": self.run}, "reach": {}, "shape": ""}
        curves = f"/{CURVES}?{urlencode({'asked': json.dumps(asked)})}"
        reads = ["/", *(f"/{page.stem}" for page in sorted(PAGES.glob("*.py")))]
        reads += ["/_stcore/health", "/_stcore/host-config", "/static/manifest.json", "/media/x"]
        reads += [f"/{PLOTLY_JS}", f"/{EXPORTS}/{self.run}/adapter", curves]
        reads += [f"/{NOTICES}", "/_stcore/agent/schema"]
        reads += ["/log-in", "/auth/login", "/oauth2callback?code=x&state=y"]
        found: list[tuple[str, str, Headers]] = [("GET", f"{self.base}{one}", []) for one in reads]
        odd = ["//{}", "/.{}", "/x/..{}", "/%2e%2e{}", "{}/", "{}%00", "/%2f{}", "http://x{}"]
        for path in ("/monitor", "/_stcore/health", curves):
            found += [("GET", one.format(f"{self.base}{path}"), []) for one in odd]
            found.append(("GET", path, []))  # without the base
        for method in ("POST", "PUT", "DELETE"):
            writes = [
                "/_stcore/upload_file/x/y",
                f"/{IN_FRONT}",
                f"/{KEEP_ON}",
                "/_stcore/agent/mcp",
            ]
            found += [(method, f"{self.base}{path}", [("Content-Length", "0")]) for path in writes]
        return [*found, ("GET", f"{self.base}/_stcore/stream", SOCKET)]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """A panel in each mode, all of one home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as panels:
        patch.setenv("SPELLTUNE_HOME", str(home))
        for name in ("DATABASE_URL", "LOGIN", "PROXY", "ALLOWED_HOSTS"):
            patch.delenv(f"SPELLTUNE_{name}", raising=False)
        run = fill_run(name="canary")
        for name, role in (("owner", Role.EDIT), ("former", Role.EDIT)):
            tokens.make(name, role)

        def opened(mode: str) -> Door:
            return Door(panels.enter_context(serving(home, **MODES[mode])), mode, run)

        with ThreadPoolExecutor(len(MODES)) as pool:
            yield dict(zip(MODES, pool.map(opened, MODES), strict=True))


def attacks(door: Door) -> dict[str, Headers]:
    """Requests that must come to nothing in this mode: {what is wrong with them: headers}."""
    host, rest = door.host, [pair for pair in door.reader() if pair[0] == "Cookie"]
    evil = "evil.example"
    found: dict[str, Headers] = {
        "another host": [("Host", evil), *rest],
        "a host that was rebound": [("Host", f"127.0.0.1.{evil}:{door.port}"), *rest],
        "no host": [("Host", ""), *rest],
        "two hosts": [("Host", host), ("Host", evil), *rest],
        "another site": [("Host", host), ("Origin", f"http://{evil}"), *rest],
        "no site": [("Host", host), ("Origin", "null"), *rest],
        "another port": [("Host", host), ("Origin", "http://127.0.0.1:1"), *rest],
        "two sites": [("Host", host), ("Origin", f"http://{host}"), ("Origin", f"http://{evil}"),
                      *rest],
    }  # fmt: skip
    if door.asks:
        own, cookie = [("Host", host)], door.cookie()
        name, _, secret = cookie.partition("=")
        former = door.cookie("former")
        tokens.renew("former")
        found |= {
            "a stranger": own,
            "a wrong cookie": [*own, ("Cookie", f"{name}={secret[:-1]}")],
            "the cookie of another port": [*own, ("Cookie", f"spelltune-1={secret}")],
            "a cookie of a token that was renewed": [*own, ("Cookie", former)],
            "the hash of a cookie": [*own, ("Cookie", f"{name}={logins.key_of(secret)}")],
            "the header of the login": [*own, ("X-Spelltune-Login", logins.key_of(secret))],
            "a cookie as another header": [*own, ("Authorization", f"Bearer {secret}")],
            "the word of a proxy": [
                *own, ("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-User", "owner"),
                ("Forwarded", "for=127.0.0.1"),
            ],
        }  # fmt: skip
    return found


@pytest.mark.parametrize("mode", MODES)
def test_an_attack_reaches_no_page_api_file_or_message(doors: dict[str, Door], mode: str) -> None:
    door = doors[mode]
    for what, headers in attacks(door).items():
        for method, path, more in door.routes():
            status, text = door.status(method, path, headers + more)
            # 400 of a WebSocket: its library refuses to open it.
            refused = (400, 401, 403) if more == SOCKET else (401, 403)
            assert status in refused, f"{what}: {method} {path} was answered {status}"
            assert "streamlit" not in text.lower() and "canary" not in text, f"{what}: {path}"


@pytest.mark.parametrize("mode", MODES)
def test_the_same_requests_of_a_right_reader_are_answered(
    doors: dict[str, Door], mode: str
) -> None:
    door = doors[mode]
    told = {
        path: door.status(method, path, door.reader() + more)
        for method, path, more in door.routes()
        if method == "GET"
    }
    base = door.base
    for path in (f"{base}/", f"{base}/monitor", f"{base}/_stcore/health", f"{base}/{PLOTLY_JS}"):
        assert told[path][0] == 200, path
    assert "streamlit" in told[f"{base}/"][1].lower()
    curves = min((path for path in told if path.startswith(f"{base}/{CURVES}?")), key=len)
    assert told[curves][0] == 200 and "canary" in told[curves][1]
    assert told[f"{base}/_stcore/stream"][0] == 101
    refused = [path for path, (status, _) in told.items() if status in (401, 403)]
    assert not refused, refused


def test_without_token_or_proxy_nobody_is_answered_from_outside(doors: dict[str, Door]) -> None:
    """Whatever it asks for, and by whatever name."""
    (outside, *_) = addresses.reached_at("0.0.0.0")
    if addresses.is_loopback(outside):
        pytest.skip("this machine has no address but loopback")
    door = doors["neither token nor proxy on all addresses"]
    for host in (f"{outside}:{door.port}", f"127.0.0.1:{door.port}", "localhost"):
        for method, path, more in door.routes():
            headers = [("Host", host), ("Origin", f"http://{host}"), *more]
            status, text = door.status(method, path, headers, at=outside)
            assert status == 403, f"{host}: {method} {path} was answered {status}"
            assert "canary" not in text
    asking = doors["token on all addresses"]
    own = [("Host", f"{outside}:{asking.port}")]
    assert asking.status("GET", "/", own, at=outside)[0] == 401
    assert asking.status("GET", "/", [*own, ("Cookie", asking.cookie())], at=outside)[0] == 200
