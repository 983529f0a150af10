"""The process that answers typed texts for a panel, which itself never loads a model.

It has no slot, so no training waits for it: it ends by itself once one begins on its slot, where
memory gets scarce, or when nothing was asked for a while.
"""

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from src import store
from src.config import stored_config
from src.errors import UserError
from src.format import duration
from src.runs import readiness, spawn
from src.runs.attempts import adapter_folder
from src.runs.environment import slot_environment
from src.runs.locks import holder
from src.runs.machine import slot_count, slot_lock
from src.runs.timeouts import TIMEOUTS
from src.training.questions import MAX_SPELLERS, Answer, QuestionError, Speller

# Exit codes of the process, where 0 is that nothing was asked any more.
GAVE_WAY, NO_MEMORY = 3, 4
COMMAND = "the command line answers beside it: spelltune try RUN WORD"


class NoAnswers(UserError):
    """No answers came: one sentence that says why and what to do."""


def spellers_of(names: Sequence[str]) -> list[Speller]:
    """The runs and checkpoints of these names, each once. UnknownRun where there is none."""
    found: dict[str, Speller] = {}
    with store.reading() as session:
        for run, step in (store.find_checkpoint(session, name) for name in names):
            known = run.id if step is None else f"{run.id}@{step}"
            adapter = adapter_folder(run, step)
            found.setdefault(known, Speller(known, stored_config(run.config), adapter))
    if len(found) > MAX_SPELLERS:
        raise QuestionError(
            f"{len(found)} adapters are too many to ask at once: up to {MAX_SPELLERS}"
        )
    return list(found.values())


def document(
    spellers: Sequence[Speller], rows: Sequence[Sequence[Answer]], added: int | None
) -> dict[str, Any]:
    """The document that `spelltune try --json` prints; `added` is how many questions a file got."""
    return {
        "models": [_about(one) for one in spellers],
        "words": [{"text": row[0].text, "answers": [_answer(one) for one in row]} for row in rows],
        "added": added,
    }


def _about(speller: Speller) -> dict[str, Any]:
    adapter = str(speller.adapter) if speller.adapter else None
    return {"name": speller.name, "model": speller.config.model.name, "adapter": adapter}


def _answer(answer: Answer) -> dict[str, Any]:
    own = asdict(answer)
    del own["text"]  # stands above the answers to it
    return own | {"likeliest": [one._asdict() for one in answer.likeliest]}


class Answering:
    """The process that answers for this panel, started when it is needed."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._process: _Process | None = None

    def ask(
        self,
        spellers: Sequence[Speller],
        texts: Sequence[str],
        progress: Callable[[str], None] = lambda told: None,
    ) -> list[list[Answer]]:
        """For each text the answers of all spellers. NoAnswers or another UserError says why there
        are none; a question waits for the one before it."""
        order = {"spellers": [one.document() for one in spellers], "texts": list(texts)}
        with self._asking:
            try:
                # It may end for want of questions in the moment of this one.
                found = self._ask(order, progress) or self._ask(order, progress)
            except NoAnswers:
                raise
            except BaseException:  # of whoever waits: what comes later would be taken for his
                self._end()
                raise
            if found is None:
                raise NoAnswers("the process that answers ended at once; try again")
            return found

    def _ask(
        self, order: dict[str, Any], progress: Callable[[str], None]
    ) -> list[list[Answer]] | None:
        """The answers; None from a process that ended because nothing was asked."""
        process = self._process
        if process is None or not process.is_usable():
            self._end()
            self._process = process = _Process(_free_slot())
        for told in process.ask(order):
            if "phase" in told:
                progress(told["phase"])
            elif "refused" in told:
                raise NoAnswers(told["refused"])
            else:
                return [[Answer.of(one) for one in row] for row in told["answers"]]
        code, reason = process.end()
        if code == 0:
            return None
        raise NoAnswers(_why_ended(code, reason))

    def stop(self) -> None:
        """Kill the process. Whoever waits for an answer, in another thread, is told so."""
        if (process := self._process) is not None:
            process.kill()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


class _Process:
    """One such process, from the outside."""

    def __init__(self, slot: int):
        self.slot = slot
        self._errors: IO[bytes] = os.fdopen(os.memfd_create("errors"), "r+b")
        self._process = spawn.start_attached(
            spawn.Worker.ANSWER,
            str(slot),
            output=subprocess.PIPE,
            errors=self._errors,
            **slot_environment(slot),
        )

    def is_usable(self) -> bool:
        return self._process.poll() is None and holder(slot_lock(self.slot)) is None

    def ask(self, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield each line that the process tells about an order. NoAnswers where it tells nothing
        for TIMEOUTS.answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # it is gone
            return
        output, rest = self._process.stdout.fileno(), b""
        poll = select.poll()  # select takes no number above 1,023
        poll.register(output, select.POLLIN)
        deadline = time.monotonic() + TIMEOUTS.answer
        while poll.poll(max(0, deadline - time.monotonic()) * 1000):
            if not (read := os.read(output, 2**16)):
                return
            *lines, rest = (rest + read).split(b"\n")
            if lines:
                deadline = time.monotonic() + TIMEOUTS.answer
            yield from map(json.loads, lines)
        self.kill()
        waited = duration(TIMEOUTS.answer)
        raise NoAnswers(f"no answer came in {waited}; ask for fewer words, or try again")

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> tuple[int, str]:
        """Have the process end, unless it has; its exit code and its last words."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not written yet
                if stream is not None:
                    stream.close()
        try:
            code = self._process.wait(TIMEOUTS.kill)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        if self._errors.closed:
            return code, ""
        with self._errors as errors:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        return code, lines[-1] if lines else ""


def _free_slot() -> int:
    """A slot on which nobody trains and that has the memory. NoAnswers where there is none."""
    free = [slot for slot in range(slot_count()) if holder(slot_lock(slot)) is None]
    if not free:
        raise NoAnswers(f"a run trains here, and answers would slow it down; {COMMAND}")
    why = [readiness.why_not(slot) for slot in free]
    if None not in why:
        raise NoAnswers(f"a process that answers is not started: {why[0]}")
    return free[why.index(None)]


def _why_ended(code: int, reason: str) -> str:
    if code == GAVE_WAY:
        return f"a run began to train, to which the answers gave way; {COMMAND}"
    if code == NO_MEMORY:
        return "memory got scarce, so the answers ended; ask for fewer words, or free some memory"
    if code < 0:
        return "the process that answers was ended; try again"
    return f"the process that answers failed ({reason or f'exit code {code}'}); try again"
