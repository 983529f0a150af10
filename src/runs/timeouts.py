"""Every interval and timeout of supervision: `TIMEOUTS`."""

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """In seconds. `SPELLTUNE_TIMEOUTS`, a JSON object such as {"stop": 5}, changes some of them;
    a child process inherits it."""

    poll: float = 0.2  # interval at which a supervisor polls its trainer
    heartbeat: float = 3.0  # interval at which a supervisor writes its heartbeat
    stale: float = 15.0  # age of a heartbeat from which a run counts as silent
    stop: float = 60.0  # from a stop to SIGTERM: the trainer may be writing a checkpoint
    terminate: float = 20.0  # from SIGTERM to SIGKILL
    kill: float = 5.0  # from SIGKILL until a process that is still there is left to itself
    start: float = 30.0  # a run that its supervisor has not claimed by then gets a slot again
    standby: float = (
        3.0  # for a standby trainer to take a run, before it is killed; 0: none is used
    )
    lease: float = 60.0  # age of a sign of life from which another process may take over
    sweep: float = 1.0  # interval at which a sweep driver polls its trials
    ray: float = 40.0  # for the Ray cluster to answer a launch: longer than it needs to refuse one
    reconcile: float = 3.0  # interval of reconciling in a panel, supervisor, driver or agent
    answer: float = 120.0  # for the process that answers typed texts to tell anything
    call: float = 120.0  # for a tool of `spelltune mcp` to answer
    evaluation: float = 3600.0  # for one that evaluates or asks adapters
    idle: float = 600.0  # without a question, after which that process ends
    gather: float = 5.0  # without another notice, before those that are there are told together
    notify: float = 20.0  # for a service to take a message
    notify_again: float = 5.0  # before a message is tried again; four times as long each time
    page: float = 30.0  # after a page told that it is in front of a reader, it counts as read
    countdown: float = 120.0  # in which a person can keep an idle machine on
    command: float = 600.0  # for the command of an idle machine to end
    write: float = 600.0  # how long a supervisor tries to write an outcome to a locked run table


TIMEOUTS = Timeouts(**json.loads(os.environ.get("SPELLTUNE_TIMEOUTS") or "{}"))
