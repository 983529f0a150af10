"""People are told what ended: by real processes to real servers, of which some hang or fail."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlmodel import select

from src import paths, store
from src.config import change_machine, load_config
from src.runs import launcher, notifications
from src.runs.environment import NOTIFY_URLS
from src.runs.locks import holder
from src.runs.machine import slot_lock
from src.store.outcome import EndReason, Outcome
from src.store.tables import Notice, NoticeKind, Status, SweepStatus
from tests.helpers.live import command, ended, left_over, row, training, wait
from tests.helpers.receiver import Receiver, fails_first, hangs, receiving, takes
from tests.helpers.store import fill_run, fill_sweep
from tests.helpers.sweeps import TINY

CANARY = "canary-2b9d44e1"
QUICK = {"standby": 0, "gather": 0.5, "notify": 4, "notify_again": 0.2}


@pytest.fixture(autouse=True)
def quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps(QUICK))


def notices() -> list[Notice]:
    with store.reading() as session:
        query = select(Notice).where(Notice.kind != NoticeKind.SET_UP).order_by(Notice.id)
        return list(session.exec(query).all())


def until(seen: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, [one.model_dump() for one in notices()]
        time.sleep(0.05)


def all_told() -> bool:
    return bool(notices()) and all(one.told_at for one in notices())


def sender() -> int | None:
    return holder(paths.notify_lock())


def ended_runs(count: int) -> list[str]:
    """Runs that come to their ends one after the other, as their supervisors write it."""
    ids = [fill_run(status=Status.RUNNING, steps=20, name=f"run{n}") for n in range(count)]
    for run_id in ids:
        with store.writing() as session:
            run = store.find(session, run_id)
            assert store.end(session, run, Outcome(EndReason.COMPLETED, None, 20, 20))
    return ids


def test_a_training_ends_on_time_and_is_told_by_all_that_take_it(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        receiving(hangs) as hung, receiving(fails_first) as flaky, receiving(takes) as quick,
        socket.socket() as nobody,
    ):  # fmt: skip
        nobody.bind(("127.0.0.1", 0))  # and does not listen: it refuses
        refused = f"127.0.0.1:{nobody.getsockname()[1]}"
        # One from the environment, the others from the home; Apprise's own and webhooks.
        monkeypatch.setenv(NOTIFY_URLS, f"webhook+http://me:{CANARY}@{flaky.host}/{CANARY}")
        notifications.add(f"webhook+http://{hung.host}/hook?key={CANARY}")
        notifications.add(f"json://me:{CANARY}@{quick.host}/{CANARY}/")
        notifications.add(f"webhook+http://{refused}/{CANARY}")
        run_id = launcher.launch(load_config(overrides=small | {"name": "told"}))
        run = wait(run_id, training)
        assert NOTIFY_URLS in psutil.Process(run.supervisor_pid or 0).environ()
        assert NOTIFY_URLS not in psutil.Process(run.trainer_pid or 0).environ()
        launcher.stop(run_id)
        run = wait(run_id, ended)
        # Neither status nor slot waits for the service that hangs.
        assert run.status == Status.STOPPED and hung.hanging.wait(60)
        assert (pid := sender()) is not None
        assert CANARY not in " ".join(psutil.Process(pid).cmdline())
        until(lambda: holder(slot_lock(0)) is None, 10)
        until(all_told)
        assert not left_over(home, seconds=60)
        (notice,) = notices()
        assert notice.kind == NoticeKind.STOPPED and notice.subject == run_id
        assert notice.told == {
            f"1 webhook to {flaky.host}": None,
            f"2 webhook to {hung.host}": "no answer within 2 s",
            "3 JSON": None,
            f"4 webhook to {refused}": "no connection to it",
        }
        assert hung.asked == 4 and not hung.taken
        (document,), (message,) = flaky.taken, quick.taken
        assert flaky.asked == 2 and quick.asked == 1
        assert document["event"] == "stopped" and document["id"] == notice.id
        shown = command("show", run_id, "--json").stdout
        assert document["run"] == json.loads(shown)
        assert message["title"] == "told was stopped" and "validation loss" in message["message"]
        told = command("notify", "--json").stdout + command("notify").stdout
    assert CANARY not in told + shown and "no answer within 2 s" in told
    files = [f for f in home.rglob("*") if f.is_file()]
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == [paths.notify_urls()]
    assert paths.notify_urls().stat().st_mode & 0o777 == 0o600


def test_who_is_killed_while_it_sends_leaves_it_to_the_next_and_it_is_told_once(
    home: Path,
) -> None:
    def hangs_first(receiver: Receiver) -> int:
        return hangs(receiver) if receiver.asked == 1 else 200

    with receiving(hangs_first) as receiver:
        notifications.add(f"webhook+http://{receiver.host}/")
        (run_id,) = ended_runs(1)
        notifications.tell()
        assert receiver.hanging.wait(60)
        notifications.tell()  # one is at it
        pid = sender()
        os.kill(pid or 0, signal.SIGKILL)
        until(lambda: sender() is None)
        for _ in range(3):  # as the rounds of a panel and a supervisor may
            notifications.tell()
        until(all_told)
        assert not left_over(home, seconds=60)
        notifications.tell()
        assert [one["run"]["id"] for one in receiver.taken] == [run_id]
        assert receiver.asked == 2 and not left_over(home, seconds=0)
        (notice,) = notices()
        assert notice.processes == 2


def test_many_ends_are_one_message_and_a_document_each_for_a_program(home: Path) -> None:
    with receiving(takes) as people, receiving(takes) as program:
        notifications.add(f"json://{people.host}")
        notifications.add(f"webhook+http://{program.host}")
        ids = ended_runs(22)
        notifications.tell()
        until(all_told)
        (message,) = people.taken
        assert message["title"] == "Spelltune: 22 completed"
        lines = message["message"].splitlines()
        assert lines[0].startswith("run0 completed. Validation accuracy (exact match) ")
        assert len(lines) == 21 and lines[-1] == "... and 2 more"
        assert [one["run"]["id"] for one in program.taken] == ids


def test_a_sweep_speaks_for_its_trials_with_its_best_and_the_verdict(home: Path) -> None:
    training = dict.fromkeys(range(20), (Status.RUNNING, None))
    sweep_id = fill_sweep(TINY, status=SweepStatus.ACTIVE, states=training)
    with receiving(takes) as people:
        notifications.add(f"json://{people.host}")
        with store.writing() as session:
            for run in store.list_trials(session, sweep_id)[:20]:
                assert store.end(session, run, Outcome(EndReason.COMPLETED))
            assert store.change_sweep(
                session, sweep_id, SweepStatus.COMPLETED, leave=[SweepStatus.ACTIVE], reason=None
            )
        assert [one.kind for one in notices()] == [NoticeKind.SWEEP_COMPLETED]
        notifications.tell()
        until(all_told)
        (message,) = people.taken
    assert message["title"] == "tiny is done"
    assert message["message"].startswith(
        "Trials: 24 completed. Best: rank 32, learning rate 0.00267, "
    )
    assert ", with validation accuracy (exact match) 92.4%. Cannot" in message["message"]


def test_a_redirect_is_not_followed_by_a_webhook_nor_by_apprise(home: Path) -> None:
    with (
        receiving(takes) as inner,
        receiving(lambda _: f"http://{inner.host}/latest/meta-data") as outer,
    ):
        notifications.add(f"webhook+http://{outer.host}/")
        notifications.add(f"json://{outer.host}/")
        found = notifications.send_test()
        assert outer.asked == 2 and inner.asked == 0
    assert found[0]["problem"] == "it answered 307, and a redirect is not followed"
    assert found[1]["problem"] == "it answered 307"


def test_a_test_says_of_each_service_if_it_took_it(home: Path) -> None:
    answer = command("notify", "test", check=False)
    assert answer.returncode == 2 and "no service is set" in answer.stderr
    with receiving(takes) as good, receiving(hangs) as hung:
        notifications.add(f"webhook+http://{good.host}/")
        notifications.add(f"json://{hung.host}/{CANARY}")
        began = time.monotonic()
        answer = command("notify", "test", check=False)
        assert time.monotonic() - began < 30  # and not as long as it hangs
        assert answer.returncode == 1 and CANARY not in answer.stdout + answer.stderr
        first, second = answer.stdout.splitlines()
        assert first == f"1 webhook to {good.host}: sent"
        assert second.startswith("2 JSON: ") and "sent" not in second
        (document,) = good.taken
        assert document["event"] == "test" and document["run"] is None


def test_a_disk_that_gets_full_is_told_once_until_there_was_space(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(takes) as receiver:
        notifications.add(f"webhook+http://{receiver.host}/")
        free = shutil.disk_usage(home).free
        monkeypatch.setattr(notifications, "LOW_DISK_BYTES", free * 2)
        for _ in range(3):
            notifications.tell()
        until(all_told)
        assert [one["event"] for one in receiver.taken] == ["disk"]
        assert "GiB are left on the disk" in receiver.taken[0]["text"]
        monkeypatch.setattr(notifications, "LOW_DISK_BYTES", free / 2)
        notifications.tell()
        assert notices() == []
        monkeypatch.setattr(notifications, "LOW_DISK_BYTES", free * 2)
        notifications.tell()
        until(lambda: len(receiver.taken) == 2)


def test_a_budget_that_is_used_is_told_once_until_there_is_some_again(home: Path) -> None:
    with receiving(takes) as receiver:
        notifications.add(f"webhook+http://{receiver.host}/")
        change_machine({"price_per_hour": "1e9", "currency": "credits", "budget": "12"})
        for _ in range(3):
            notifications.tell()
        until(all_told)
        (document,) = receiver.taken
        assert (document["event"], document["title"]) == ("budget", "The budget is used")
        assert "of the budget of 12.00 credits are spent" in document["text"]
        change_machine({"price_per_hour": "0.0001", "budget": "1e9"})
        notifications.tell()
        assert notices() == []


def test_a_run_that_loses_its_processes_and_goes_on_by_itself_is_told_of_both(
    home: Path, small: dict[str, Any]
) -> None:
    with receiving(takes) as receiver:
        notifications.add(f"webhook+http://{receiver.host}/")
        often = {"checkpointing.save_steps": 1, "supervision.auto_resume": 1}
        run_id = launcher.launch(load_config(overrides=small | often))
        run = wait(run_id, lambda now: training(now) and (now.step or 0) > 2)
        for pid in (run.supervisor_pid, run.trainer_pid):
            os.kill(pid or 0, signal.SIGKILL)

        def resumed() -> bool:
            command("reconcile")
            return row(run_id).attempt == 2

        until(resumed)
        until(lambda: len(receiver.taken) == 2)
        launcher.stop(run_id)
        wait(run_id, ended)
        until(lambda: len(receiver.taken) == 3)
        events = [one["event"] for one in receiver.taken]
        assert events == ["interrupted", "resumed", "stopped"]
        assert "Resumed by itself from step" in receiver.taken[1]["text"]
