"""What two tabs, threads or processes do at the same moment, each as if it were alone."""

import errno
import json
import os
import secrets
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from src import files, paths, store
from src.config import load_config, machine
from src.file_cache import FileCache
from src.panel.compare import verdicts
from src.panel.launch import measure_button
from src.runs import (
    deletion,
    exporting,
    launcher,
    notifications,
    result_file,
    snapshots,
    views,
)
from src.runs.exporting import Form
from src.store import migrations, runs
from src.store.tables import Status
from src.sweeps import results as sweep_results
from src.training import questions, results
from tests.helpers import live
from tests.helpers.store import fill_run, fill_sweep
from tests.helpers.sweeps import TINY

pytestmark = pytest.mark.usefixtures("home")


class Meeting:
    """A step that two threads are to come to before either goes on; one that a lock keeps out
    lets the other go on after a moment."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            with suppress(threading.BrokenBarrierError):
                self.barrier.wait(1)
            return result

        return wait


def both(call: Callable[..., Any], *given: Any) -> list[Any]:
    """What two threads get that call this at once, with one of two arguments if `given`."""
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(call, *given[n : n + 1]) for n in range(2)]
        return [one.result(60) for one in calls]


def test_two_presses_start_one_export(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(exporting, "start_detached", lambda *call, log: started.append(call))
    monkeypatch.setattr(exporting, "look", Meeting().after(exporting.look))
    both(lambda: exporting.start("r", None, Form.MERGED))
    assert len(started) == 1
    exporting.start("r", None, Form.F16)
    assert len(started) == 2


def test_two_presses_begin_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    asked: list[dict[str, Any]] = []

    def measure(request: dict[str, Any]) -> None:
        asked.append(request)
        assert go_on.wait(60)

    monkeypatch.setattr(measure_button, "_measure", measure)
    begun: dict[str, Any] = {}
    monkeypatch.setattr(measure_button, "_begun", lambda: begun)
    measure_button._begin("one", {"run": 1})
    first = begun["one"]
    measure_button._begin("one", {"run": 2})
    assert begun["one"] is first
    go_on.set()
    first.result(60)
    assert asked == [{"run": 1}]
    measure_button._begin("one", {"run": 3})  # measured again
    begun["one"].result(60)
    assert asked[1:] == [{"run": 3}]


def test_two_threads_write_a_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "fsync", Meeting().after(os.fsync))
    file = tmp_path / "file.json"
    both(lambda text: files.write_atomic(file, text), "one", "other")
    assert file.read_text() in ("one", "other") and list(tmp_path.iterdir()) == [file]
    cache = FileCache(tmp_path / "cache")
    wrote = Meeting().after(lambda staged: staged.write_text("same"))
    failed: list[str] = []

    def write(staged: Path) -> None:
        wrote(staged)
        failed.extend([] if staged.exists() else [staged.name])

    both(lambda: cache.write("key", write))
    assert not failed and cache.read("key", Path.read_text) == "same"


def test_two_threads_each_save_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "saved", Meeting().after(views.saved))
    both(lambda name: views.save(name, {"find": [name]}), "one", "other")
    assert set(json.loads(paths.views_file().read_text())) == {"one", "other"}


def test_two_threads_each_enter_a_run_in_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    file = paths.summary_file()
    results.enter_in_summary(file, [{"run": "first"}])
    monkeypatch.setattr(results, "read_text", Meeting().after(results.read_text))
    both(lambda run: results.enter_in_summary(file, [{"run": run}]), "one", "other")
    entered = yaml.safe_load(file.read_text())["experiments"]
    assert {entry["run"] for entry in entered} == {"first", "one", "other"}


def test_two_uploads_of_one_name_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", Meeting().after(secrets.token_hex))
    kept = both(lambda content: files.keep(content, tmp_path, "words.csv"), b"one", b"other")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["words-2.csv", "words.csv"]
    assert [file.read_bytes() for file in kept] == [b"one", b"other"]
    assert files.keep(b"one", tmp_path, "words.csv") == kept[0]


def test_two_tabs_each_keep_their_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "words.jsonl"
    questions.keep_questions(file, [("a", "b")])
    monkeypatch.setattr(questions, "read_text", Meeting().after(questions.read_text))
    both(lambda asked: questions.keep_questions(file, [(asked, "c")]), "one", "other")
    kept = {json.loads(line)["question"] for line in file.read_text().splitlines()}
    assert kept == {"a", "one", "other"}


def test_two_commands_each_add_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "services", Meeting().after(notifications.services))
    both(lambda name: notifications.add(f"json://127.0.0.1:9/{name}"), "one", "other")
    assert len(notifications.services()) == 2
    assert stat.S_IMODE(paths.notify_urls().stat().st_mode) == 0o600


def test_two_tabs_each_change_a_setting_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load_machine", Meeting().after(machine.load_machine))
    texts = {"price_per_hour": "3"}, {"currency": "EUR"}
    both(machine.change_machine, *texts)
    changed = machine.load_machine()
    assert (changed.price_per_hour, changed.currency) == (3, "EUR")


def test_two_tabs_launch_the_missing_seeds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)
    monkeypatch.setattr(verdicts.query_params, "write", lambda *_: None)
    page = SimpleNamespace(query_params=SimpleNamespace(get_all=lambda name: []))
    monkeypatch.setattr(verdicts, "st", page)
    run_id = fill_run()
    monkeypatch.setattr(store, "list_runs", Meeting().after(store.list_runs))
    both(lambda: verdicts.launch_missing({run_id: 3}))
    with store.reading() as session:
        assert len(store.list_runs(session)) == 3


def test_two_tabs_launch_the_confirming_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)
    sweep_id = fill_sweep(TINY)
    with store.reading() as session:
        found = sweep_results.read(session, store.find_sweep(session, sweep_id))
    launched = sweep_results.confirm(found)  # both looked before
    assert launched and sweep_results.confirm(found) == []
    with store.reading() as session:
        assert [run.id for run in store.confirmations(session, sweep_id)] == launched


def test_a_lock_keeps_other_processes_out_and_ends_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    holder = (
        "import sys, pathlib; from src.files import alone\n"
        "with alone(pathlib.Path(sys.argv[1])):\n print(flush=True); sys.stdin.read()"
    )
    began = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)],
        cwd=paths.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None and other.stdout.readline() == b"\n"

        def enter() -> None:
            with files.alone(lock):
                began.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not began.wait(0.3)
        other.kill()
        thread.join(60)
    assert began.is_set()


def test_a_disk_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.alone(tmp_path / "some.lock"):
        pass
    (tmp_path / "file").touch()
    with files.alone(tmp_path / "file" / "some.lock"):  # nor one that has no room for it
        pass


# --- snapshots, and runs that are deleted as they end ---------------------------------------------


def queued() -> str:
    with store.writing() as session:
        return store.enqueue(session, load_config()).id


def before_the_files(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have `act` done once, when rows of a snapshot are read and no file of it is written."""
    real = snapshots._numbered

    def numbered(*given: Any) -> Any:
        result = real(*given)
        monkeypatch.setattr(snapshots, "_numbered", real)
        act()
        return result

    monkeypatch.setattr(snapshots, "_numbered", numbered)


def snapshot(run_id: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((paths.output_dir(run_id) / "run.json").read_text())
    return document


def test_a_snapshot_of_an_earlier_state_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = queued()

    def stop() -> None:
        with store.writing() as session:
            store.request_stop(session, run_id)
        snapshots.write_run(run_id)

    before_the_files(monkeypatch, stop)
    snapshots.write_run(run_id)
    assert snapshot(run_id)["run"]["status"] == Status.CANCELLED
    assert snapshot(run_id)["number"] == snapshots.newest_number() == 2


def test_a_snapshot_waits_for_the_one_that_is_being_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = queued()
    older, newer = threading.Event(), threading.Event()

    def write(file: Path, text: str) -> None:
        if json.loads(text)["number"] == 1:
            older.set()
            newer.wait(1)  # without a lock it would be there by now
        files.write_atomic(file, text)

    monkeypatch.setattr(snapshots, "write_atomic", write)
    first = threading.Thread(target=snapshots.write_run, args=(run_id,))
    first.start()
    assert older.wait(60)
    snapshots.write_run(run_id)
    newer.set()
    first.join(60)
    assert snapshot(run_id)["number"] == 2


def test_what_a_person_does_to_an_older_copy_of_the_table_is_kept() -> None:
    run_id = queued()
    for _ in range(3):
        snapshots.write_run(run_id)
    with store.writing() as session:
        store.set_snapshot_number(session, 1)
        store.request_stop(session, run_id)
    snapshots.write_run(run_id)
    assert snapshot(run_id)["run"]["status"] == Status.CANCELLED


def deletes(run_id: str) -> Callable[[], None]:
    def delete() -> None:
        with store.reading() as session:
            run = store.find(session, run_id)
        deletion.delete(run)

    return delete


def test_no_file_of_a_deleted_run_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, other = fill_run(), fill_run(name="other")
    before_the_files(monkeypatch, deletes(run_id))
    snapshots.write_runs([run_id, other])
    result_file.record_failure(run_id)
    assert not paths.output_dir(run_id).exists() and not paths.final_metrics(run_id).exists()
    assert snapshot(other)["number"] == 1


def test_a_run_is_deleted_while_its_files_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, other = fill_run(), fill_run(name="other")
    for one in (run_id, other):
        point = {"attempt": 1, "step": 9999, "name": "train/loss", "value": 0.5, "at": 1.0}
        paths.metrics_log(one).parent.mkdir(parents=True, exist_ok=True)
        paths.metrics_log(one).write_text(json.dumps(point) + "\n")
    real = store.points_missing

    def missing(session: store.Session, one: str, points: Any) -> Any:
        found = real(session, one, points)
        if one == run_id:
            deletes(run_id)()
        return found

    monkeypatch.setattr(store, "points_missing", missing)
    snapshots.sync_from_files([run_id, other])
    assert not paths.output_dir(run_id).exists() and snapshot(other)["number"] == 1
    with store.reading() as session:
        assert not real(session, other, snapshots.read_metrics_log(other))  # all came in


# --- a run table that several machines have -------------------------------------------------------


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with live.postgresql(home / "pg") as folder:
        url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
        monkeypatch.setenv("SPELLTUNE_DATABASE_URL", url)
        yield


@pytest.mark.postgresql
@pytest.mark.usefixtures("server")
def test_two_machines_make_the_table_and_launch_under_one_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def launch() -> str:
        with store.writing() as session:
            return store.enqueue(session, load_config(), now=1.0).id

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "_version", Meeting().after(migrations._version))
        both(queued)
    monkeypatch.setattr(runs, "new_id", Meeting().after(runs.new_id))
    first, second = sorted(both(launch), key=len)
    assert second == f"{first}-2"


def test_who_holds_a_lock_for_long_keeps_nobody_out(tmp_path: Path) -> None:
    order: list[str] = []
    with files.alone(tmp_path / "lock"):
        with files.alone(tmp_path / "lock", seconds=0.1):
            order.append("went on")

        def wait() -> None:
            with files.alone(tmp_path / "lock"):
                order.append("waited")

        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.2)
        order.append("let go")
    waiting.join(60)
    assert order == ["went on", "let go", "waited"]
