"""A real panel with a login, by tokens alone and at an identity provider too: what each of its
readers can reach and change."""

import hashlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed, InvalidStatus

from src import paths, store
from src.access import Role
from src.cli import app
from src.panel.access import identity, logins, people, tokens
from src.panel.access.guard import READ_ONLY
from src.panel.ui.navigation import PAGES
from src.paths import ROOT
from src.store.tables import Status, SweepStatus
from tests.helpers.browser import serving, wait_for
from tests.helpers.identity_provider import set_up
from tests.helpers.live import taken_slots
from tests.helpers.sessions import Drawn, Session
from tests.helpers.store import checkpoint, fill_run, fill_sweep, hold

BACK = "oauth2callback?code=a&state=b"
# Files of the panel's own work, whoever reads: locks, the lease, SQLite's, and logins.
OWN = re.compile(
    r"results/(locks/|\.host|spelltune\.db|\.reserve|\.places)|access/|panel\.log|\.streamlit/"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(folder))
        patch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
        yield folder


@pytest.fixture(scope="module")
def runs(home: Path) -> Iterator[dict[str, str]]:
    """Runs in each stage, and sweeps, none of which a process works for."""
    with taken_slots():
        made = {
            "ended": fill_run(name="ended"),
            "other": fill_run(name="other", lora__r=4),
            "stopped": fill_run(name="stopped", status=Status.STOPPED, steps=200),
            "running": fill_run(name="running", status=Status.RUNNING, steps=200),
            "queued": fill_run(name="queued", status=Status.QUEUED),
            "held": fill_run(name="held", status=Status.QUEUED),
        }
        for step in (50, 100, 150):
            checkpoint(made["stopped"], step)
        lock = hold(made["running"])
        with store.writing() as session:
            store.hold(session, [store.find(session, made["held"])], held=True)
        files = ROOT / "configs" / "sweeps"
        made["sweep"] = fill_sweep(files / "tiny.yaml", trials=4)
        made["paused"] = fill_sweep(files / "tiny.yaml", trials=4, status=SweepStatus.PAUSED)
        yield made
        lock.release()


@pytest.fixture(scope="module", params=["tokens", "people"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def panel(home: Path, runs: dict[str, str], mode: str) -> Iterator[str]:
    extra = {"SPELLTUNE_LOGIN": "token", "SPELLTUNE_NOTIFY_URLS": "json://127.0.0.1:9/x"}
    if mode == "people":
        pytest.importorskip("authlib")
        set_up(home, "http://127.0.0.1:9")  # a provider that does not answer
        extra["HOME"] = str(home)
    with serving(home, **extra) as address:
        wait_for(_has_noted_the_service, "the panel did not look at its services")
        yield address


def _has_noted_the_service() -> bool:
    """The panel's own note on a service that is new: the row that it writes, whoever reads."""
    with store.reading() as session:
        return store.last_notice(session) > 0


def cookie(panel: str, name: str, mode: str) -> str:
    """The cookie of a browser of the owner or the reader, who came in as the mode has it."""
    at = f"spelltune-{panel.rpartition(':')[2]}"
    if mode == "people":
        return f"{at}={logins.begin_for('ann@lab.org' if name == 'owner' else 'bob@other.org')}"
    if tokens.get(name) is None:
        tokens.make(name, Role.EDIT if name == "owner" else Role.READ)
    return f"{at}={logins.begin(tokens.find(name))}"


def fetched(address: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def state_of(home: Path) -> set[str]:
    """Each row of the run table, and the name and hash of each file of the home."""
    found = {
        f"{file.relative_to(home)} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in home.rglob("*")
        if file.is_file() and not OWN.match(str(file.relative_to(home)))
    }
    with sqlite3.connect(f"file:{paths.results()}/spelltune.db?mode=ro", uri=True) as table:
        for (name,) in table.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for row in table.execute(f'SELECT * FROM "{name}" ORDER BY 1'):
                found.add(f"{name} {row}")
    return found


def addresses(runs: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Addresses of every page at which its buttons are drawn."""
    pair = [runs["ended"], runs["other"]]
    known: dict[str, list[dict[str, Any]]] = {
        "monitor": [
            *({"run": runs[name]} for name in ("ended", "running", "queued", "held")),
            {"run": runs["stopped"], "view": "Checkpoints"},
            {"run": runs["ended"], "view": "Export"},
        ],
        "compare": [{"run": pair}, {"run": pair, "view": "Runs"}],
        "errors": [{"run": runs["ended"]}],
        "sweeps": [
            {}, {"sweep": runs["sweep"]}, {"sweep": runs["paused"]},
            {"sweep": runs["sweep"], "view": "Trials"},
        ],
        "launch": [{}, {"from": runs["ended"]}, {"from": runs["stopped"], "fork": "100"}],
        "try": [{"run": runs["ended"], "text": "rythm"}],
    }  # fmt: skip
    pages = [file.stem for file in PAGES.glob("*.py")]
    return [(page, query) for page in pages for query in known.get(page, [{}])]


def use_everything(panel: str, runs: dict[str, str], mode: str) -> dict[str, str]:
    """As a reader, press each button and edit each table of all pages, though they are disabled:
    {what: all told}."""
    told: dict[str, str] = {}
    for page, query in addresses(runs):
        session = Session(panel, cookie(panel, "reader", mode))
        drawn = session.run(page, query)
        assert not [b.label for b in drawn.buttons() if not b.disabled], f"{page} {query}"
        assert not [t.id for t in drawn.tables() if not t.disabled], f"{page} {query}"
        for button in drawn.buttons():
            again = session.run(page, query, press=button.id)
            told[f"{page} {button.label}"] = again.text()
        for table in drawn.tables():
            edit = (table.id, {"tags": "seen", "notes": "seen"})
            told[f"{page} table"] = session.run(page, query, edit=edit).text()
        session.close()
    return told


def test_a_reader_who_uses_everything_changes_no_row_and_no_file(
    home: Path, panel: str, runs: dict[str, str], mode: str
) -> None:
    before = state_of(home)
    used = use_everything(panel, runs, mode)
    wanted = {
        "Delete this run", "Stop this run", "Start next", "Hold", "Release", "Resume", "table",
        "Resume from here", "Delete this checkpoint", "Cancel this sweep", "Send a test", "Save",
        "Upload",
    }  # fmt: skip
    assert wanted <= {what.partition(" ")[2] for what in used}
    assert state_of(home) ^ before == set()
    for what, text in used.items():
        assert "exception" not in text.lower(), f"{what}: {text}"
    assert READ_ONLY in used["monitor Delete this run"].lower()
    assert READ_ONLY in used["monitor Stop this run"].lower()
    # Nobody heard of it: no stop was asked for, and no process was started.
    with store.reading() as session:
        assert not store.stop_requested(session, runs["running"])


@pytest.mark.parametrize("who", ["nobody", "reader"])
def test_no_file_comes_in_but_from_who_may_change_things(panel: str, who: str, mode: str) -> None:
    told = {"Cookie": cookie(panel, who, mode)} if who == "reader" else {}
    for method in ("PUT", "POST", "DELETE"):
        for path in ("/_stcore/upload_file/x/y", "/_stcore/agent/mcp", "/_stcore/agent/interact"):
            code, text = fetched(panel + path, method, **told)
            assert code == (403 if told else 401), f"{method} {path} {text}"


def test_without_a_token_no_page_file_or_message_is_reached(panel: str, mode: str) -> None:
    routes = ["/", "/monitor", "/_stcore/health", "/_stcore/host-config", "/_stcore/metrics"]
    for path in [*routes, "/static/manifest.json", "/media/x", "/_stcore/agent/schema"]:
        code, text = fetched(panel + path)
        assert code == 401 and "streamlit" not in text.lower(), path
    wrong = [{}, {"Cookie": f"spelltune-{panel.rpartition(':')[2]}=x"}]
    wrong += [{"X-Spelltune-Login": logins.key_of(cookie(panel, "owner", mode).partition("=")[2])}]
    for headers in wrong:
        with pytest.raises(InvalidStatus, match="403"):
            Session(panel, headers=headers)


def test_nobody_comes_in_by_the_routes_of_streamlits_own_login(panel: str, mode: str) -> None:
    for path in ("/auth/login", "/auth/login?provider=x", "/auth/logout"):
        assert fetched(panel + path)[0] == 401
    told = {page: fetched(f"{panel}/{page}", Accept="text/html") for page in ("log-in", BACK)}
    if mode == "people":
        code, text = told["log-in"]
        assert code == 503 and identity.SILENT in text
        code, text = told[BACK]
        assert code == 403 and identity.FAILED in text
    else:
        assert {code for code, _ in told.values()} == {401}
    # What Streamlit itself takes for a person who has logged in lets nobody in.
    own = {"email": "ann@lab.org", "email_verified": True, "is_logged_in": True, "origin": panel}
    signed = create_signed_value("x" * 40, USER_COOKIE_NAME, json.dumps(own)).decode()
    forged = {"Cookie": f"{USER_COOKIE_NAME}={signed}"}
    for path in ("/", f"/{BACK}", "/_stcore/health"):
        assert fetched(panel + path, **forged)[0] in (401, 403)
    with pytest.raises(InvalidStatus, match="403"):
        Session(panel, forged["Cookie"])


def test_a_session_is_not_taken_over_by_who_knows_its_id(
    home: Path, panel: str, runs: dict[str, str], mode: str
) -> None:
    """A reader who reconnects to the session of an owner goes on as a reader."""
    owner = Session(panel, cookie(panel, "owner", mode))
    drawn = owner.run("monitor", {"run": runs["ended"]})
    (known,) = {
        m.new_session.initialize.session_id for m in drawn.messages if m.HasField("new_session")
    }
    owner.close()
    reader = Session(panel, cookie(panel, "reader", mode), resume=known)
    before = state_of(home)
    for button in drawn.buttons():
        reader.run("monitor", {"run": runs["ended"]}, press=button.id)
    assert state_of(home) == before
    reader.close()


def test_an_owner_changes_things_by_the_same_means_until_he_may_no_more(
    home: Path, panel: str, runs: dict[str, str], mode: str
) -> None:
    owner = Session(panel, cookie(panel, "owner", mode))
    query = {"run": [runs["ended"], runs["other"]], "view": "Runs"}
    (table,) = owner.run("compare", query).tables()
    owner.run("compare", query, edit=(table.id, {"tags": "seen"}))
    with store.reading() as session:
        assert store.find(session, runs["ended"]).tags == ["seen"]
    query = {"run": runs["held"]}
    release = _button(owner.run("monitor", query), "Release")
    owner.run("monitor", query, press=release)
    with store.reading() as session:
        assert store.find(session, runs["held"]).held_at is None
    owner.run("monitor", query, press=_button(owner.run("monitor", query), "Hold"))
    release = _button(owner.run("monitor", query), "Release")
    if mode == "people":
        people.file().write_text("someone@else.org: edit")
    else:
        tokens.revoke("owner")
    with pytest.raises(ConnectionClosed):
        owner.run("monitor", query, press=release)
        owner.run("monitor", query, press=release)
    with store.reading() as session:
        assert store.find(session, runs["held"]).held_at is not None


def _button(drawn: Drawn, label: str) -> str:
    return str(next(button.id for button in drawn.buttons() if button.label == label))


# --- the command ----------------------------------------------------------------------------------


def test_the_first_start_prints_the_address_with_a_token_once(tmp_path: Path) -> None:
    first, address = started(tmp_path, "--host", "0.0.0.0")
    (secret,) = {*re.findall(r"token=([\w-]{43})", first)}
    port = address.rpartition(":")[2]
    assert f"http://127.0.0.1:{port}/?token={secret}" in first
    kept = [f.read_text() for f in tmp_path.rglob("*.json")]
    assert len(kept) == 1 and secret not in kept[0]
    second, _ = started(tmp_path, "--token")  # on 127.0.0.1
    assert "the panel asks for a token (edit)" in second and "token=" not in second


def test_where_people_log_in_no_token_is_made_and_a_provider_that_cannot_be_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    set_up(tmp_path, "http://127.0.0.1:9")
    told, _ = started(tmp_path, "--token")
    assert "people log in at 127.0.0.1:9" in told and "token=" not in told
    assert not (tmp_path / "access" / "tokens").exists()
    (tmp_path / ".streamlit" / "secrets.toml").chmod(0o644)
    panel = [sys.executable, "-m", "src.cli", "panel", "--token"]
    environment = {**os.environ, "SPELLTUNE_HOME": str(tmp_path)}
    done = subprocess.run(panel, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "others may read the secrets in " in done.stderr


def started(home: Path, *arguments: str) -> tuple[str, str]:
    """What a panel printed until it answered, which it does to nobody without a token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "SPELLTUNE_HOME": str(home)}
    log, address = home / "printed", f"http://127.0.0.1:{port}"
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "src.cli", "panel", "--port", str(port), *arguments],
            cwd=ROOT, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_for(lambda: answers(address), "the panel did not start")
        assert fetched(f"{address}/_stcore/health")[0] == 401
        return log.read_text(), address
    finally:
        server.terminate()
        server.wait(60)


def answers(address: str) -> bool:
    try:
        return fetched(address)[0] > 0
    except OSError:
        return False


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "x" * 300, "::g", "-1"])
def test_an_address_that_is_none_of_this_machine_is_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.chdir(home)
    done = CliRunner().invoke(app, ["panel", f"--host={host}"])
    assert done.exit_code == 2 and f"the panel cannot listen on {host!r}: " in done.stderr
