"""Reconciles on a node of a Ray cluster: `python -m src.workers.node_agent`.

Starts queued runs and corrects statuses there, as a panel does. Exits when its standard input
closes; the runs that it started go on.
"""

import os
import sys

from sqlalchemy.exc import SQLAlchemyError

from src.runs import reconciler
from src.runs.environment import parent_has_exited
from src.runs.timeouts import TIMEOUTS


def main() -> None:
    os.umask(0o077)
    came_up = False
    while not parent_has_exited(TIMEOUTS.reconcile):
        try:
            reconciler.reconcile()
        except (SQLAlchemyError, OSError) as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)
        if not came_up:  # as ray_nodes reads it
            came_up = True
            print("came through its first round", flush=True)


if __name__ == "__main__":
    main()
