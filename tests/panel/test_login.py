"""The layers in front of the pages of the panel, in each of its modes, around an app of answers."""

import contextlib
import hmac
import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from streamlit import config
from streamlit.runtime.secrets import secrets_singleton

from src.access import Role
from src.panel import server
from src.panel.access import identity, login, logins, people, tokens
from src.panel.access.guard import HEADER
from src.panel.access.limits import MAX_BY_CLIENT
from src.panel.access.page import WATCH
from tests.helpers.identity_provider import set_up

PAGES = [
    "/", "/errors", "/_stcore/health", "/_stcore/host-config", "/_stcore/metrics", "/media/a.png",
    "/_stcore/upload_file/s/f", "/static/js/index.js", "/assets/plotly-7.1.0.min.js",
    "/component/x/index.html", "/_stcore/bidi-components/x", "/_stcore/agent/mcp", "/log-out",
    "//errors", "/%2e%2e/errors", "/errors/", "/auth/login", "/oauth2callback",
    "/auth/logout", "/log-in",
]  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
SOCKET = "ws://127.0.0.1:8501/_stcore/stream"
Opened = Callable[..., TestClient]


@pytest.fixture
def opened(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens a client of a panel: `mode` is open, proxy, login, or people, who log in at a provider
    as well; `token` is the name of one."""

    def answer(asked: Request) -> Response:
        told = asked.headers.get(HEADER.decode(), "nobody")
        return PlainTextResponse(f"{asked.method} {asked.url.query} {told}")

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.headers.get(HEADER.decode(), "nobody"))
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_text(await socket.receive_text())

    def made(
        mode: str = "login", token: str = "", *, scheme: str = "http", **environment: str
    ) -> TestClient:
        known = {"proxy": {"SPELLTUNE_PROXY": "nginx"}}
        if mode in ("login", "people"):
            known[mode] = {"SPELLTUNE_LOGIN": "token"}
        if mode == "people":
            request.getfixturevalue("provider")
        for name in ("SPELLTUNE_LOGIN", "SPELLTUNE_PROXY", "SPELLTUNE_ALLOWED_HOSTS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (known.get(mode, {}) | environment).items():
            monkeypatch.setenv(name, value)
        app = Starlette(
            routes=[
                WebSocketRoute("/_stcore/stream", stream),
                Route("/{path:path}", answer, methods=[*METHODS]),
            ],
            middleware=server.layers(),
        )
        browser = TestClient(
            app, f"{scheme}://127.0.0.1:8501", client=("10.0.0.9", 5), follow_redirects=False
        )
        if token:
            if tokens.get(token) is None:
                tokens.make(token, Role.READ if token == "reader" else Role.EDIT)
            browser.cookies.set("spelltune-8501", logins.begin(tokens.find(token)))
        return browser

    return made


# --- nothing without a token ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["login", "people"])
@pytest.mark.parametrize("cookie", ["", "x", "'", "x" * 5000, "../tokens/owner", "\x00"])
def test_nothing_is_answered_without_a_login(opened: Opened, cookie: str, mode: str) -> None:
    tokens.make("owner", Role.EDIT)
    browser = opened(mode)
    # The app of this test is no provider and sends nobody to one.
    own = {"GET /log-in": 503, "GET /oauth2callback": 403} if mode == "people" else {}
    headers = {"Cookie": f"spelltune-8501={cookie}; spelltune-8502=y"}
    for page in PAGES:
        for method in METHODS:
            answer = browser.request(method, f"http://127.0.0.1:8501{page}", headers=headers)
            assert answer.status_code == own.get(f"{method} {page}", 401), f"{method} {page}"
            assert "nobody" not in answer.text and "set-cookie" not in answer.headers
    for page in ("/_stcore/stream", "/_stcore/stream/", "//_stcore/stream", "/x"):
        address = f"ws://127.0.0.1:8501{page}"
        with (
            pytest.raises(WebSocketDisconnect),
            browser.websocket_connect(address, headers=headers),
        ):
            pass


@pytest.mark.parametrize(
    ("mode", "token"),
    [("open", ""), ("proxy", ""), ("login", "owner"), ("login", "reader"), ("people", "owner")],
)
def test_each_mode_answers_known_hosts_and_its_own_pages_alone(
    opened: Opened, mode: str, token: str
) -> None:
    browser = opened(mode, token, SPELLTUNE_ALLOWED_HOSTS="panel.example")
    refused: list[dict[str, str]] = [
        {"Host": "evil.example"}, {"Host": ""}, {"Host": "panel.example.evil.com"},
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:3000"},
        {"Host": "evil.example", "Origin": "https://evil.example"},
    ]  # fmt: skip
    for headers in refused:
        answer = browser.get("/errors", headers=headers)
        assert answer.status_code == 403 and "does not answer" in answer.text, headers
        with (
            pytest.raises(WebSocketDisconnect),
            browser.websocket_connect(SOCKET, headers=headers),
        ):
            pass
    for headers in ({}, {"Host": "panel.example"}, {"Origin": "https://panel.example"}):
        assert browser.get("/errors", headers=headers).status_code == 200, headers
        with browser.websocket_connect(SOCKET, headers=headers) as socket:
            told = socket.receive_text()
            assert (told == "nobody") is not bool(token)


def test_the_login_is_told_to_the_pages_and_never_taken_from_a_browser(opened: Opened) -> None:
    owner = logins.begin(tokens.find(_made("owner", Role.EDIT)))
    browser = opened(token="reader")
    forged = {HEADER.decode(): logins.key_of(owner)}
    assert browser.get("/errors", headers=forged).text.endswith("nobody")
    with browser.websocket_connect(SOCKET, headers=forged) as socket:
        assert socket.receive_text() == logins.key_of(browser.cookies["spelltune-8501"])


def _made(name: str, role: Role) -> str:
    tokens.make(name, role)
    return name


# --- in and out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "then"),
    [
        ("/?token={}", "./"),
        ("/errors?run=a%26b&token={}&find=%C3%A9", "./errors?run=a%26b&find=%C3%A9"),
        ("/errors?token={}&token=", None),
        ("//evil.example?token={}", None),
        ("/javascript:x?token={}", "./javascript:x"),
        ("/media/x?token={}", None),
        ("/log-out?token={}", "./log-out"),
    ],
)
def test_a_link_with_a_token_gives_a_cookie_and_leaves_the_address(
    opened: Opened, asked: str, then: str | None
) -> None:
    secret = tokens.make("owner", Role.EDIT)
    browser = opened()
    answer = browser.get("http://127.0.0.1:8501" + asked.format(secret))
    if then is None:
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        return
    assert (answer.status_code, answer.headers["location"]) == (303, then)
    assert secret not in str(answer.headers) and answer.headers["cache-control"] == "no-store"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("spelltune-8501=") and cookie.endswith("; SameSite=lax")
    assert "; HttpOnly" in cookie and "Secure" not in cookie and "Path" not in cookie
    assert browser.get("/errors").status_code == 200


def test_the_cookie_is_secure_behind_https_and_of_the_base_path(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tokens.make("owner", Role.EDIT)
    monkeypatch.setattr(server.st, "get_option", lambda name: "deep/base")
    browser = opened(scheme="https")
    for path in ("/deep/base/", "/deep/base/errors", "/deep/base"):
        cookie = browser.get(f"{path}?token={secret}").headers["set-cookie"]
        assert "; Path=/deep/base;" in cookie and cookie.endswith("; Secure")


def test_the_form_takes_a_token_or_the_whole_address(opened: Opened) -> None:
    secret = tokens.make("owner", Role.EDIT)
    page = opened().get("/errors?run=x", headers={"Accept": "text/html"})
    assert page.status_code == 401 and 'name="token"' in page.text
    # Whole in itself: it asks for nothing else, which the panel would refuse.
    assert not re.findall(r"""(?:src|href)=|url\(|@import|<script""", page.text)
    for given in (secret, f"  {secret}\n", f"http://gpu:8501/?token={secret}&x=1"):
        answer = opened().post("/errors?run=x&token=old", data={"token": given})
        assert answer.status_code == 303, given
        assert answer.headers["location"] == "./errors?run=x"
    wrong = opened().post("/errors", data={"token": "<b>"})
    assert wrong.status_code == 401 and html.escape(login.WRONG) in wrong.text
    assert "<b>" not in wrong.text
    for data in ({}, {"token": ""}, {"token": "x" * 10**6}, {"token": "\0\ud7ff"}):
        assert opened().post("/errors", data=data).status_code == 401


def test_a_token_is_no_cookie_and_a_cookie_no_token(opened: Opened) -> None:
    secret = tokens.make("owner", Role.EDIT)
    cookie = logins.begin(tokens.find("owner"))
    browser = opened()
    assert browser.get("/", headers={"Cookie": f"spelltune-8501={secret}"}).status_code == 401
    assert browser.get(f"/?token={cookie}").status_code == 401
    key = logins.key_of(cookie)  # as it lies on the disk
    assert browser.get("/", headers={"Cookie": f"spelltune-8501={key}"}).status_code == 401
    assert browser.get("/", headers={"Cookie": f"spelltune-8502={cookie}"}).status_code == 401
    both = f"spelltune-8501=old; spelltune-8501={cookie}"
    assert browser.get("/", headers={"Cookie": both}).status_code == 200


def test_wrong_tokens_lock_their_sender_out_with_the_time_to_wait(opened: Opened) -> None:
    secret = tokens.make("owner", Role.EDIT)
    within = opened(token="owner")
    app = within.app
    for _ in range(MAX_BY_CLIENT):
        assert within.get("/?token=wrong").status_code == 401
    for answer in (within.get(f"/?token={secret}"), within.post("/", data={"token": secret})):
        assert answer.status_code == 429 and 50 < int(answer.headers["retry-after"]) <= 60
        assert "Too many wrong tokens were sent. Try again in " in answer.text
    # Whoever is in stays in, and others come in.
    assert within.get("/").status_code == 200
    other = TestClient(app, "http://127.0.0.1:8501", client=("10.0.0.8", 5), follow_redirects=False)
    assert other.get(f"/?token={secret}").status_code == 303


def test_a_log_out_ends_the_login_and_its_open_pages(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "POLL_SECONDS", 0.05)
    browser = opened(token="owner")
    cookie = browser.cookies["spelltune-8501"]
    other = logins.begin(tokens.find("owner"))
    # Another site's link only asks.
    assert "Log this browser out" in browser.get("/log-out").text
    assert browser.get("/").status_code == 200
    with browser.websocket_connect(SOCKET) as socket:
        socket.receive_text()
        socket.send_text("a")
        assert socket.receive_text() == "a"
        answer = browser.post("/log-out")
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        assert 'spelltune-8501=""' in answer.headers["set-cookie"]
        assert "Max-Age=0" in answer.headers["set-cookie"]
        # No message passes any more, whatever comes first.
        socket.send_text("b")
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    headers = {"Cookie": f"spelltune-8501={cookie}"}
    assert browser.get("/", headers=headers).status_code == 401
    assert logins.role_of(logins.key_of(other)) is Role.EDIT


@pytest.mark.parametrize("end", [tokens.revoke, tokens.renew])
def test_a_revoked_token_closes_open_pages_at_once(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, end: Callable[[str], Any]
) -> None:
    monkeypatch.setattr(login, "POLL_SECONDS", 0.05)
    browser = opened(token="owner")
    with browser.websocket_connect(SOCKET) as socket:
        socket.receive_text()
        end("owner")
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()  # nothing was sent: it is looked at beside
    assert browser.get("/").status_code == 401


def test_a_new_login_takes_the_place_of_the_old_one(opened: Opened, home: Path) -> None:
    browser = opened(token="reader")
    secret = tokens.make("owner", Role.EDIT)
    assert browser.get(f"/?token={secret}").status_code == 303
    assert len([*(home / "access/logins").iterdir()]) == 1


def test_a_disk_that_takes_no_login_is_told(
    opened: Opened, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tokens.make("owner", Role.EDIT)
    (home / "access/logins").write_text("a file in the place of the folder")
    answer = opened().get(f"/?token={secret}", headers={"Accept": "text/html"})
    assert answer.status_code == 503 and "The panel cannot keep the login" in answer.text


# --- people who log in at a provider --------------------------------------------------------------


@pytest.fixture
def provider(home: Path) -> Iterator[Path]:
    """A provider that does not answer, and people who are listed; gives the file of its secrets."""
    pytest.importorskip("authlib")
    set_up(home, "http://127.0.0.1:9")
    file, before = home / ".streamlit" / "secrets.toml", config.get_option("secrets.files")
    secrets_singleton._reset()
    config.set_option("secrets.files", [str(file)])
    yield file
    config.set_option("secrets.files", before)
    secrets_singleton._reset()


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("", 0o600, 'missing the "redirect_uri" key|configure credentials'),
        ("[auth", 0o600, "configure credentials"),
        ("auth = 3", 0o600, "names no provider under|credentials"),
        ('[auth]\nredirect_uri = "x"\ncookie_secret = "y"', 0o600, "missing the following keys"),
        (None, 0o640, "others may read the secrets in .*: `chmod 600 "),
        (None, 0o604, "others may read the secrets in .*: `chmod 600 "),
    ],
)
def test_a_provider_that_cannot_be_used_is_a_sentence_and_no_way_in(
    provider: Path, opened: Opened, text: str | None, mode: int, why: str
) -> None:
    assert identity.find() == "127.0.0.1:9"
    secrets_singleton._reset()
    if text is not None:
        provider.write_text(text)
    provider.chmod(mode)
    with pytest.raises(identity.NoProvider, match=why) as told:
        identity.find()
    assert "\n" not in str(told.value) and "of the test" not in str(told.value)
    browser = opened("login")
    for page in ("/log-in", "/oauth2callback?code=a&state=b"):
        assert browser.get(page).status_code == 401


def test_without_authlib_nobody_logs_in_at_a_provider(
    provider: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "find_spec", lambda name: None)
    with pytest.raises(identity.NoProvider, match="needs Authlib: `pip install Authlib`"):
        identity.find()
    assert identity.provider() is None


def test_a_person_is_in_while_he_is_listed(
    opened: Opened, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "POLL_SECONDS", 0.05)
    browser = opened("people")
    browser.cookies.set("spelltune-8501", logins.begin_for("Ann@lab.org"))
    assert browser.put("/_stcore/upload_file/s/f").status_code == 200
    with browser.websocket_connect(SOCKET) as socket:
        socket.receive_text()
        people.file().write_text("ann@lab.org: read")
        assert browser.put("/_stcore/upload_file/s/f").status_code == 403
        people.file().write_text("ann@lab.org: owner")  # nobody is let in by what cannot be read
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    assert browser.get("/").status_code == 401


def test_each_page_of_who_is_in_waits_for_the_end_of_the_login(opened: Opened) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = {"Content-Type": scope["path"][1:].replace("-", "/"), "Content-Length": "4"}
        await Response("ab !", headers=headers)(scope, receive, send)

    tokens.make("owner", Role.EDIT)
    browser = TestClient(login.Login(app), "http://127.0.0.1:8501")
    browser.cookies.set("spelltune-8501", logins.begin(tokens.find("owner")))
    page = browser.get("/text-html")
    assert page.text == "ab !" + WATCH.decode() and "location.reload()" in page.text
    assert int(page.headers["content-length"]) == len(page.content)
    assert browser.get("/text-plain").text == "ab !"
    assert browser.get("/static/text-html").text == "ab !"
    assert browser.head("/text-html").headers["content-length"] == "4"


# --- a reader who may change nothing --------------------------------------------------------------


def test_a_reader_may_only_ask_to_see(opened: Opened) -> None:
    browser = opened(token="reader")
    for page in set(PAGES) - {"/log-out"}:
        for method in METHODS:
            answer = browser.request(method, f"http://127.0.0.1:8501{page}")
            allowed = method in ("GET", "HEAD")
            if page == "/log-out":
                continue
            assert answer.status_code == (200 if allowed else 403), f"{method} {page}"
            assert allowed or answer.text == login.REFUSED
    owner = opened(token="owner")
    assert owner.put("/_stcore/upload_file/s/f", content=b"x").status_code == 200


def test_the_token_does_not_reach_the_log_of_the_server(opened: Opened) -> None:
    secret = tokens.make("owner", Role.EDIT)
    seen: list[Any] = []
    layers = opened().app

    async def server_with_a_log(scope: Any, receive: Any, send: Any) -> None:
        await layers(scope, receive, send)  # type: ignore[operator]
        seen.append(dict(scope))

    TestClient(server_with_a_log, "http://127.0.0.1:8501").get(f"/errors?run=x&token={secret}")
    told = [s["query_string"] for s in seen if s["type"] == "http"]
    assert told[0] == b"run=x" and secret not in str(told)


def test_a_token_is_compared_by_what_does_not_stop_at_a_wrong_letter(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tokens.make("owner", Role.EDIT)
    tokens.make("reader", Role.READ)
    compared: list[tuple[str, str]] = []

    real = hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(tokens.hmac, "compare_digest", compare)
    for given in (secret, secret[:-1] + "!", ""):
        compared.clear()
        tokens.match(given)
        assert [b for _, b in compared] == [tokens.digest(given)] * 2  # with each token there is
