"""Evaluations for a server that loads no model: each runs in a process that ends with its call"""

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from src.analysis.evaluating import CannotEvaluate, Order
from src.mcp import caller
from src.runs import spawn
from src.runs.timeouts import TIMEOUTS


def evaluate(order: Order) -> dict[str, Any]:
    """The document of an evaluation. CannotEvaluate with the sentence of its process."""
    order.check()
    with tempfile.TemporaryFile() as errors:
        process = spawn.start_attached(spawn.Worker.EVALUATE, output=subprocess.PIPE, errors=errors)
        try:
            for told in _told(process, order):
                if "done" in told:
                    document: dict[str, Any] = told["done"]
                    return document
                if "refused" in told:
                    raise CannotEvaluate(told["refused"])
                caller.progress(told["phase"])
        finally:
            process.kill()
            code = process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not written yet
                    if stream is not None:
                        stream.close()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    why = lines[-1] if lines else f"exit code {code}"
    raise CannotEvaluate(f"the process that evaluates ended without a result: {why}")


def _told(process: "subprocess.Popen[bytes]", order: Order) -> Iterator[dict[str, Any]]:
    """Yield each line that the process tells of its order. NobodyWaits once nobody does."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):  # it is gone, and its standard error says why
        # Names of files count from the folder of this process.
        asked = {"folder": os.getcwd(), "order": order.document()}
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
    output, rest = process.stdout.fileno(), b""
    poll = select.poll()  # select takes no number above 1,023
    poll.register(output, select.POLLIN)
    while True:
        caller.check_waiting()
        if not poll.poll(TIMEOUTS.poll * 1000):
            continue
        if not (read := os.read(output, 2**16)):
            return
        *lines, rest = (rest + read).split(b"\n")
        yield from map(json.loads, lines)
