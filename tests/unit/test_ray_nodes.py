"""Agents on the nodes of a Ray cluster: one that never comes up is not started for ever."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from src.store import MAX_FAILED_STARTS
from src.workers import ray_nodes


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nodes on which an agent was started; each ends at once, as `answers` says."""
    found: list[str] = []

    class Remote:
        def __init__(self, node: str = ""):
            self.node = node

        def options(self, scheduling_strategy: str) -> "Remote":
            return Remote(scheduling_strategy)

        def remote(self, url: str) -> str:
            found.append(self.node)
            return f"{self.node} {len(found)}"

    ray = ModuleType("ray")
    strategies = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node  # type: ignore[attr-defined]
    ray.remote = lambda **options: lambda function: Remote()  # type: ignore[attr-defined]
    ray.wait = lambda tasks, num_returns, timeout: (tasks, [])  # type: ignore[attr-defined]
    ray.get = lambda task: (task.startswith("sound"), "exit code 1: ImportError")  # type: ignore[attr-defined]
    ray.exceptions = SimpleNamespace(RayError=RuntimeError)  # type: ignore[attr-defined]
    for name, module in {"ray": ray, "ray.util": ModuleType("ray.util"),
                         "ray.util.scheduling_strategies": strategies}.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.mark.usefixtures("home")
def test_an_agent_that_never_comes_up_is_not_started_for_ever(
    started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [{"NodeID": name, "Alive": True} for name in ("broken", "sound")]
    tasks: dict[str, Any] = {}
    failed_starts: dict[str, int] = {}
    for _ in range(5):
        ray_nodes.start_agents(nodes, tasks, failed_starts)
    assert started.count("broken") == MAX_FAILED_STARTS and started.count("sound") == 5
    assert "agent of node broken did not start, 2 times; it is left out" in capsys.readouterr().err
