"""Runs an agent on every node of a Ray cluster: `python -m src.workers.ray_nodes`.

All machines share the run table, and each starts queued runs in its own slots, under its own
supervisors. So Ray has one task per node, which runs `src.workers.node_agent` there, and says which
nodes are lost. A process of its own because Ray exits the one that loses its cluster.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from src.runs import reconciler
from src.runs.checks import RAY_NOT_REACHED
from src.runs.environment import parent_has_exited
from src.runs.timeouts import TIMEOUTS
from src.store import MAX_FAILED_STARTS, database_url


def main() -> int:
    import ray  # an optional dependency, and only in this process

    try:
        address = os.environ.get("RAY_ADDRESS") or "auto"
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        print(f"warning: {RAY_NOT_REACHED}: {error}", file=sys.stderr)
        return 1
    if "--check" in sys.argv:
        return 0
    tasks: dict[str, Any] = {}
    failed_starts: dict[str, int] = {}
    while not parent_has_exited(TIMEOUTS.reconcile):
        nodes = ray.nodes()
        start_agents(nodes, tasks, failed_starts)
        try:
            end_lost_hosts(nodes)
        except SQLAlchemyError as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)
    return 0


def start_agents(
    nodes: Sequence[Mapping[str, Any]], tasks: dict[str, Any], failed_starts: dict[str, int]
) -> None:
    """Start an agent on each live node without one, but where MAX_FAILED_STARTS in a row died
    before their first round. Node ids map to running tasks, and to the number of such starts."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Slots account for the cores and GPUs of a node; to Ray the agent takes none.
    task = ray.remote(num_cpus=0, max_retries=0)(run_agent)
    if tasks:
        for ended in ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=0)[0]:
            node_id = next(node for node, running in tasks.items() if running == ended)
            try:
                came_up, cause = ray.get(ended)
            except ray.exceptions.RayError as error:  # its node or Ray, not the agent
                came_up, cause = True, str(error).partition("\n")[0]
            failed_starts[node_id] = 0 if came_up else failed_starts.get(node_id, 0) + 1
            left = failed_starts[node_id] >= MAX_FAILED_STARTS
            what = f"did not start, {MAX_FAILED_STARTS} times; it is left out" if left else "ended"
            print(
                f"warning: the agent of node {node_id} {what}: {cause}", file=sys.stderr, flush=True
            )
            del tasks[node_id]
    for node in nodes:
        left = failed_starts.get(node["NodeID"], 0) >= MAX_FAILED_STARTS
        if node["Alive"] and node["NodeID"] not in tasks and not left:
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            url = database_url().render_as_string(hide_password=False)
            started = task.options(scheduling_strategy=affinity).remote(url)
            tasks[node["NodeID"]] = started


def run_agent(url: str) -> tuple[bool, str]:
    """Run an agent until it ends; whether it came through its first round, and its exit code with
    the last line of standard error.

    Runs on a node, where Ray unpickles this function by value, without this module's globals. The
    URL may hold a password and Ray logs runtime environments, so it is an argument.
    """
    import collections
    import os
    import subprocess

    from src.runs.spawn import Worker, command

    # Ray kills the children of its workers, so the agent dies with its task. What it starts has a
    # session of its own and lives on.
    agent = subprocess.Popen(
        command(Worker.NODE_AGENT),
        env=os.environ | {"SPELLTUNE_DATABASE_URL": url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert agent.stderr is not None and agent.stdout is not None
    last = collections.deque(agent.stderr, maxlen=1)
    came_up = bool(agent.stdout.read())
    return came_up, f"exit code {agent.wait()}: {''.join(last).strip()}"


def end_lost_hosts(nodes: Sequence[Mapping[str, Any]]) -> None:
    """End the runs of machines whose nodes are all dead."""
    hosts = {alive: {n["NodeManagerHostname"] for n in nodes if n["Alive"] is alive}
             for alive in (True, False)}  # fmt: skip
    if gone := hosts[False] - hosts[True]:
        reconciler.end_runs_of_lost_hosts(gone, "Ray lost its node")


if __name__ == "__main__":
    sys.exit(main())
