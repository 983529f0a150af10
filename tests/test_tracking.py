"""Weights & Biases: online only when asked for, and never in the way of a run."""

import time
from pathlib import Path
from typing import Any

import pytest

from src.config import RunConfig, load_config
from src.runs import tracking
from src.runs.tracking import Tracker, resolve_mode


def config_of(mode: str) -> RunConfig:
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
    (home / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    assert resolve_mode("online") == "online"


@pytest.mark.parametrize("fault", ["hangs", "raises"])
def test_a_tracker_that_hangs_or_raises_costs_the_run_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    def init(self: Tracker, *_: Any) -> Any:
        if fault == "hangs":
            time.sleep(60)
        raise ConnectionError("no way out")

    monkeypatch.setattr(Tracker, "_init", init)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.5)
    started = time.monotonic()
    tracker = Tracker(config_of("offline"), "run", home)
    for step in range(1000):
        tracker.log(step, {"train/loss": 1.0})
    assert time.monotonic() - started < 0.3
    tracker.close()
    assert time.monotonic() - started < 2
    if fault == "raises":
        assert "W&B gave up: ConnectionError" in capsys.readouterr().err


def test_a_key_without_a_network_saves_locally(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    # Nothing listens there: as good as no network, and never a request to the real service.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "INIT_SECONDS", 3)
    tracker = Tracker(config_of("online"), "run-1", home)
    tracker.log(1, {"train/loss": 1.0})
    tracker._thread.join(timeout=1)
    tracker.close()
    said, problems = capsys.readouterr()
    assert "out of reach" in said and "wandb sync" in said, problems
    (file,) = home.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 0
    assert b"f" * 40 not in file.read_bytes()
