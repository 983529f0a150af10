"""The `spelltune` command, one file per group of commands; main.py is their table of contents.

With --json a command prints one JSON document on standard output and nothing else there. Packages
that take long to load (pandas, Optuna, torch) are imported inside the commands that need them, so
that the others start at once.
"""

from src.cli.main import app

__all__ = ["app"]
