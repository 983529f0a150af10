"""Keeps every node of a Ray cluster at work. A driver starts `python -m src.workers.ray_nodes`.

All machines share the run table, and each starts what is queued in its own slots, under its own
supervisors. So Ray has one task a node, which keeps `src.workers.node_agent` alive there, and
tells which nodes are gone. A process of its own, because Ray ends the one that loses its cluster.
"""

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.config import ConfigError
from src.runs import reconciler
from src.runs.processes import child_environment
from src.runs.timeouts import TIMEOUTS
from src.workers.node_agent import caller_is_gone

NOT_REACHED = (
    "no Ray cluster is reached from here; start one with `ray start --head`, or join this machine "
    "to it with `ray start --address=HOST:6379`"
)


def check() -> None:
    """ConfigError with a sentence where nothing could be trained over a Ray cluster."""
    problem = None
    if importlib.util.find_spec("ray") is None:
        problem = 'Ray is not installed here: pip install "spelltune[ray]"'
    elif not store.is_shared():
        problem = (
            "several machines cannot share a run table in SQLite; set SPELLTUNE_DATABASE_URL to "
            "PostgreSQL on all of them"
        )
    else:
        asked = start("--check")
        try:
            # A silent address it would try for minutes.
            reached = asked.wait(TIMEOUTS.ray) == 0
        except subprocess.TimeoutExpired:
            asked.kill()
            reached = False
        if not reached:
            problem = NOT_REACHED
    if problem:
        raise ConfigError({"executor": problem})


def start(*arguments: str, output: Any = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """This module as a process, which ends with the caller."""
    return subprocess.Popen(
        [sys.executable, "-m", "src.workers.ray_nodes", *arguments],
        cwd=paths.ROOT,
        env=child_environment(RAY_USAGE_STATS_ENABLED="0"),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
    )


def main() -> int:
    import ray  # an extra; only here, and never in a process that has other things to do

    try:
        address = os.environ.get("RAY_ADDRESS") or "auto"
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        print(f"warning: {NOT_REACHED}: {error}", file=sys.stderr)
        return 1
    if "--check" in sys.argv:
        return 0
    tasks: dict[str, Any] = {}
    while not caller_is_gone(TIMEOUTS.reconcile):
        nodes = ray.nodes()
        keep_at_work(nodes, tasks)
        try:
            end_lost(nodes)
        except SQLAlchemyError as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)
    return 0


def keep_at_work(nodes: Sequence[Mapping[str, Any]], tasks: dict[str, Any]) -> None:
    """Start a keeper on each living node that has none; `tasks` are those that were started."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The slots count the cores and GPUs of a node: to Ray the keeper takes none.
    task = ray.remote(num_cpus=0, max_retries=0)(keep)
    if tasks:
        for ended in ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=0)[0]:
            lost = next(node for node, one in tasks.items() if one == ended)
            try:
                said = ray.get(ended)
            except ray.exceptions.RayError as error:
                said = str(error).partition("\n")[0]
            print(f"warning: no work on node {lost}: {said}", file=sys.stderr, flush=True)
            del tasks[lost]
    for node in nodes:
        if node["Alive"] and node["NodeID"] not in tasks:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            started = task.options(scheduling_strategy=there).remote(paths.database_url())
            tasks[node["NodeID"]] = started


def keep(database_url: str) -> str:
    """Run a keeper until it ends; its last words.

    On a node, whose Ray gets this function by value: it knows nothing of this module. The URL may
    hold a password, so it comes as an argument: Ray's logs show a runtime environment.
    """
    import collections
    import os
    import subprocess
    import sys

    # Ray kills the children of its workers, so a keeper dies with its task. What it starts has a
    # session of its own and does not.
    keeper = subprocess.Popen(
        [sys.executable, "-m", "src.workers.node_agent"],
        env=os.environ | {"SPELLTUNE_DATABASE_URL": database_url},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert keeper.stderr is not None
    last = collections.deque(keeper.stderr, maxlen=1)
    return f"exit code {keeper.wait()}: {''.join(last).strip()}"


def end_lost(nodes: Sequence[Mapping[str, Any]]) -> None:
    """End what trained on machines whose nodes are all dead."""
    hosts = {alive: {n["NodeManagerHostname"] for n in nodes if n["Alive"] is alive}
             for alive in (True, False)}  # fmt: skip
    if gone := hosts[False] - hosts[True]:
        reconciler.give_up_hosts(gone, "Ray lost its node")


if __name__ == "__main__":
    sys.exit(main())
