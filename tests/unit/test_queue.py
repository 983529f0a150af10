"""The queue of runs: numbers, places and holds."""

import pytest
from sqlalchemy.exc import IntegrityError

from src import store
from src.config import load_config
from src.runs import launcher
from src.workers.supervisor import Supervisor
from tests.helpers.sweeps import cli


@pytest.mark.usefixtures("home")
def test_a_number_is_given_once() -> None:
    config = load_config()
    with store.writing() as session:
        store.enqueue(session, config, sweep_id="s", number=0)
    with pytest.raises(IntegrityError), store.writing() as session:
        store.enqueue(session, config, sweep_id="s", number=0)
    with store.writing() as session:  # runs that confirm have no number
        for _ in range(2):
            store.enqueue(session, config, sweep_id="s")


@pytest.mark.usefixtures("home")
def test_queued_runs_are_moved_to_the_front() -> None:
    with store.writing() as session:
        ids = [store.enqueue(session, load_config(), now=1e9 + n).id for n in range(4)]
    assert cli("first", ids[3], ids[2]).exit_code == 0
    with store.reading() as session:
        assert [run.id for run in store.queue(session)] == [ids[3], ids[2], ids[0], ids[1]]
    launcher.stop(ids[0])
    refused = cli("first", ids[0])
    assert refused.exit_code == 2 and "CANCELLED" in refused.stderr


@pytest.mark.usefixtures("home")
def test_held_runs_wait_and_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(launcher, "start_supervisor", lambda run_id, slot: started.append(run_id))
    with store.writing() as session:
        ids = [store.enqueue(session, load_config(), now=1e9 + n).id for n in range(3)]
    assert cli("hold", *ids[:2]).exit_code == 0
    launcher.fill_slots()
    assert started == [ids[2]]
    with store.writing() as session:
        held = store.find(session, ids[0])
        # A supervisor that was on its way finds that it may not.
        assert not store.claim(session, held, slot=0, token="t", supervisor_pid=1, boot_id="b")
        assert "held" in (held.reason or "")
    late = Supervisor(slot=0)
    late.start(ids[0])
    late.supervise()
    assert cli("release", *ids[:2]).exit_code == 0
    with store.reading() as session:
        assert [run.id for run in store.queue(session)] == ids
        assert store.find(session, ids[0]).reason is None
    launcher.stop(ids[0])
    refused = cli("hold", ids[0])
    assert refused.exit_code == 2 and "only queued runs can be held" in refused.stderr
