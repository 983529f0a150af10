"""Processes that describe the trainer's wrong answers: its own threads would hold Python's lock"""

import json
import os
import queue
import subprocess
from collections.abc import Sequence

from src.analysis.kinds import Answer, Description, describe_each
from src.runs import spawn

CORES_PER_PROCESS = 4  # of the machine; with fewer cores there is none
MAX_PROCESSES = 4
WORTH_SENDING = 50  # answers: fewer are described in the time of a message


class KindsPool:
    """Describes answers in processes of its own where cores are free for them, else on the thread
    that asks. A process that is gone is as if it had never been."""

    def __init__(self, processes: int | None = None):
        if processes is None:
            processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0)) // CORES_PER_PROCESS)
        # None: not started yet, because most trainings have few answers. The last one that was busy
        # is asked first.
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def describe(self, answers: Sequence[Answer]) -> Sequence[Description]:
        """`describe_each`; any thread may call it."""
        if len(answers) < WORTH_SENDING:
            return describe_each(answers)
        try:
            process = self._free.get_nowait()
        except queue.Empty:
            return describe_each(answers)
        try:
            process = process or self._start()
            found = self._ask(process, answers)
        except (OSError, ValueError):  # it was killed, or could not start: none in its place
            if process is not None:
                process.kill()
                process.wait()
            return describe_each(answers)
        self._free.put(process)
        return found

    @staticmethod
    def _start() -> "subprocess.Popen[bytes]":
        return spawn.start_attached(
            spawn.Worker.KINDS, output=subprocess.PIPE, errors=subprocess.DEVNULL
        )

    @staticmethod
    def _ask(process: "subprocess.Popen[bytes]", answers: Sequence[Answer]) -> list[Description]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(answers).encode() + b"\n")
        process.stdin.flush()
        found = [Description(*one) for one in json.loads(process.stdout.readline())]
        if len(found) != len(answers):
            raise ValueError("an answer of another question")
        return found
