"""Every waiting time of supervision, in one place: `TIMEOUTS`."""

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """In seconds. `SPELLTUNE_TIMEOUTS`, a JSON object such as {"stop": 5}, changes some of them;
    a child process inherits it."""

    poll: float = 0.2  # between two looks of a supervisor at its trainer
    heartbeat: float = 3.0  # between two signs of life of a supervisor
    stale: float = 15.0  # without one for so long, the page says so
    stop: float = 60.0  # from a stop to SIGTERM: the trainer may be writing a checkpoint
    terminate: float = 20.0  # from SIGTERM to SIGKILL
    start: float = 30.0  # a run with a slot that no supervisor claims by then gets one again
    lease: float = 60.0  # another machine may end a run only after so long without a heartbeat
    sweep: float = 1.0  # between two looks of a sweep's driver at its trials
    ray: float = 40.0  # for the Ray cluster to answer a launch: longer than it needs to refuse one
    reconcile: float = 3.0  # between two rounds of a living panel, supervisor or driver
    write: float = 600.0  # how long a supervisor tries to write an outcome to a locked run table


TIMEOUTS = Timeouts(**json.loads(os.environ.get("SPELLTUNE_TIMEOUTS") or "{}"))
