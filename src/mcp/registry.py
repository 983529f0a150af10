"""The tools by name, and what each may do"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from src.runs.timeouts import TIMEOUTS

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True)
class Told:
    """The answer of a tool: the document of its command, and what that prints beside it."""

    document: Any
    notes: list[str]


@dataclass(frozen=True)
class Tool:
    """A function that serves as a tool. It returns a document or Told, and runs in a thread."""

    function: Callable[..., Any]
    reads: bool  # changes nothing, so that whoever may only read may call it
    destroys: bool  # what it does cannot be taken back, so it asks for `confirm`
    seconds: float  # after which a call is given up

    @property
    def name(self) -> str:
        return self.function.__name__.removesuffix("_")


TOOLS: dict[str, Tool] = {}


def tool(
    *, reads: bool = False, destroys: bool = False, seconds: float = TIMEOUTS.call
) -> Callable[[FunctionT], FunctionT]:
    """Register a function as a tool of its name; an underscore at its end keeps a word of Python
    apart."""

    def register(function: FunctionT) -> FunctionT:
        found = Tool(function, reads, destroys, seconds)
        TOOLS[found.name] = found
        return function

    return register


def not_done(what: str, would: str) -> dict[str, Any]:
    """The answer to a call that has to be confirmed: what it would do."""
    return {"id": what, "done": False, "would": would, "to_do_it": "call again with confirm: true"}
