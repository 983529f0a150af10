"""Reconciles once: `python -m src.workers.reconcile`, for a trainer that ends unsupervised."""

import os

from src.runs import reconciler
from src.runs.timeouts import TIMEOUTS


def main() -> None:
    os.umask(0o077)
    # Another process that is at it may have looked at the run before it ended.
    reconciler.reconcile(wait=TIMEOUTS.heartbeat)


if __name__ == "__main__":
    main()
