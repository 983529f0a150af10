"""A real `spelltune mcp`: what an agent does with it, and what goes wrong."""

import importlib.util
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp.shared.exceptions import MCPError
from typer.testing import CliRunner

from src import access
from src.access import ReadOnlyAccess, Role
from src.cli import app
from src.config import by_name, settings
from src.mcp import caller
from src.mcp.caller import Call, Caller
from src.mcp.server import TOOLS
from src.panel.access import tokens
from src.panel.access.limits import MAX_BY_CLIENT
from src.paths import ROOT
from src.runs import launcher
from src.runs.spawn import Worker
from src.store.tables import Status
from tests.helpers.adapters import trained_run
from tests.helpers.agents import (
    COMMAND,
    Agent,
    over_http,
    over_stdio,
    servers_of,
    serving_tools,
    status_of,
)
from tests.helpers.browser import wait_for
from tests.helpers.live import FEW, command, of_home, row
from tests.helpers.store import fill_run, fill_sweep

READING = {"runs", "show", "metrics", "compare", "errors", "sweep_list", "sweep_show", "sweep_plan"}
DESTROYING = {"stop", "delete", "sweep_cancel"}
BEGIN = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}  # fmt: skip


# --- over stdio -----------------------------------------------------------------------------------


def test_schemas_are_those_of_run_config_and_wrong_arguments_are_sentences(home: Path) -> None:
    async def work(agent: Agent) -> None:
        offered = await agent.tools()
        assert {n for n, one in offered.items() if one.annotations.read_only_hint} == READING
        assert {n for n, one in offered.items() if one.annotations.destructive_hint} == DESTROYING
        for name in DESTROYING:
            assert offered[name].input_schema["properties"]["confirm"]["default"] is False
        known = offered["launch"].input_schema["properties"]["settings"]["properties"]
        assert list(known) == [setting.name for setting in settings()]
        rank = by_name()["lora.r"]
        assert known["lora.r"] == {
            "type": "integer", "description": rank.help,
            "minimum": rank.low, "maximum": rank.high,
        }  # fmt: skip
        assert all(one.description for one in offered.values())

        refused = agent.refused
        assert "did you mean 'lora.r'" in await refused("launch", settings={"lora.rank": 4})
        assert "got -1" in await refused("launch", settings={"lora.r": -1})
        assert "'run'" in await refused("show", runs="x")
        assert await refused("show") == "run: no value given"
        assert "got 0" in await refused("runs", limit=0)
        assert "100" in await refused("show", run="x", wait_seconds=1e9)
        assert "no run 'nobody'" in await refused("show", run="nobody")
        assert "did you mean 'runs'" in await refused("run")
        assert "two or more" in await refused("compare")
        assert "did you mean 'lora.r'" in await refused("runs", sort="lora.rank")
        assert "status" in await refused("runs", filter="status:nothing")
        assert "validation, test or suite/NAME" in await refused("errors", run="x", split="train")
        assert "either a run or a base" in await refused("evaluate", data="x.csv")
        assert "no file" in await refused("evaluate", base="spelltune-tiny", data="/none.csv")
        assert "no word" in await refused("try", run="x", words=[" "])
        assert "sweep file" in await refused("sweep_plan")
        space = {"name": "s", "method": "grid", "space": {"lora.rank": [1, 2]}}
        assert "no such setting; did you mean 'lora.r'" in await refused("sweep_plan", sweep=space)
        assert "no file" in await refused("sweep_plan", file="/none.yaml")
        for name in ("x\0y", "../../etc/passwd", "'; DROP TABLE run;--", "\N{PILE OF POO}" * 50):
            await refused("show", run=name)
        assert await agent.ask("runs") == []

    over_stdio(work)


def test_what_cannot_be_taken_back_is_told_until_it_is_confirmed(home: Path, busy: None) -> None:
    run_id = fill_run(name="ended")
    queued = fill_run(name="queued", status=Status.QUEUED)
    sweep_id = fill_sweep(ROOT / "configs/sweeps/tiny.yaml", trials=4)

    async def work(agent: Agent) -> None:
        told = await agent.ask("delete", run=run_id)
        assert told["done"] is False and "checkpoints, adapter" in told["would"]
        assert "from the queue" in (await agent.ask("stop", run=queued))["would"]
        assert "has ended" in (await agent.ask("stop", run=run_id))["would"]
        assert (await agent.ask("sweep_cancel", sweep_id=sweep_id))["done"] is False
        assert row(run_id).status == Status.COMPLETED and row(queued).status == Status.QUEUED

        assert (await agent.ask("stop", run=queued, confirm=True))["status"] == "CANCELLED"
        assert await agent.ask("archive", runs=[queued]) == [{"id": queued, "archived": True}]
        assert [one["id"] for one in await agent.ask("runs", filter="ended")] == [run_id]
        assert [one["id"] for one in await agent.ask("runs", archived=True)] == [queued]
        assert await agent.ask("unarchive", runs=["queued"]) == [{"id": queued, "archived": False}]
        deleted = await agent.ask("delete", run=run_id, confirm=True)
        assert deleted == {"id": run_id, "step": None, "deleted": True}
        assert "no run" in await agent.refused("show", run=run_id)

    over_stdio(work)


def test_long_lists_are_cut_and_say_so(home: Path) -> None:
    for number in range(3):
        run_id = fill_run(name=f"run {number}")

    async def work(agent: Agent) -> None:
        assert len(await agent.ask("runs", limit=2)) == 2
        assert await agent.notes("runs", limit=2) == ["note: 2 of 3 runs; limit shows more"]
        assert await agent.notes("runs") == []
        assert len(await agent.ask("errors", run=run_id, limit=4)) == 4
        (note,) = await agent.notes("errors", run=run_id, limit=4)
        assert note.startswith("note: 4 of ")
        last = await agent.ask("metrics", run=run_id, name="train/loss", limit=1)
        everything = await agent.ask("metrics", run=run_id, limit=None)
        assert last == [p for p in everything if p["name"] == "train/loss"][-1:]

    over_stdio(work)


def test_a_report_is_written_where_it_is_asked_for(home: Path, tmp_path: Path) -> None:
    run_id = fill_run(name="told")
    file = tmp_path / "mine.tex"

    async def work(agent: Agent) -> None:
        told = await agent.ask("report", runs=["told"])
        assert told["runs"] == [run_id] and told["sweep"] is None
        (page,) = told["files"]
        assert Path(page["path"]) == home / "results" / "reports" / f"report-{run_id}.html"
        assert Path(page["path"]).stat().st_size == page["size_bytes"] > 10_000
        told = await agent.ask("report", runs=["told"], file=str(file))
        assert told["files"] == [{"path": str(file), "size_bytes": file.stat().st_size}]
        assert "ends in .html" in await agent.refused("report", runs=["told"], file="a.pdf")
        assert "either runs or a sweep" in await agent.refused("report")

    over_stdio(work)


def test_a_reader_over_stdio_is_offered_what_changes_nothing(home: Path) -> None:
    async def work(agent: Agent) -> None:
        assert set(await agent.tools()) == READING
        assert caller.READ_ONLY in await agent.refused("launch")
        assert await agent.ask("runs") == []

    over_stdio(work, "--read-only")


def test_what_is_no_message_ends_nothing_and_the_output_holds_messages_alone(home: Path) -> None:
    listed = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
    broken = ["{", "[]", "null", "\x00\xff", '{"jsonrpc":"2.0","id":7,"method":"nothing"}']
    broken += [json.dumps({"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": {}})]
    broken += ["[" * 100_000]
    begun = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    lines = [json.dumps(BEGIN), json.dumps(begun), *broken, json.dumps(listed)]
    with subprocess.Popen(
        [sys.executable, *COMMAND], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdin and server.stdout
        server.stdin.write("\n".join(lines) + "\n")
        server.stdin.flush()
        seen: dict[Any, Any] = {}
        while 2 not in seen:
            message = json.loads(server.stdout.readline())
            seen[message.get("id")] = message
        assert len(seen[2]["result"]["tools"]) > 15 and "error" in seen[7] and "error" in seen[8]
        server.stdin.close()
        assert server.wait(60) == 0


def test_a_run_table_that_is_out_of_reach_is_a_sentence_of_each_call(home: Path) -> None:
    async def work(agent: Agent) -> None:
        for tool, arguments in (("runs", {}), ("show", {"run": "x"}), ("stop", {"run": "x"})):
            told = await agent.refused(tool, **arguments)
            assert "does not answer at postgresql" in told and "secret" not in told
        assert len(await agent.tools()) > 20

    over_stdio(work, SPELLTUNE_DATABASE_URL="postgresql+psycopg://me:secret@127.0.0.1:9/table")


@pytest.mark.slow
def test_an_agent_trains_a_run_and_asks_it(home: Path, base: Path, small: dict[str, Any]) -> None:
    """From the launch to the answers of its adapter, by a server that loads no model."""
    other = trained_run(base / "gpt2", seed=1)
    few = small | FEW | {"name": "first", "engine": "packed", "checkpointing.save_steps": 2}

    async def work(agent: Agent) -> None:
        (server,) = servers_of(home)
        launched = await agent.ask("launch", settings=few)
        run_id = launched["id"]
        assert launched["name"] == "first" and launched["config"]["engine"] == "packed"
        shown: dict[str, Any] = {}
        while shown.get("status") != "COMPLETED":
            shown = await agent.ask("show", run=run_id, wait_seconds=60)
            assert shown["status"] in ("QUEUED", "STARTING", "RUNNING", "COMPLETED"), shown
        assert shown == json.loads(command("show", run_id, "--json").stdout)
        wrong = await agent.ask("errors", run=run_id, limit=None)
        assert wrong == json.loads(command("errors", run_id, "--json").stdout)
        phases: list[str] = []
        told = await agent.ask("try", phases=phases, run=run_id, words=["apple", "tea"], vs=[other])
        assert phases[0] == "loading the libraries" and "2 of 2 answered" in phases[-1]
        for word in told["words"]:
            # After their base model, in the order asked.
            assert [one["by"] for one in word["answers"]][-2:] == [run_id, other]
            assert all(0 <= one["probability"] <= 1 for one in word["answers"])
        await agent.ask("compare", runs=[run_id, other])
        stopped = await agent.ask("stop", run=run_id, confirm=True)
        assert stopped == {"id": run_id, "status": "COMPLETED"}
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "python" in maps and "libtorch" not in maps

    over_stdio(work)
    wait_for(lambda: not servers_of(home), "the server outlived its client")
    wait_for(lambda: not _working(home, Worker.ANSWER), "who answers outlived the server")


def test_a_call_that_hangs_is_given_up_and_the_others_go_on(home: Path, busy: None) -> None:
    file = endless(home)
    run_id = fill_run(name="queued", status=Status.QUEUED)

    async def work(agent: Agent) -> None:
        told = await agent.refused("evaluate", base="spelltune-tiny", data=file.name)
        assert "took longer than 3 s and was given up" in told
        wait_for(lambda: not _working(home, Worker.EVALUATE), "its process is still there")
        begun = time.monotonic()
        told = await agent.refused("show", run=run_id, wait_seconds=60)
        assert "given up" in told and time.monotonic() - begun < 30
        assert (await agent.ask("show", run=run_id))["status"] == "QUEUED"

    limits = json.dumps({"standby": 0, "call": 5.0, "evaluation": 3.0})
    over_stdio(work, folder=home, SPELLTUNE_TIMEOUTS=limits)  # where the file's name counts from


def endless(home: Path) -> Path:
    """A file of questions whose evaluation takes an hour."""
    file = home / "words.csv"
    file.write_text("question,answer\n" + "Spell the word: apple,a p p l e\n" * 300_000)
    return file


def _working(home: Path, worker: Worker) -> list[psutil.Process]:
    """The processes of this kind that work for a home."""
    found = []
    for process in of_home(home):
        with suppress(psutil.Error):
            if worker.value in process.cmdline():
                found.append(process)
    return found


def test_a_process_that_evaluates_ends_with_a_sentence_when_it_is_killed(home: Path) -> None:
    file = endless(home)

    async def work(agent: Agent) -> None:
        import anyio

        async def kill() -> None:
            while not (found := _working(home, Worker.EVALUATE)):
                await anyio.sleep(0.05)
            found[0].kill()

        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            told = await agent.refused("evaluate", base="spelltune-tiny", data=str(file))
        assert "ended without a result" in told
        assert await agent.ask("runs") == []

    over_stdio(work)


def test_where_the_sdk_is_missing_a_sentence_says_how_to_get_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "mcp" else found(name)
    )
    told = CliRunner().invoke(app, ["mcp"])
    assert told.exit_code == 2 and 'pip install "spelltune[mcp]"' in told.stderr


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the tools of a home, and the home, with runs."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(folder))
        patch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
        fill_run(name="first")
        fill_run(name="second", lora__r=4)
        for name, role in (("owner", Role.EDIT), ("reader", Role.READ), ("former", Role.EDIT)):
            SECRETS[name] = tokens.make(name, role)
        with serving_tools(folder) as address:
            yield address, folder


SECRETS: dict[str, str] = {}


def test_every_request_without_a_right_token_is_refused(served: tuple[str, Path]) -> None:
    address, _ = served
    host = address.removesuffix("/mcp")
    begin = json.dumps(BEGIN).encode()
    json_type = {"Content_Type": "application/json", "Accept": "application/json"}
    wrong = [
        {}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer "},
        {"Authorization": f"Basic {SECRETS['owner']}"}, {"Cookie": f"token={SECRETS['owner']}"},
        {"Authorization": f"Bearer {SECRETS['owner']}x"},
    ]  # fmt: skip
    for place in (address, host, f"{host}/", f"{address}/", f"{host}/docs", f"{host}/sse"):
        assert status_of(place) == 401, place
    for headers in wrong:
        assert status_of(address, begin, **json_type, **headers) == 401, headers
    assert status_of(f"{address}?token={SECRETS['owner']}", begin, **json_type) == 401
    # One who brings a token comes no further than to the tools.
    right = {"Authorization": f"Bearer {SECRETS['owner']}"}
    assert status_of(f"{host}/docs", **right) == 404
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert status_of(address, begin, **json_type, **right, **headers) == 403


def test_a_token_that_is_revoked_ends_at_the_next_request(served: tuple[str, Path]) -> None:
    async def work(agent: Agent) -> None:
        assert len(await agent.ask("runs")) == 2
        tokens.revoke("former")
        with pytest.raises(MCPError):
            await agent.ask("runs")

    over_http(served[0], SECRETS["former"], work)


def test_a_reader_looks_at_everything_and_changes_nothing(served: tuple[str, Path]) -> None:
    address, home = served
    kept = {file: file.read_bytes() for file in sorted(home.rglob("*.yaml"))}

    async def work(agent: Agent) -> None:
        assert set(await agent.tools()) == READING
        (second, first) = await agent.ask("runs")
        assert (first["name"], second["name"]) == ("first", "second")
        assert (await agent.ask("show", run="first"))["id"] == first["id"]
        assert (await agent.ask("compare", runs=["first", "second"]))["verdicts"]
        assert await agent.ask("errors", run="first")
        assert (await agent.ask("sweep_plan", file="tiny"))["trials"] == 24
        for tool in sorted(TOOLS.keys() - READING):
            told = await agent.refused(tool, run="first", runs=["first"], confirm=True)
            assert told == f"{caller.READ_ONLY}; {tool} is not for it"
        assert [one["status"] for one in await agent.ask("runs")] == ["COMPLETED"] * 2

    over_http(address, SECRETS["reader"], work)
    assert {file: file.read_bytes() for file in sorted(home.rglob("*.yaml"))} == kept


def test_a_tool_that_forgot_to_ask_changes_nothing_for_a_reader(home: Path) -> None:
    """The layers below refuse it, too."""
    run_id = fill_run(name="queued", status=Status.QUEUED)
    caller.install()
    try:
        reader = Call(Caller(Role.READ, is_remote=True), print)

        def forgetful() -> None:
            caller.begin(reader)
            with pytest.raises(ReadOnlyAccess):
                launcher.stop(run_id)
            caller.as_server(lambda: launcher.stop(run_id))

        copy_context().run(forgetful)
    finally:
        access.set_rule(lambda: None)
    assert row(run_id).status == Status.CANCELLED


def test_an_owner_over_http_names_no_file_outside_the_home(served: tuple[str, Path]) -> None:
    address, home = served
    secret = home.parent / "secret.csv"
    secret.write_text("question,answer\nCANARY,b\n")
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "link.csv").symlink_to(secret)

    async def work(agent: Agent) -> None:
        refused = agent.refused
        for path in (str(secret), str(home / "data/link.csv"), f"{home}/data/../../secret.csv"):
            own = {"data.path": path}
            space = {"name": "s", "method": "grid", "space": {"lora.r": [1, 2]}}
            suites = {"name": "s", "method": "grid", "space": {"evaluation.suites": [[path]]}}
            answers = [
                await refused("sweep_plan", sweep=suites),
                await refused("launch", settings=own),
                await refused("launch", settings={"evaluation.suites": [path]}),
                await refused("fork", run="first", settings=own),
                await refused("evaluate", base="spelltune-tiny", data=path),
                await refused("evaluate", base="spelltune-tiny", suite=path),
                await refused("sweep_plan", file=path),
                await refused("report", runs=["first"], file=path),
                await refused("sweep_plan", file="tiny", settings=own),
                await refused("sweep_launch", sweep=space | {"base": {"overrides": own}}),
            ]
            for told in answers:
                assert "CANARY" not in told, told
                assert "alone" in told or "HTTP" in told or "the command line" in told, told
        assert len(await agent.ask("runs")) == 2

    over_http(address, SECRETS["owner"], work)


def test_an_owner_archives_what_a_reader_no_longer_sees(served: tuple[str, Path]) -> None:
    async def hide(agent: Agent) -> None:
        await agent.ask("archive", runs=["second"])

    async def look(agent: Agent) -> None:
        assert [one["name"] for one in await agent.ask("runs")] == ["first"]

    async def show(agent: Agent) -> None:
        await agent.ask("unarchive", runs=["second"])

    over_http(served[0], SECRETS["owner"], hide)
    over_http(served[0], SECRETS["reader"], look)
    over_http(served[0], SECRETS["owner"], show)


def test_a_later_start_prints_no_token(served: tuple[str, Path]) -> None:
    log = (served[1] / "mcp.log").read_text()
    assert served[0] in log and "Bearer" not in log and "asks for a token (owner" in log


def test_the_first_start_prints_a_token_and_guesses_are_slowed_down(home: Path) -> None:
    with serving_tools(home, "--read-only") as address:
        (secret,) = re.findall(r"Bearer ([\w-]{43})", (home / "mcp.log").read_text())
        assert address in (home / "mcp.log").read_text()
        assert [token.role for token in tokens.listed()] == [Role.EDIT]

        async def work(agent: Agent) -> None:
            assert set(await agent.tools()) == READING  # whatever the token may do elsewhere

        over_http(address, secret, work)
        codes = [status_of(address, Authorization=f"Bearer {n}") for n in range(MAX_BY_CLIENT + 1)]
        assert codes == [401] * MAX_BY_CLIENT + [429]


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_an_address_of_another_machine_is_a_sentence(home: Path, host: str) -> None:
    done = CliRunner().invoke(app, ["mcp", "--http", f"--host={host}"])
    assert done.exit_code == 2 and f"cannot be served on {host!r}, port 8502: " in done.stderr


def test_a_port_that_is_taken_is_a_sentence_and_no_token_is_made(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["mcp", "--http", "--port", port])
    assert done.exit_code == 2 and f"port {port}: address already in use" in done.stderr
    assert not done.stdout and not tokens.listed()
    done = CliRunner().invoke(app, ["mcp", "--port", port])
    assert done.exit_code == 2 and "--host and --port go with --http" in done.stderr
