"""A tool of `spelltune mcp` answers with the document that the command of its name prints."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden.commands import (
    RECORD,
    ROOT,
    differences,
    document,
    kill_all,
    no_slot_free,
    unpacked,
)
from tests.helpers.agents import Agent, over_stdio

# command -> what an agent asks; both read.
READ: dict[str, tuple[str, dict[str, Any]]] = {
    "runs": ("runs", {"limit": None}),
    "show whole-trl": ("show", {"run": "whole-trl"}),
    "show forked": ("show", {"run": "forked"}),
    "metrics failed": ("metrics", {"run": "failed"}),
    "compare whole-trl forked": ("compare", {"runs": ["whole-trl", "forked"]}),
    "errors whole-trl": ("errors", {"run": "whole-trl", "limit": None}),
    "errors whole-trl@40 --split test": (
        "errors", {"run": "whole-trl@40", "split": "test", "limit": None},
    ),
    "errors whole-trl --all --split test": (
        "errors", {"run": "whole-trl", "all_words": True, "split": "test", "limit": None},
    ),
    "errors whole-trl --vs whole-packed": (
        "errors", {"run": "whole-trl", "vs": "whole-packed", "limit": None},
    ),
    "sweep list": ("sweep_list", {}),
    "sweep show rates": ("sweep_show", {"sweep_id": "rates"}),
    "sweep plan {home}/rates.yaml": ("sweep_plan", {"file": "{home}/rates.yaml"}),
}  # fmt: skip
# Those that do something, in this order: keys and types are held.
DONE: dict[str, tuple[str, dict[str, Any]]] = {
    "evaluate whole-trl --data {home}/words/test.jsonl": (
        "evaluate", {"run": "whole-trl", "data": "{home}/words/test.jsonl"},
    ),
    "launch {home}/config.yaml --set name=one": ("launch", {"settings": {"name": "one"}}),
    "fork whole-trl --from 20 --set name=three": (
        "fork", {"run": "whole-trl", "step": 20, "settings": {"name": "three"}},
    ),
    "stop one": ("stop", {"run": "one", "confirm": True}),
    "delete forked --yes": ("delete", {"run": "forked", "confirm": True}),
    "sweep launch {home}/rates.yaml --budget '3 trials'": (
        "sweep_launch", {"file": "{home}/rates.yaml", "budget": "3 trials"},
    ),
    "sweep pause rates": ("sweep_pause", {"sweep_id": "rates"}),
    "sweep resume rates": ("sweep_resume", {"sweep_id": "rates"}),
    "sweep cancel rates": ("sweep_cancel", {"sweep_id": "rates", "confirm": True}),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The home of the old store, and what the tools answered there, each call once."""
    found: dict[str, Any] = {}

    async def ask(agent: Agent) -> None:
        for call, (tool, arguments) in [*READ.items(), *DONE.items()]:
            own = {
                name: value.format(home=home) if isinstance(value, str) else value
                for name, value in arguments.items()
            }
            found[call] = await agent.ask(tool, **own)

    with unpacked(tmp_path_factory.mktemp("tools")) as home:
        before = {call: document(call, home)["document"] for call in READ}
        with no_slot_free(home):
            over_stdio(ask)
            kill_all(home)
        yield home, {"told": found, "printed": before}


def placed(found: Any, home: Path) -> Any:
    """A document with its paths as in the recorded ones."""
    if isinstance(found, dict):
        return {key: placed(value, home) for key, value in found.items()}
    if isinstance(found, list):
        return [placed(value, home) for value in found]
    if isinstance(found, str):
        return found.replace(str(home), "HOME").replace(str(ROOT), "ROOT")
    return found


@pytest.mark.parametrize("call", READ)
def test_a_tool_tells_what_its_command_prints(answers, call):
    home, found = answers
    assert placed(found["told"][call], home) == found["printed"][call]


@pytest.mark.parametrize("call", DONE)
def test_a_tool_that_does_something_answers_with_the_keys_of_its_command(answers, call):
    home, found = answers
    recorded = RECORD["calls"][call]["document"]
    assert not differences(recorded, placed(found["told"][call], home), values=False)


def test_each_call_is_one_of_the_recorded_commands():
    assert {*READ, *DONE} <= {*RECORD["calls"]}
    for call, (tool, _) in (READ | DONE).items():
        assert tool in (shlex.split(call)[0], "_".join(shlex.split(call)[:2])), call
