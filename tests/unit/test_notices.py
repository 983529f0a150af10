"""Notices in the run table, their words, and the services that are set, without sending any."""

import json
import re
import time
from pathlib import Path

import pytest
from sqlalchemy import update
from starlette.requests import Request

from src import paths, store
from src.config import load_config
from src.panel.ui import desktop
from src.runs import notifications
from src.runs.environment import NOTIFY_URLS, child_environment
from src.runs.notifications import BadService
from src.store.outcome import EndReason, Outcome
from src.store.tables import EventKind, Notice, NoticeKind, Run, Status, SweepStatus
from src.sweeps import messages
from tests.helpers.store import fill_run, fill_sweep
from tests.helpers.sweeps import TINY, cli

CANARY = "canary-81c6f0aa"
pytestmark = pytest.mark.usefixtures("home")


def left() -> list[tuple[str, str | None]]:
    with store.reading() as session:
        return [(one.kind, one.text) for one in store.recent(session, after=0, limit=100)]


def told_of(run_id: str, outcome: Outcome) -> None:
    with store.writing() as session:
        assert store.end(session, store.find(session, run_id), outcome)


def test_a_notice_is_there_if_and_only_if_its_end_is() -> None:
    run_id = fill_run(status=Status.RUNNING, steps=20)
    with pytest.raises(RuntimeError), store.writing() as session:
        assert store.end(session, store.find(session, run_id), Outcome(EndReason.COMPLETED))
        raise RuntimeError("killed before the commit")
    assert left() == []
    told_of(run_id, Outcome(EndReason.ERROR, "it broke"))
    with store.writing() as session:  # another supervisor, too late
        assert not store.end(session, store.find(session, run_id), Outcome(EndReason.COMPLETED))
    assert left() == [(NoticeKind.FAILED, "it broke")]


def test_what_people_are_told_of_a_run() -> None:
    started = fill_run(status=Status.QUEUED)
    with store.writing() as session:
        assert store.fail_start(session, store.find(session, started), "it did not start")
        store.request_stop(session, fill_queued(session))  # who cancels a run knows it
        store.record_event(session, started, 2, EventKind.HEALED, "healed after cuda_oom: lr -> 1")
        store.record_event(session, started, 2, EventKind.WARNING, "a tracker is gone")
    stopped = fill_run(status=Status.RUNNING, steps=20)
    with store.writing() as session:
        store.request_stop(session, stopped)
    told_of(stopped, Outcome(EndReason.LOST, "its machine is gone"))
    assert left() == [
        (NoticeKind.FAILED, "it did not start"),
        (NoticeKind.RESUMED, "healed after cuda_oom: lr -> 1"),
        (NoticeKind.STOPPED, "stopped; its machine is gone"),
    ]


def fill_queued(session: store.Session) -> str:
    return store.enqueue(session, load_config(preset="tiny-spell")).id


def test_a_sweep_is_told_once_and_its_trials_never() -> None:
    running = {0: (Status.RUNNING, None), 1: (Status.RUNNING, None)}
    sweep_id = fill_sweep(TINY, trials=4, status=SweepStatus.ACTIVE, states=running)
    with store.writing() as session:
        first, second, *_ = store.list_trials(session, sweep_id)
        assert store.end(session, first, Outcome(EndReason.COMPLETED))
        assert store.end(session, second, Outcome(EndReason.ERROR, "it broke"))
        store.record_event(session, second.id, 2, EventKind.RETRIED, "again")
        for to, columns in (
            (SweepStatus.PAUSED, {"reason": None}),
            (SweepStatus.ACTIVE, {"reason": None}),
            (SweepStatus.COMPLETED, {"reason": "its time is over"}),
        ):
            assert store.change_sweep(session, sweep_id, to, leave=list(SweepStatus), **columns)
    assert left() == [(NoticeKind.SWEEP_COMPLETED, "its time is over")]
    with store.writing() as session:
        assert store.change_sweep(
            session, sweep_id, SweepStatus.ACTIVE, leave=list(SweepStatus), reason=None
        )
        store.fail_sweep(session, sweep_id, "its driver failed")
        store.change_sweep(session, sweep_id, SweepStatus.CANCELLED, leave=list(SweepStatus))
    assert left()[1:] == [(NoticeKind.SWEEP_FAILED, "its driver failed")]


def test_runs_that_confirm_a_sweep_are_told_when_the_last_one_has_ended() -> None:
    sweep_id = fill_sweep(TINY, trials=4)
    with store.writing() as session:
        ids = [
            store.enqueue(session, load_config(preset="tiny-spell"), sweep_id=sweep_id).id
            for _ in range(2)
        ]
        session.execute(update(Run).where(Run.id.in_(ids)).values(
            status=Status.RUNNING))  # fmt: skip
    for place, run_id in enumerate(ids):
        told_of(run_id, Outcome(EndReason.COMPLETED))
        with store.reading() as session:
            (*_, notice) = store.recent(session, after=0, limit=9)
            found = messages.message(session, notice)
        assert (found is None) == (place == 0)
    assert found is not None and found.title == "tiny has its best settings confirmed"


def test_words_of_a_run_name_its_scores_and_of_a_deleted_one_there_is_nothing_to_tell() -> None:
    run_id = fill_run(status=Status.RUNNING, name="words")
    told_of(run_id, Outcome(EndReason.EARLY_STOPPED, "early stopping: no better", 600, 600))
    with store.reading() as session:
        (notice,) = store.recent(session, after=0, limit=9)
        found = messages.message(session, notice)
        assert found is not None and found.title == "words completed"
        assert found.body.startswith(
            "Early stopping: no better. Validation accuracy (exact match) 9"
        )
        assert " after 600 of 600 steps in " in found.body
        assert messages.document(session, notice, found)["run"]["id"] == run_id
    with store.writing() as session:
        store.delete_rows(session, run_id)
    with store.reading() as session:
        assert messages.message(session, notice) is None


def test_only_what_happens_after_a_service_is_set_is_told_and_nothing_old() -> None:
    told_of(fill_run(status=Status.RUNNING), Outcome(EndReason.COMPLETED))
    notifications.begin()
    with store.reading() as session:
        assert not store.is_untold(session, None)
    told_of(fill_run(status=Status.RUNNING), Outcome(EndReason.COMPLETED))
    notifications.begin()  # as each process does
    with store.writing() as session:
        (waiting,) = store.untold(session, None)
        ids = [waiting.id or 0]
        store.mark_told(session, ids, {"1 a": "no answer"}, last=["1 a", "2 b"])
    with store.writing() as session:
        assert store.is_untold(session, None) and not store.untold(session, "another machine")
        # One process after the other that cannot write what it told would never come to an end.
        for _ in range(6):
            store.count_process(session, ids)
    with store.writing() as session:
        assert not store.is_untold(session, None)
        old = {"processes": 0, "at": time.time() - 2 * 86_400}
        session.execute(update(Notice).where(Notice.id == ids[0]).values(**old))
    with store.reading() as session:
        assert not store.is_untold(session, None)


def test_services_are_set_from_standard_input_and_shown_by_their_names() -> None:
    def answer(url: str, *arguments: str) -> tuple[int, str]:
        from typer.testing import CliRunner

        from src.cli import app

        done = CliRunner().invoke(app, ["notify", *(arguments or ("add",))], input=url)
        return done.exit_code, done.output

    assert answer("", "--json")[1].startswith('{\n  "services": []')
    assert answer(f"webhook+https://me:{CANARY}@example.org/{CANARY}\n")[0] == 0
    assert answer(f"tgram://123456789:{CANARY.replace('-', 'x')}/chat\n")[0] == 0
    shown = answer("", "--json")[1] + answer("", *())[1] + cli("notify").output
    assert "webhook to example.org" in shown and "Telegram" in shown and "canary" not in shown
    assert paths.notify_urls().stat().st_mode & 0o777 == 0o600
    assert answer("", "remove", "3") == (
        2, "error: there is no service 3: there are 2 (`spelltune notify`)\n",
    )  # fmt: skip
    assert answer("", "remove", "1")[0] == 0
    assert answer("", "remove", "1")[0] == 0 and not paths.notify_urls().exists()
    with store.reading() as session:
        assert not store.is_telling(session, None)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "one URL is needed"),
        (f"webhook+https://a/{CANARY} b", "one URL is needed"),
        (f"nosuch://{CANARY}", "no service takes this URL"),
        (f"tgram://{CANARY}", "no service takes this URL"),
        (f"webhook+ftp://a/{CANARY}", "a webhook is webhook+https://HOST/PATH"),
        (f"webhook+https://[{CANARY}", "a webhook is webhook+https://HOST/PATH"),
        (f"webhook+http:///{CANARY}", "a webhook is webhook+https://HOST/PATH"),
        (f"webhook+http://169.254.169.254/{CANARY}", "which is a link-local address"),
        (f"webhook+http://[fe80::1]/{CANARY}", "which is a link-local address"),
    ],
)
def test_a_bad_url_is_a_sentence_without_it(
    url: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadService, match=re.escape(why)) as refused:
        notifications.add(url)
    assert CANARY not in str(refused.value) + "".join(capfd.readouterr())
    assert not paths.notify_urls().exists()


def test_secrets_that_others_may_read_are_refused_and_kept_from_trainers(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    notifications.add("webhook+http://127.0.0.1:1/")
    with pytest.raises(BadService, match="is set already: number 1, webhook to 127.0.0.1:1"):
        notifications.add("webhook+http://127.0.0.1:1/")
    paths.notify_urls().chmod(0o644)
    with pytest.raises(BadService, match="others may read the secrets"):
        notifications.services()
    paths.notify_urls().unlink()
    monkeypatch.setenv(NOTIFY_URLS, f"webhook+http://127.0.0.1:1/\nnosuch://{CANARY}")
    first, second = notifications.services()
    assert first.problem is None and "no service takes this URL" in (second.problem or "")
    assert CANARY not in repr(second)
    with pytest.raises(BadService, match="take it out of there"):
        notifications.remove(1)
    assert NOTIFY_URLS not in child_environment()


def test_the_browser_asks_for_what_is_new_and_for_nothing_else() -> None:
    def asked(query: str) -> tuple[int, dict[str, object]]:
        answer = desktop.notices(Request({"type": "http", "query_string": query.encode()}))
        return answer.status_code, json.loads(bytes(answer.body))

    assert asked("") == (200, {"last": 0, "notices": []})
    for number in range(7):
        run_id = fill_run(status=Status.RUNNING, name=f"run{number} <b>", curves=False)
        told_of(run_id, Outcome(EndReason.ERROR, "it broke"))
    code, found = asked("after=0")
    assert code == 200 and found["last"] == 7
    notices = found["notices"]
    assert isinstance(notices, list) and [one["id"] for one in notices] == [3, 4, 5, 6, 7]
    assert notices[-1]["title"] == "run6 <b> failed"  # the browser shows it as a text
    assert notices[-1]["address"] == f"monitor?run={run_id}"
    assert asked("after=7")[1]["notices"] == [] and asked("after=x")[0] == 400
    with store.writing() as session:
        store.delete_rows(session, run_id)
    assert asked("")[1]["last"] == 6
