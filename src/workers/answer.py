"""Answers typed texts for a panel: `python -m src.workers.answer SLOT`.

Each line of standard input is a JSON object {"spellers": [...], "texts": [...]}. Each line of the
output is {"phase": what it does}, and at last {"answers": a list for each text} or {"refused": a
sentence}. Ends when its standard input closes (the panel exited), when a training begins on its
slot, where memory gets scarce, and when nothing was asked for TIMEOUTS.idle.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from src.errors import UserError, explain
from src.runs import readiness
from src.runs.answering import GAVE_WAY, NO_MEMORY
from src.runs.environment import leave
from src.runs.locks import holder
from src.runs.machine import free_memory, slot_lock
from src.runs.timeouts import TIMEOUTS
from src.training.questions import Speller

if TYPE_CHECKING:
    from src.training.answers import Spellers

Tell = Callable[[dict[str, Any]], None]


def main(slot: int) -> NoReturn:
    os.umask(0o077)
    tell = _output()
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    # In threads: torch gives them the time to end the process in the middle of an answer.
    for name, work in (("orders", partial(_listen, orders)), ("slot", partial(_give_way, slot))):
        threading.Thread(target=work, name=name, daemon=True).start()
    loaded: Spellers | None = None
    while True:
        try:
            order = orders.get(timeout=TIMEOUTS.idle)
        except queue.Empty:
            leave(0)
        try:
            if loaded is None:
                tell({"phase": "loading the libraries"})
                loaded = _loaded()
            tell({"answers": _answers(loaded, order, tell)})
        except (UserError, OSError) as error:
            tell({"refused": explain(error)})


def _output() -> Tell:
    """Writes lines to the panel. What libraries print goes to standard error instead."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(told: dict[str, Any]) -> None:
        print(json.dumps(told), file=lines, flush=True)

    return tell


def _listen(orders: "queue.SimpleQueue[dict[str, Any]]") -> NoReturn:
    for line in sys.stdin:
        orders.put(json.loads(line))
    leave(0)


def _give_way(slot: int) -> NoReturn:
    while True:
        if holder(slot_lock(slot)) is not None:
            leave(GAVE_WAY)
        if free_memory() < readiness.KEEP_BYTES:
            leave(NO_MEMORY)
        time.sleep(TIMEOUTS.poll)


def _loaded() -> "Spellers":
    from src.training.answers import Spellers
    from src.training.threads import set_threads

    set_threads()
    return Spellers()


def _answers(loaded: "Spellers", order: dict[str, Any], tell: Tell) -> list[list[dict[str, Any]]]:
    texts = order["texts"]
    columns = []
    for speller in map(Speller.of, order["spellers"]):
        tell({"phase": f"{speller.name} answers"})

        def progress(done: int, by: str = speller.name) -> None:
            tell({"phase": f"{by}: {done:,} of {len(texts):,} answered"})

        columns.append(map(asdict, loaded.ask(speller, texts, progress=progress)))
    return [list(row) for row in zip(*columns, strict=True)]


if __name__ == "__main__":
    main(int(sys.argv[1]))
