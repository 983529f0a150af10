"""Measures what a run or a sweep takes: `python -m src.workers.measure` reads {"run": CONFIG} or
{"sweep": TEXT} from standard input and keeps each measurement for src/runs/estimate.py.

A process of its own because POSIX locks belong to a process: the panel's probes of the slot locks
would release the slot in which it measures.
"""

import json
import os
import sys

from src.config import parse_config
from src.errors import UserError


def main() -> int:
    os.umask(0o077)
    asked = json.load(sys.stdin)
    try:
        if "run" in asked:
            from src.runs.estimate import measure

            measure(parse_config(asked["run"]))
        else:
            from src.sweeps.estimate import measure_missing
            from src.sweeps.file import parse_sweep

            measure_missing(parse_sweep(asked["sweep"], "sweep"))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
