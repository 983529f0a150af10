"""The server of the tools: who may call which, how long a call takes, and errors as sentences"""

import importlib.metadata
import inspect
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from mcp.types import Tool as ListedTool
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from mcp.server import MCPServer, ServerRequestContext
from src import store
from src.access import Role
from src.config import sentence
from src.errors import UserError, did_you_mean, explain
from src.format import duration
from src.mcp import caller, sweep_tools, tools
from src.mcp.caller import Call, Caller
from src.mcp.registry import TOOLS, Told, Tool
from src.runs import reconciler

MAX_AT_ONCE = 64  # calls, of which most wait for a run; others wait for those
LISTED = tools.__name__, sweep_tools.__name__  # modules of tools, in the order of the list
CALLER = "spelltune.caller"  # key of an HTTP request's scope

INSTRUCTIONS = """\
Spelltune trains LoRA adapters that teach a language model to spell. A run is one training; runs
that differ in their seed alone are one config; a sweep searches settings with many runs. Look
first: runs, show, compare, errors. launch returns at once; follow a run with show and wait_seconds.
Claim no more than the verdicts of compare do. stop, delete and sweep_cancel say what they would do
until they are called with confirm: true, which is for the person to decide."""

_client: ContextVar[Caller] = ContextVar("client whose message is answered")


class SpelltuneServer(MCPServer[Any]):
    """The tools for one client over stdio, `local`, or for those whom a layer of HTTP let in."""

    def __init__(self, local: Caller | None = None):
        super().__init__(
            "spelltune",
            title="Spelltune",
            instructions=INSTRUCTIONS,
            version=importlib.metadata.version("spelltune"),
            log_level="WARNING",
            middleware=[partial(_remember_client, local)],
        )
        self._places = anyio.CapacityLimiter(MAX_AT_ONCE)
        for tool in sorted(TOOLS.values(), key=lambda one: LISTED.index(one.function.__module__)):
            self.add_tool(
                self._in_thread(tool),
                name=tool.name,
                description=inspect.getdoc(tool.function),
                annotations=ToolAnnotations(
                    read_only_hint=tool.reads, destructive_hint=tool.destroys, open_world_hint=False
                ),
                structured_output=False,
            )
        caller.install()

    def _in_thread(self, tool: Tool) -> Callable[..., Awaitable[CallToolResult]]:
        """The function of a tool in a thread, which is left alone when the call is given up."""

        @wraps(tool.function)
        async def work(**arguments: Any) -> CallToolResult:
            def answer() -> CallToolResult:
                caller.as_server(reconciler.reconcile)
                return _result(tool.function(**arguments))

            return await anyio.to_thread.run_sync(
                answer, abandon_on_cancel=True, limiter=self._places
            )

        return work

    async def list_tools(self) -> list[ListedTool]:
        """The tools that the client may call."""
        found = [one for one in await super().list_tools() if _may_call(TOOLS[one.name])]
        return [one.model_copy(update={"input_schema": _schema(one.input_schema)}) for one in found]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult:
        """The answer of a tool; what goes wrong is an answer, too."""
        tool = TOOLS.get(name)
        if tool is None:
            return _refused(f"there is no tool {name!r}{did_you_mean(name, TOOLS)}")
        if not _may_call(tool):
            return _refused(f"{caller.READ_ONLY}; {name} is not for it")
        known = inspect.signature(tool.function).parameters
        if wrong := next((one for one in arguments if one not in known), None):
            return _refused(f"{name} takes no {wrong!r}{did_you_mean(wrong, known)}")
        call = Call(_client.get(), _teller(context))
        caller.begin(call)
        try:
            with anyio.fail_after(tool.seconds):
                found = await super().call_tool(name, arguments, context)
            assert isinstance(found, CallToolResult)
            return found
        except TimeoutError:
            return _refused(
                f"{name} took longer than {duration(tool.seconds)} and was given up; what it had "
                "begun may still be done, so look before you call it again"
            )
        except ToolError as error:
            return _refused(_explained(name, error.__cause__ or error))
        finally:
            call.over.set()


async def _remember_client(
    local: Caller | None, ctx: ServerRequestContext[Any, Any], call_next: Callable[..., Any]
) -> Any:
    """Note whose message is answered. A request over HTTP that nobody let in has no client."""
    client = local
    if client is None:
        assert ctx.request is not None
        client = ctx.request.scope[CALLER]
    _client.set(client)
    return await call_next(ctx)


def _may_call(tool: Tool) -> bool:
    return tool.reads or _client.get().role is Role.EDIT


def _teller(context: Context[Any, Any] | None) -> Callable[[str], None]:
    """Tells the client of progress, from a thread; counts, as it must grow each time."""
    told = 0

    def tell(phase: str) -> None:
        nonlocal told
        told += 1
        if context is not None:
            anyio.from_thread.run(context.report_progress, told, None, phase)

    return tell


def _result(answer: Any) -> CallToolResult:
    """An answer as the text of its document, with notes after it, and as a structure."""
    notes = answer.notes if isinstance(answer, Told) else []
    text = store.to_json(answer.document if isinstance(answer, Told) else answer)
    document = json.loads(text)
    structure = document if isinstance(document, dict) else {"result": document}
    texts = [text, *(f"note: {one}" for one in notes)]
    return CallToolResult(
        content=[TextContent(type="text", text=one) for one in texts], structured_content=structure
    )


def _refused(sentence: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=sentence)], is_error=True)


def _explained(name: str, error: BaseException) -> str:
    """A sentence on what ended a call. What nobody expected is told on standard error."""
    if isinstance(error, UserError | OSError):
        return explain(error)
    if isinstance(error, ValidationError):
        return "\n".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {sentence(one)}"
            for one in error.errors()
        )
    if isinstance(error, SQLAlchemyError | ImportError) and (
        why := store.explain_unreachable(error)
    ):
        return why
    traceback.print_exception(error, file=sys.stderr)
    return f"{name} failed ({type(error).__name__}); the output of `spelltune mcp` says more"


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments without the titles that pydantic makes of names."""
    properties = {
        name: {key: value for key, value in one.items() if key != "title"}
        for name, one in schema["properties"].items()
    }
    kept = {key: value for key, value in schema.items() if key != "title"}
    return kept | {"properties": properties, "additionalProperties": False}
