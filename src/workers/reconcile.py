"""Reconciles once: `python -m src.workers.reconcile`, for a trainer that ends unsupervised."""

import os

from src.runs import reconciler


def main() -> None:
    os.umask(0o077)
    reconciler.reconcile()


if __name__ == "__main__":
    main()
