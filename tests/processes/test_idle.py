"""A machine on which nothing goes on: its command runs once, on real clocks and in real shells."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src import paths, store
from src.config import change_machine, load_config
from src.runs import idle, launcher, notifications
from src.runs.idle import Stage
from src.runs.locks import FileLock, holder
from src.runs.machine import slot_lock
from src.store.tables import NoticeKind
from tests.helpers.live import command, ended, kill_all, queued, taken_slots, training, wait
from tests.helpers.receiver import receiving, takes

QUICK = {"standby": 0, "gather": 0.2, "countdown": 2, "page": 3, "reconcile": 0.3}
AFTER = 1.0  # seconds


@pytest.fixture(autouse=True)
def quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps(QUICK))
    yield
    kill_all(home)


def watched(home: Path, then: str = "date +%s.%N >> ran") -> Path:
    """The file to which the command of the idle machine adds the time."""
    change_machine({"when_idle.after_minutes": f"{AFTER / 60:.4f}", "when_idle.command": then})
    return home / "ran"


def until(seen: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, (idle.read(), idle.busy())
        time.sleep(0.05)


def at(stage: Stage) -> Callable[[], bool]:
    return lambda: (found := idle.read()) is not None and found.stage == stage


def kinds() -> list[str]:
    with store.reading() as session:
        return [one.kind for one in store.recent(session, after=0, limit=100)]


def test_the_command_runs_once_after_the_last_run_and_people_are_told_before(
    home: Path, small: dict[str, Any]
) -> None:
    with receiving(takes) as receiver:
        notifications.add(f"webhook+http://{receiver.host}/")
        ran = watched(home)
        # Nobody has a panel open: the launch starts the watcher.
        command("launch", *(f"--set={k}={json.dumps(v)}" for k, v in small.items()))
        with store.reading() as session:
            run_id = store.list_runs(session)[0].id
        wait(run_id, training)
        until(lambda: holder(paths.idle_lock()) is not None)
        time.sleep(AFTER + QUICK["countdown"] + 1)
        assert not ran.exists() and "trains" in (idle.busy() or "")
        launcher.stop(run_id)
        done = wait(run_id, ended)
        until(lambda: ran.exists() and ran.read_text().endswith("\n"))
        (first,) = map(float, ran.read_text().split())
        assert first - (done.ended_at or 0) > AFTER + QUICK["countdown"]
        until(lambda: [one["event"] for one in receiver.taken] == ["stopped", "idle"])
        told = receiver.taken[1]
        assert first - told["at"] >= QUICK["countdown"] - 1
        assert "`date +%s.%N >> ran` runs in 2 s" in told["text"]
        # Once: also where the watcher dies and another one comes.
        os.kill(holder(paths.idle_lock()) or 0, signal.SIGKILL)
        until(lambda: holder(paths.idle_lock()) is None)
        idle.keep_watching()
        until(lambda: holder(paths.idle_lock()) is not None)
        time.sleep(AFTER + QUICK["countdown"] + 1)
        assert at(Stage.RAN)()
    assert len(ran.read_text().split()) == 1


def test_whoever_keeps_it_on_a_queued_run_and_a_page_in_front_stop_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps(QUICK | {"countdown": 5}))
    ran = watched(home)
    idle.keep_watching()
    until(at(Stage.COUNTDOWN))
    assert (found := idle.countdown()) is not None and found.command == "date +%s.%N >> ran"
    idle.keep_on()
    assert idle.countdown() is None
    until(lambda: not at(Stage.COUNTDOWN)())
    until(at(Stage.COUNTDOWN))
    with taken_slots():
        run_id = queued({"name": "waits"})
        until(at(Stage.BUSY))
        assert idle.busy() == "a run is queued"
        idle.page_is_seen()
        launcher.stop(run_id)
    # As long as a page is in front of a reader it is not idle.
    end = time.monotonic() + AFTER + 1.5
    while time.monotonic() < end:
        idle.page_is_seen()
        assert not at(Stage.COUNTDOWN)()
        time.sleep(0.1)
    until(at(Stage.COUNTDOWN))
    assert not ran.exists()
    # In the countdown the page of who looks at it does not count.
    while not at(Stage.RAN)():
        idle.page_is_seen()
        assert at(Stage.COUNTDOWN)() or at(Stage.RAN)()
        time.sleep(0.1)
    until(ran.exists)
    assert "kept on: `date" in command("machine", "keep-on").stdout


def test_a_command_that_fails_is_told_and_without_one_nobody_watches(home: Path) -> None:
    watched(home, "echo no such machine; exit 3")
    idle.keep_watching()
    until(lambda: NoticeKind.IDLE_FAILED in kinds())
    assert kinds() == [NoticeKind.IDLE, NoticeKind.IDLE_FAILED]
    found = idle.read()
    assert found is not None and "ended with exit code 3" in (found.problem or "")
    assert paths.idle_log().read_text() == "no such machine\n"
    assert paths.idle_log().stat().st_mode & 0o777 == 0o600
    change_machine({"when_idle.command": "null"})
    until(lambda: holder(paths.idle_lock()) is None)
    idle.keep_watching()
    assert idle.settings() is None and holder(paths.idle_lock()) is None


def test_what_holds_a_slot_is_something_that_goes_on(home: Path) -> None:
    assert idle.busy() is None
    lock = FileLock(slot_lock(0))
    assert lock.acquire() and idle.busy() == "a process holds slot-0"
    lock.release()
    assert idle.busy() is None
    with taken_slots():
        launcher.hold([queued({"name": "held"})], held=True)
    assert idle.busy() is None  # it waits for a person, maybe for days


def test_a_command_that_somebody_waits_for_is_something_that_goes_on(home: Path) -> None:
    line = [sys.executable, "-m", "src.cli", "notify", "add"]  # it waits for its standard input
    waiting = subprocess.Popen(line, cwd=paths.ROOT, stdin=subprocess.PIPE)
    until(lambda: idle.busy() == "`spelltune notify` runs")
    waiting.kill()
    waiting.wait(60)
    assert idle.busy() is None
    # A relative home counts from the folder in which the command was started.
    env = os.environ | {"SPELLTUNE_HOME": home.name, "PYTHONPATH": str(paths.ROOT)}
    waiting = subprocess.Popen(line, cwd=home.parent, env=env, stdin=subprocess.PIPE)
    until(lambda: idle.busy() == "`spelltune notify` runs")
    waiting.kill()
    waiting.wait(60)
    assert idle.busy() is None


def test_the_panel_cannot_change_the_command(home: Path) -> None:
    from streamlit.testing.v1 import AppTest

    watched(home, "echo <img src=x onerror=alert(1)>")
    page = AppTest.from_file(str(paths.ROOT / "pages/machine.py"), default_timeout=60).run()
    assert not page.exception
    assert "when_idle" not in str([one.proto for one in page.text_input])
    shown = "".join(str(one.proto) for one in page.get("html"))
    assert "echo &lt;img src=x" in shown and "<img" not in shown


def test_a_config_of_a_run_has_nothing_of_it() -> None:
    assert "when_idle" not in json.dumps(load_config().model_dump())
