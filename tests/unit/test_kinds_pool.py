"""Descriptions of answers by processes: the same as those of this one, whatever becomes of them."""

import os
import random
import subprocess

import psutil
import pytest

from src.analysis.kinds import describe_each
from src.workers import kinds_pool
from src.workers.kinds_pool import WORTH_SENDING, KindsPool


def answers(seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    some = [("".join(draw.choices("abeéſ ", k=5)), "".join(draw.choices("abe\n", k=5)))
            for _ in range(2 * WORTH_SENDING)]  # fmt: skip
    return [*some, ("\ud83d half a character", "é"), ("", "x")]


def test_a_process_describes_as_this_one_does_and_goes_with_it() -> None:
    started = []

    class Pool(KindsPool):
        @staticmethod
        def _start() -> "subprocess.Popen[bytes]":
            started.append(KindsPool._start())
            return started[-1]

    pool = Pool(processes=1)
    for seed in range(2):
        assert pool.describe(answers(seed)) == describe_each(answers(seed))
    (process,) = started
    assert "SPELLTUNE_TOKEN" not in psutil.Process(process.pid).environ()
    assert pool.describe(answers(2)[:3]) == describe_each(answers(2)[:3])  # too few to send
    process.stdin.close()
    assert process.wait(60) == 0


def test_a_process_that_was_killed_or_cannot_start_costs_no_description(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = KindsPool(processes=2)
    assert pool.describe(answers(3)) == describe_each(answers(3))
    children = psutil.Process(os.getpid()).children()
    found = [one for one in children if one.cmdline()[1:3] == ["-m", "src.workers.kinds"]]
    assert len(found) == 1

    def cannot(*given: object, **named: object) -> None:
        raise OSError("no more processes")

    # Then the other one is started.
    monkeypatch.setattr(kinds_pool.spawn, "start_attached", cannot)
    found[0].kill()
    found[0].wait(60)
    for seed in (4, 5, 6):
        assert pool.describe(answers(seed)) == describe_each(answers(seed))
