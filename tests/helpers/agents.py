"""Agents: clients of the MCP SDK that talk to a real `spelltune mcp`, over stdio and over HTTP."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from mcp import Client
from src.paths import ROOT
from tests.helpers.browser import wait_for

COMMAND = ["-m", "src.cli", "mcp"]


class Agent:
    """A client and the answers that it gets."""

    def __init__(self, client: Client):
        self.client = client

    async def tools(self) -> dict[str, Any]:
        """{name: tool} of those that the server offers."""
        return {one.name: one for one in (await self.client.list_tools()).tools}

    async def ask(self, tool: str, *, phases: list[str] | None = None, **arguments: Any) -> Any:
        """The document that a tool answers; `phases` gets what it tells of its progress."""

        async def note(_done: float, _total: float | None, phase: str | None) -> None:
            assert phases is not None
            phases.append(phase or "")

        told = None if phases is None else note
        found = await self.client.call_tool(tool, arguments, progress_callback=told)
        text = found.content[0].text
        assert not found.is_error, text
        document = json.loads(text)
        structure = document if isinstance(document, dict) else {"result": document}
        assert found.structured_content == structure
        return document

    async def notes(self, tool: str, **arguments: Any) -> list[str]:
        """What a tool says beside its document."""
        found = await self.client.call_tool(tool, arguments)
        assert not found.is_error, found.content[0].text
        return [one.text for one in found.content[1:]]

    async def refused(self, tool: str, **arguments: Any) -> str:
        """The sentence with which a tool refuses."""
        found = await self.client.call_tool(tool, arguments)
        assert found.is_error, found.content[0].text
        text = found.content[0].text
        assert "Traceback" not in text and "pydantic" not in text
        return text


Work = Callable[[Agent], Awaitable[None]]


def over_stdio(work: Work, *options: str, folder: Path = ROOT, **extra: str) -> None:
    """Do what an agent does with a server that it starts in a folder."""
    server = StdioServerParameters(
        command=sys.executable, args=[*COMMAND, *options], env={**os.environ, **extra}, cwd=folder
    )

    async def talk() -> None:
        async with Client(server) as client:
            await work(Agent(client))

    _run(talk())


@contextlib.contextmanager
def serving_tools(home: Path, *options: str, **extra: str) -> Iterator[str]:
    """The tools over HTTP on a free port; yields their address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "SPELLTUNE_HOME": str(home), **extra}
    address = f"http://127.0.0.1:{port}/mcp"
    with open(home / "mcp.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, *COMMAND, "--http", "--port", str(port), *options],
            cwd=ROOT, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(lambda: status_of(address) == 401, "the server of the tools did not start")
        yield address
    finally:
        server.terminate()
        server.wait(60)


def status_of(address: str, body: bytes | None = None, **headers: str) -> int:
    """The status of a plain request; 0 where nobody answers."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, data=body, headers=told)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextlib.asynccontextmanager
async def _client(address: str, token: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=300) as http,
        Client(streamable_http_client(address, http_client=http)) as client,
    ):
        yield client


def over_http(address: str, token: str, work: Work) -> None:
    """Do what an agent does with a token at an address."""

    async def talk() -> None:
        async with _client(address, token) as client:
            await work(Agent(client))

    _run(talk())


def _run(talk: Coroutine[Any, Any, None]) -> None:
    """Run it; what fails in it fails here, out of the groups in which the SDK wraps it."""
    try:
        asyncio.run(talk)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def servers_of(home: Path) -> list[psutil.Process]:
    """The processes that serve tools of a home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            own = process.environ().get("SPELLTUNE_HOME") == str(home)
            if own and process.cmdline()[1:4] == COMMAND:
                found.append(process)
    return found
