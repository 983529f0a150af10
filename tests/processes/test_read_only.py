"""A home that can be read only, or whose disk takes no new file: sentences, and no traceback."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from src import store
from src.cli.main import app
from src.config import load_config
from src.runs import reconciler, snapshots
from src.store.tables import Status
from tests.helpers.live import command, mounted
from tests.helpers.pages import html, show
from tests.helpers.store import checkpoint, fill_run

pytestmark = pytest.mark.root

READS = ["runs", "show whole", "metrics whole", "checkpoints whole", "errors whole",
         "export whole --format json", "compare whole other", "sweep list"]  # fmt: skip
WRITES = ["launch --set tracking.mode=off", "stop waiting", "hold waiting", "delete whole --yes",
          "fork whole", "resume broken"]  # fmt: skip


@pytest.fixture
def filled(home: Path) -> Path:
    fill(home)
    return home


def fill(home: Path) -> None:
    whole = fill_run(name="whole")
    fill_run(name="other", lora__r=4)
    checkpoint(whole, 100)
    with store.writing() as session:
        waiting = store.enqueue(session, load_config(overrides={"name": "waiting"}))
    snapshots.write_run(waiting.id)


@pytest.fixture
def read_only(filled: Path) -> Iterator[Path]:
    subprocess.run(["mount", "--bind", filled, filled], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", filled], check=True)
        yield filled
    finally:
        subprocess.run(["umount", "--lazy", filled], check=True)


def stop_waiting(session: store.Session) -> Status:
    return store.request_stop(session, store.find(session, "waiting").id)


def test_a_read_only_home_is_read_and_every_write_is_refused_in_words(read_only: Path) -> None:
    for call in READS:
        answer = command(*call.split(), check=False)
        assert answer.returncode == 0 and "Traceback" not in answer.stderr, (call, answer.stderr)
    for call in WRITES:
        answer = command(*call.split(), check=False)
        assert answer.returncode == 2 and "Traceback" not in answer.stderr, (call, answer.stderr)
        assert answer.stderr.strip().splitlines()[-1], call


@pytest.mark.parametrize("reserve", [False, True])
def test_a_disk_without_free_inodes_lets_the_runs_be_read(home: Path, reserve: bool) -> None:
    with mounted(home, "20m", "nr_inodes=200"):
        fill(home)
        if reserve:
            store.keep_reserve()
        with pytest.raises(OSError, match="No space left"):
            for number in range(200):
                (home / f"file-{number}").touch()
        assert shutil.disk_usage(home).free > 2**20
        store.database._engine.cache_clear()  # as in a process that begins now
        with store.reading() as session:
            assert [run.name for run in store.list_runs(session)] == ["waiting", "other", "whole"]
        assert reconciler.reconcile() == []
        runner = CliRunner()
        for call in READS:
            answer = runner.invoke(app, call.split())
            assert answer.exit_code == 0, (call, answer.stderr, answer.exception)
        for page, query in PAGES:
            assert "waiting" in html(show(page, **query)) or page != "overview"
        for call in [] if reserve else WRITES:
            answer = runner.invoke(app, call.split())
            assert answer.exit_code == 2, (call, answer.stdout, answer.exception)
            assert "Traceback" not in answer.stderr
        # What is said at last of a run has the inodes that were kept for it.
        stop = partial(store.write_with_retry, stop_waiting, seconds=2)
        if reserve:
            assert stop() == Status.CANCELLED
        else:
            with pytest.raises(store.DatabaseUnavailable, match="no inode is left"):
                stop()


PAGES: list[tuple[str, dict[str, str]]] = [
    ("overview", {}), ("monitor", {"run": "whole"}), ("errors", {"run": "whole"}),
    ("launch", {}), ("sweeps", {}), ("compare", {"run": "whole"}),
]  # fmt: skip
