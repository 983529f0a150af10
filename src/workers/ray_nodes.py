"""Keeps every node of a Ray cluster at work. A driver starts `python -m src.workers.ray_nodes`.

All machines share the run table, and each starts what is queued in its own slots, under its own
supervisors. So Ray has one task a node, which keeps `src.workers.node_agent` alive there, and
tells which nodes are gone. A process of its own, because Ray ends the one that loses its cluster.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from src import paths
from src.runs import reconciler
from src.runs.checks import RAY_NOT_REACHED
from src.runs.environment import parent_has_exited
from src.runs.timeouts import TIMEOUTS


def main() -> int:
    import ray  # an extra; only here, and never in a process that has other things to do

    try:
        address = os.environ.get("RAY_ADDRESS") or "auto"
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        print(f"warning: {RAY_NOT_REACHED}: {error}", file=sys.stderr)
        return 1
    if "--check" in sys.argv:
        return 0
    tasks: dict[str, Any] = {}
    while not parent_has_exited(TIMEOUTS.reconcile):
        nodes = ray.nodes()
        start_agents(nodes, tasks)
        try:
            end_lost_hosts(nodes)
        except SQLAlchemyError as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)
    return 0


def start_agents(nodes: Sequence[Mapping[str, Any]], tasks: dict[str, Any]) -> None:
    """Start a keeper on each living node that has none; `tasks` are those that were started."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The slots count the cores and GPUs of a node: to Ray the keeper takes none.
    task = ray.remote(num_cpus=0, max_retries=0)(run_agent)
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


def run_agent(database_url: str) -> str:
    """Run a keeper until it ends; its last words.

    On a node, whose Ray gets this function by value: it has nothing of this module. The URL may
    hold a password, so it comes as an argument: Ray's logs show a runtime environment.
    """
    import collections
    import os
    import subprocess

    from src.runs.spawn import Worker, command

    # Ray kills the children of its workers, so a keeper dies with its task. What it starts has a
    # session of its own and does not.
    keeper = subprocess.Popen(
        command(Worker.NODE_AGENT),
        env=os.environ | {"SPELLTUNE_DATABASE_URL": database_url},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert keeper.stderr is not None
    last = collections.deque(keeper.stderr, maxlen=1)
    return f"exit code {keeper.wait()}: {''.join(last).strip()}"


def end_lost_hosts(nodes: Sequence[Mapping[str, Any]]) -> None:
    """End what trained on machines whose nodes are all dead."""
    hosts = {alive: {n["NodeManagerHostname"] for n in nodes if n["Alive"] is alive}
             for alive in (True, False)}  # fmt: skip
    if gone := hosts[False] - hosts[True]:
        reconciler.end_runs_of_lost_hosts(gone, "Ray lost its node")


if __name__ == "__main__":
    sys.exit(main())
