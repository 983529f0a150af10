"""Weights & Biases: online only when asked for, and never in the way of a run."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from src import paths
from src.config import RunConfig, load_config
from src.paths import ROOT
from src.runs import checks, launcher
from src.runs.checks import resolve_mode
from src.workers.trackers import base, start_tracker, wandb
from src.workers.trackers.base import End
from src.workers.trackers.wandb import Wandb
from tests.helpers import live
from tests.helpers.speed import slowness
from tests.helpers.store import fill_run


def tracked(mode: str) -> RunConfig:
    return load_config(overrides={"tracking.mode": mode})


@pytest.mark.parametrize(
    ("mode", "environment", "resolved"),
    [
        ("off", {"WANDB_API_KEY": "k"}, "off"),
        ("offline", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "offline"),
        ("online", {}, "offline"),
        ("online", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "online"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "off"),
    ],
)
def test_online_needs_a_wish_and_a_key(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    environment: dict[str, str],
    resolved: str,
) -> None:
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(mode) == resolved


def test_a_key_in_netrc_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever else stands there, and in whatever encoding, must not end the run.
    (home / "netrc").write_bytes(b"machine caf\xe9\nmachine api.wandb.ai login u password secret\n")
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    assert resolve_mode("online") == "online"


FAULTS = ["init hangs", "init raises", "log hangs", "log raises"]


@pytest.mark.timed
@pytest.mark.parametrize("fault", FAULTS)
def test_a_tracker_that_hangs_or_raises_costs_the_run_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    where, what = fault.split()

    def fail(*_: Any) -> None:
        if what == "hangs":
            time.sleep(60)
        raise ConnectionError("no way out")

    monkeypatch.setattr(Wandb, "start", fail if where == "init" else lambda self: None)
    monkeypatch.setattr(Wandb, "log", fail)
    monkeypatch.setattr(base, "CLOSE_SECONDS", 0.5)
    started = time.monotonic()
    tracker = start_tracker(tracked("offline"), "run", home)
    for step in range(1000):
        tracker.log(step, {"train/loss": 1.0})
    assert time.monotonic() - started < 0.3 * slowness()
    tracker.end(End())
    base.close([tracker])
    assert time.monotonic() - started < 2
    said = capsys.readouterr().out
    assert ("did not answer" if what == "hangs" else "W&B gave up: ConnectionError") in said


@pytest.mark.parametrize("ends_early", [False, True])
def test_a_tracker_begins_after_the_first_step_with_all_points_in_their_order(
    ends_early: bool,
) -> None:
    told: list[Any] = []
    began = threading.Event()

    class Sink:
        name = "a sink"

        def start(self) -> None:
            told.append("start")
            began.set()

        def log(self, step: int, values: Any) -> None:
            told.append(step)

        def finish(self, end: End) -> str:
            return "done"

    tracker = base.Tracker([Sink()], told.append)
    tracker.log(0, {"val/loss": 2.0})
    tracker.log(0, {"cpu/memory_gib": 1.0})
    assert told == []
    if not ends_early:
        tracker.log(1, {"train/loss": 1.0})
        assert began.wait(60)
        tracker.log(2, {"train/loss": 1.0})
    tracker.end(End())
    base.close([tracker])
    assert told == ["start", 0, 0, *([] if ends_early else [1, 2]), "done"]


class FakeWandb:
    """A wandb whose server is gone: after `good` points online it hangs or raises."""

    Settings = dict

    def __init__(self, good: int, hangs: bool):
        self.good, self.hangs, self.runs = good, hangs, []

    def teardown(self) -> None: ...

    def init(self, **given: Any) -> Any:
        self.runs.append(FakeRun(self, given))
        if given["mode"] == "online" and self.good < 0:
            self.runs[-1].log({})
        return self.runs[-1]


class FakeRun:
    def __init__(self, service: FakeWandb, given: dict[str, Any]):
        self.service, self.given = service, given
        self.points: list[dict[str, float]] = []
        self.summary: dict[str, Any] = {}
        self.dir = str(given["dir"] / given["id"] / "files")

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def finish(self) -> None: ...

    def log(self, values: dict[str, float]) -> None:
        if self.given["mode"] == "online" and len(self.points) >= self.service.good:
            if self.service.hangs:
                time.sleep(60)
            raise ConnectionError("the server is gone")
        self.points.append(values)


@pytest.mark.parametrize("hangs", [True, False])
@pytest.mark.parametrize("good", [-1, 3])
def test_what_fails_online_goes_on_offline_with_every_point(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    good: int,
    hangs: bool,
) -> None:
    fake = FakeWandb(good, hangs)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setattr(wandb, "INIT_SECONDS", -0.5)
    # What does not hang has time to answer.
    monkeypatch.setattr(wandb, "LOG_SECONDS", 2 if hangs else 30)
    tracker = start_tracker(tracked("online"), "run", home)
    for step in range(10):
        tracker.log(step, {"train/loss": float(step)})
    tracker.end(End({"status": "COMPLETED"}))
    base.close([tracker])
    online, offline = fake.runs
    assert [online.given["mode"], offline.given["mode"]] == ["online", "offline"]
    assert [p["step"] for run in fake.runs for p in run.points] == list(range(10))
    assert offline.summary == {"status": "COMPLETED"}
    said = capsys.readouterr().out
    assert "out of reach" in said and "saved locally; `wandb sync" in said


def test_a_key_without_a_network_saves_locally(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    # Nothing listens there: as good as no network, and never a request to the real service.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb, "INIT_SECONDS", 3)
    tracker = start_tracker(tracked("online"), "run-1", home)
    tracker.log(1, {"train/loss": 1.0})
    tracker.end(End())
    base.close([tracker])
    said, problems = capsys.readouterr()
    assert "out of reach" in said and "wandb sync" in said, problems
    (file,) = home.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 0
    for file in (file for file in home.rglob("*") if file.is_file()):
        assert b"f" * 40 not in file.read_bytes(), file


def begun(run_id: str, **settings: Any) -> start_tracker:
    """A tracker of a run that has an adapter and scored words."""
    run_id = fill_run(name=run_id, steps=10)
    output_dir = paths.output_dir(run_id)
    (output_dir / "final").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (output_dir / "final" / name).write_bytes(b"weights")
    config = load_config(overrides={f"tracking.{name}": value for name, value in settings.items()})
    return start_tracker(config, run_id, output_dir)


def finish(*trackers: start_tracker) -> None:
    """A hundred points, and the end."""
    for step in range(100):
        for tracker in trackers:
            tracker.log(step, {"train/loss": 1000.25 + step})
    for tracker in trackers:
        tracker.end(End({"status": "COMPLETED", "val/exact_match": 0.75}, best_step=10))
    base.close(trackers)


def test_offline_files_hold_every_metric_tags_group_summary_and_artifacts(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clone whose address holds a token, as private repositories are often cloned.
    monkeypatch.chdir(home)
    for git in ("init -q", "remote add origin https://canary:x@example.org/spelltune"):
        subprocess.run(["git", *git.split()], check=True)
    settings = {"mode": "offline", "tags": ["nightly"], "group": "sweep-7", "artifacts": True}
    # Two at once, as in a pack: each has a run of its own.
    trackers = []
    for name in ("one", "two"):
        trackers.append(begun(name, **settings))
        trackers[-1].log(1, {"train/loss": 1.0})  # it begins with the first step
        until = time.monotonic() + 300
        while trackers[-1].channels[0].sink.run is None:
            assert time.monotonic() < until
            time.sleep(0.1)
    finish(*trackers)
    assert capsys.readouterr().out.count("W&B saved locally; `wandb sync") == 2
    files = list(home.glob("results/runs/*/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    for file in files:
        kept = file.read_bytes()
        missing = [step for step in range(100) if f"{1000.25 + step}".encode() not in kept]
        assert not missing
        for word in (b"llm-spelling-finetuning", b"nightly", b"sweep-7", b"COMPLETED", b"-adapter"):
            assert word in kept, word
        assert b"canary" not in kept
    assert b"definatly" in next(home.glob("results/runs/*/errors.csv")).read_bytes()


def test_trackio_keeps_every_metric(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a process of its own, as in a run: Trackio reads its folder when it is imported.
    code = (
        "from tests.processes.test_trackers import *; finish(begun('one', tracker='trackio', "
        "mode='offline', group='sweep-7', artifacts=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Trackio saved locally" in done.stdout, done.stdout + done.stderr
    (file,) = (home / "results" / "trackio").glob("llm-spelling-finetuning*.db")
    rows = sqlite3.connect(file).execute("select metrics from metrics").fetchall()
    losses = [json.loads(row)["train/loss"] for (row,) in rows]
    assert sorted(losses) == [1000.25 + step for step in range(100)]


def test_tensorboard_keeps_every_metric(home: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finish(begun("one", mode="off", tensorboard=True))
    (folder,) = home.glob("results/runs/*/tensorboard")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    assert [e.value for e in events.Scalars("train/loss")] == [1000.25 + s for s in range(100)]


def test_a_run_leaves_nothing_in_the_temporary_directory(home: Path, tmp_path: Path) -> None:
    """wandb and others make folders there, which they remove at an exit that a trainer skips."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    code = (
        "import tempfile; from tests.processes.test_trackers import *; "
        "finish(begun('one', mode='offline')); kept = tempfile.TemporaryDirectory(); "
        "print(len(list(Path(tempfile.gettempdir()).iterdir()))); "
        "from src.runs.environment import leave; leave(3)"
    )
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 3  # two of wandb's, and ours
    assert list(folder.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_refused_before_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    asked = load_config(
        overrides={"tracking.tracker": "trackio", "tracking.tensorboard": True}
    ).tracking
    problems = checks.tracking_problems(asked)
    assert set(problems) == {"tracking.tracker", "tracking.tensorboard"}
    assert "pip install trackio" in problems["tracking.tracker"]


def test_every_run_of_a_pack_has_its_own_run_its_own_files_and_says_so_in_its_own_log(
    small: dict[str, Any], data: Path
) -> None:
    settings = small | live.FEW | {
        "engine": "packed",
        "tracking.mode": "offline",
        "tracking.tensorboard": True,
        "tracking.artifacts": True,
    }  # fmt: skip
    names = ("one", "two")
    ids = launcher.launch_all([load_config(overrides=settings | {"name": n}) for n in names])
    for run_id in ids:
        assert live.wait(run_id, live.ended).status == "COMPLETED"
    for run_id in ids:
        folder = paths.output_dir(run_id)
        (file,) = folder.glob("wandb/offline-run-*/*.wandb")
        kept = file.read_bytes()
        assert run_id.encode() in kept and b"test/exact_match" in kept and b"-adapter" in kept
        assert not any(other.encode() in kept for other in ids if other != run_id)
        assert list(folder.glob("tensorboard/events.out.tfevents.*"))
        assert (folder / "errors.csv").exists()
        log = paths.log_file(run_id).read_text()
        assert "W&B saved locally; `wandb sync" in log and "TensorBoard saved locally" in log
