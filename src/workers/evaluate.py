"""Evaluates for a server that loads no model: `python -m src.workers.evaluate`.

The one line of standard input is {"folder": from which names of files count, "order": an order of
src/analysis/evaluating.py}. Each line of the output is {"phase": what it does}, and at last
{"done": the document} or {"refused": a sentence}. Ends when its standard input closes: nobody waits
for it.
"""

import json
import os
import sys
import threading
from typing import Any, NoReturn

from src import store
from src.errors import UserError, explain
from src.runs.environment import leave


def main() -> NoReturn:
    os.umask(0o077)
    # What libraries print goes to standard error.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(told: dict[str, Any]) -> None:
        print(store.to_json(told).replace("\n", " "), file=lines, flush=True)

    asked = json.loads(sys.stdin.readline())
    os.chdir(asked["folder"])
    # In a thread: torch gives it the time to end the process in the middle of an evaluation.
    threading.Thread(target=_end_with_the_caller, name="caller", daemon=True).start()
    tell({"phase": "loading the libraries"})
    try:
        from src.analysis.evaluating import Order, evaluate

        found = evaluate(
            Order(**asked["order"]), lambda done: tell({"phase": f"{done:,} words scored"})
        )
        tell({"done": found.document()})
    except (UserError, OSError) as error:
        tell({"refused": explain(error)})
    leave(0)


def _end_with_the_caller() -> NoReturn:
    sys.stdin.read()
    leave(0)


if __name__ == "__main__":
    main()
