"""The process that answers a panel: it gives way to trainings, and its end is a sentence."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src import paths
from src.config import stored_config
from src.runs import answering, readiness, spawn
from src.runs.answering import Answering, NoAnswers
from src.runs.machine import slot_lock
from src.runs.timeouts import Timeouts
from src.training.questions import Speller
from tests.helpers.adapters import trained_run
from tests.helpers.live import alive, row

pytestmark = pytest.mark.usefixtures("home")


def speller(base: Path) -> Speller:
    run = row(trained_run(base / "gpt2", seed=1))
    return Speller(run.id, stored_config(run.config), paths.output_dir(run.id) / "final")


@pytest.fixture
def answers() -> Iterator[Answering]:
    found = Answering()
    yield found
    found._end()


@contextmanager
def taken_by_another(slot: int) -> Iterator[None]:
    """Another process holds the slot, as a trainer's supervisor does."""
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX);"
        "print(flush=True); sys.stdin.read()"
    )
    slot_lock(slot).parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", hold, str(slot_lock(slot))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout
        holder.stdout.readline()
        yield
        holder.stdin.close()


def pid_of(answers: Answering) -> int:
    assert answers._process is not None
    return answers._process._process.pid


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 120
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(pid)


def test_it_answers_again_and_gives_way_to_a_training(base: Path, answers: Answering) -> None:
    asked, told = speller(base), []
    ((first,), (second,)) = answers.ask([asked], ["apple", "tea"], told.append)
    assert (first.by, first.text, second.text) == (asked.name, "apple", "tea")
    assert first.expected == "a p p l e" and first.correct is False and first.likeliest[0].answer
    assert told[0] == "loading the libraries" and told[-1].endswith("2 of 2 answered")
    pid = pid_of(answers)
    (again,) = answers.ask([asked], ["apple"])
    assert pid_of(answers) == pid and again[0].predicted == first.predicted
    # What cannot be asked is a sentence, and the process stays.
    with pytest.raises(NoAnswers, match="reads 128; shorten it"):
        answers.ask([asked], ["x y " * 200])
    broken = Speller(asked.name, asked.config, Path("/nowhere"))
    with pytest.raises(NoAnswers, match="adapter_model.safetensors: no such file"):
        answers.ask([broken], ["tea"])
    assert pid_of(answers) == pid and alive(pid)
    with taken_by_another(0):
        wait_until_gone(pid)
        with pytest.raises(NoAnswers, match="a run trains here.*spelltune try RUN WORD"):
            answers.ask([asked], ["tea"])
    assert answers.ask([asked], ["tea"])[0][0].text == "tea"
    # The panel is gone, and so is its pipe.
    pid = pid_of(answers)
    assert answers._process is not None
    answers._process._process.stdin.close()  # type: ignore[union-attr]
    wait_until_gone(pid)


def test_it_ends_without_questions_and_the_next_one_starts_another(
    base: Path, answers: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"standby": 0, "idle": 0.2}))
    asked = speller(base)
    answers.ask([asked], ["tea"])
    pid = pid_of(answers)
    wait_until_gone(pid)
    assert answers._process is not None and answers._process._process.wait() == 0
    assert answers.ask([asked], ["tea"])[0][0].text == "tea"
    assert pid_of(answers) != pid


# --- without a model: a process that does as it is told ------------------------------------------


def stands_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Processes that answer run this code instead."""
    monkeypatch.setattr(spawn, "command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(spawn, "subprocess", subprocess)


def test_one_that_is_killed_in_the_middle_is_a_sentence(
    base: Path, answers: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_in(monkeypatch, "input(); import time; print('{\"phase\": \"x\"}', flush=True);"
              "time.sleep(600)")  # fmt: skip
    asked = speller(base)

    def kill(_: str) -> None:
        os.kill(pid_of(answers), signal.SIGKILL)

    with pytest.raises(NoAnswers, match="was ended; try again"):
        answers.ask([asked], ["tea"], kill)
    # The same by the button that stops it, from another thread.
    with pytest.raises(NoAnswers, match="was ended; try again"):
        answers.ask([asked], ["tea"], lambda _: threading.Thread(target=answers.stop).start())


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("input(); raise SystemExit(3)", "a run began to train"),
        ("input(); raise SystemExit(4)", "memory got scarce"),
        ("input(); raise RuntimeError('CUDA out of memory')", r"\(RuntimeError: CUDA out of mem"),
        ("raise ImportError('no torch')", r"failed \(ImportError: no torch\)"),
    ],
)
def test_one_that_fails_says_why(
    base: Path, answers: Answering, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    stands_in(monkeypatch, code)
    with pytest.raises(NoAnswers, match=told):
        answers.ask([speller(base)], ["tea"])


def test_one_that_hangs_is_ended(
    base: Path, answers: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_in(monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(answering, "TIMEOUTS", Timeouts(answer=0.2, kill=0.2))
    with pytest.raises(NoAnswers, match="no answer came in 0 s"):
        answers.ask([speller(base)], ["tea"])
    wait_until_gone(pid_of(answers))


def test_one_that_ends_at_once_for_want_of_questions_is_started_again_only_once(
    base: Path, answers: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_in(monkeypatch, "")
    with pytest.raises(NoAnswers, match="ended at once"):
        answers.ask([speller(base)], ["tea"])


def test_nothing_is_started_without_the_memory(
    base: Path, answers: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "free_memory", lambda: 2**30)
    with pytest.raises(NoAnswers, match="is not started: 1.0 GiB of memory are free"):
        answers.ask([speller(base)], ["tea"])
    assert answers._process is None
