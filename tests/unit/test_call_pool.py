"""Calls in other processes: what they return and raise is as if called here, whatever becomes of
them."""

import errno
import operator
import os
import random
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors import SafetensorError

from src.analysis.kinds import describe
from src.runs import termination
from src.training import saving
from src.workers import call_pool
from src.workers.call_pool import CallPool
from tests.helpers.calls import (
    make_unreadable,
    pid_after,
    raise_from_full_disk,
    raise_strange,
    save_tensors,
)


def answers(seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    some = [("".join(draw.choices("abeéſ ", k=5)), "".join(draw.choices("abe\n", k=5)))
            for _ in range(100)]  # fmt: skip
    return [*some, ("\ud83d half a character", "é"), ("", "x")]


def callers() -> list[psutil.Process]:
    """The processes of this one that do calls."""
    found = []
    for one in psutil.Process(os.getpid()).children():
        with suppress(psutil.Error):  # it is gone, and nobody has waited for it
            if one.cmdline()[1:3] == ["-m", "src.workers.calls"]:
                found.append(one)
    return found


def end_callers() -> None:
    for one in callers():
        one.kill()
        one.wait(60)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPELLTUNE_TOKEN", "of-a-trainer")
    end_callers()  # of another test of this process
    yield CallPool(processes=2)
    end_callers()


def test_a_process_does_a_call_as_this_one_and_goes_with_its_trainer(pool: CallPool) -> None:
    for seed in range(2):
        assert pool.call(describe, answers(seed)) == describe(answers(seed))
    numbers = np.arange(1_000_000, dtype=np.float32)[::2]
    assert np.array_equal(pool.call(operator.neg, numbers), -numbers)
    (process,) = callers()  # the one that was busy last is asked first
    assert process.environ()["SPELLTUNE_TOKEN"] == "of-a-trainer"
    process.send_signal(signal.SIGTERM)  # as its trainer's group gets it
    assert pool.call(os.getpid) == process.pid
    caller = pool._free.get()
    assert caller is not None
    caller._channel.close()
    assert process.wait(60) in (0, None)


def test_an_error_is_raised_here_with_what_it_came_from(pool: CallPool) -> None:
    with pytest.raises(KeyError, match="b"):
        pool.call(operator.getitem, {"a": 1}, "b")
    with pytest.raises(FileNotFoundError) as missing:
        pool.call(os.listdir, "/nowhere/at/all")
    assert missing.value.errno == errno.ENOENT
    with pytest.raises(SafetensorError) as refused:
        pool.call(save_tensors, "/nowhere/at/all")
    assert saving.is_write_error(refused.value)  # type: ignore[arg-type]
    with pytest.raises(call_pool.CallFailed, match="Strange: so") as strange:
        pool.call(raise_strange, "so")
    assert saving.why_not_written(strange.value) == str(OSError(errno.ENOSPC, os.strerror(28)))
    assert not saving.is_write_error(strange.value)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):  # of this process: it cannot be sent
        pool.call(lambda: None)
    assert len(callers()) == 1 and pool.processes == 2


def test_a_call_whose_answer_cannot_be_read_is_done_here(pool: CallPool) -> None:
    """Whatever reading it raises. A process that nobody asks any more would be waited for."""
    found = pool.call(make_unreadable)
    assert found.pid == os.getpid() and pool.processes == 1
    for _ in range(2):
        found = pool.call(make_unreadable)
    assert found.pid == os.getpid() and pool.processes == 0 and not callers()


def test_a_signal_to_the_group_of_a_trainer_ends_no_call(pool: CallPool) -> None:
    pid = pool.call(os.getpid)
    for number in termination.SIGNALS:
        os.kill(pid, number)
        assert pool.call(os.getpid) == pid


def test_the_reason_of_a_checkpoint_that_was_not_written_comes_back(
    pool: CallPool, tmp_path: Path
) -> None:
    """The operating system's, also where a library's error stands for it."""
    write = partial(saving.write_checkpoint, tmp_path, 3, {}, raise_from_full_disk)
    assert pool.call(write) == write() == f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"


def test_a_call_whose_process_is_gone_is_done_here(
    pool: CallPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.call(os.getpid) != os.getpid()

    def cannot(*given: object, **named: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(call_pool.spawn, "start_attached", cannot)
    (process,) = callers()
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(pool.call(pid_after, 5.0)))
    waiting.start()
    while pool._free.qsize() > 1:  # the one that runs has the call
        time.sleep(0.01)
    process.kill()
    waiting.join(60)
    assert found == [os.getpid()]  # done again, here
    for _ in range(3):  # the second one cannot start
        assert pool.call(os.getpid) == os.getpid()
    assert pool.processes == 0


def test_trainers_that_share_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_pool, "free_memory", lambda: 2**40)
    for threads, processes in (("3", 0), ("4", 1), ("11", 2), ("64", 4)):
        monkeypatch.setenv("SPELLTUNE_THREADS", threads)
        assert CallPool().processes == processes
