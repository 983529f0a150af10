"""A home with completed runs that was moved: every command and page that reads a run answers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import paths, store
from src.config import load_config
from src.runs import launcher
from src.store.tables import Status
from src.sweeps import control
from tests.golden.commands import RECORD, RECORDED, differences, document, spelltune, unpacked
from tests.helpers import live
from tests.helpers.pages import html, show

SHARED = [
    "evaluate whole-trl --data {home}/words/test.jsonl",
    "capsule whole-trl --output {home}/whole.zip",
    "push whole-trl --repo me/speller --dry-run",
]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The golden store, opened once, then moved to another folder, which is the home now."""
    folder = tmp_path_factory.mktemp("moved")
    before, after = folder / "before", folder / "after"
    before.mkdir()
    with unpacked(before), pytest.MonkeyPatch.context() as patch:
        assert spelltune("runs", before)[0] == 0
        shutil.move(before, after)
        patch.setenv("SPELLTUNE_HOME", str(after))
        patch.setattr(launcher, "fill_slots", lambda: None)
        yield after


@pytest.mark.parametrize("call", [c for c in RECORDED if not c.startswith("preview")])
def test_a_moved_home_tells_the_same(moved: Path, call: str) -> None:
    assert not differences(RECORD["calls"][call], document(call, moved), values=True)


@pytest.mark.parametrize("call", SHARED)
def test_what_a_moved_run_has_is_shared(moved: Path, call: str) -> None:
    code, text = spelltune(call, moved)
    assert code == 0, text
    assert "before" not in text


def test_every_checkpoint_of_a_moved_home_is_whole(moved: Path) -> None:
    told = json.loads(spelltune("checkpoints whole-trl", moved)[1])
    assert told and all(one["verified"] and Path(one["path"]).exists() for one in told)


@pytest.mark.parametrize("call", ["resume stopped-trl", "resume stopped-packed",
                                  "fork whole-trl --from 20 --set name=child"])  # fmt: skip
def test_a_moved_run_goes_on(moved: Path, call: str) -> None:
    code, text = spelltune(call, moved)
    assert code == 0, text
    with store.reading() as session:
        waiting = list(store.queue(session))
    assert all(Path(run.config["data"]["path"]) == moved / "words" for run in waiting)


def test_a_moved_sweep_is_that_of_its_launch(moved: Path) -> None:
    with store.reading() as session:
        row = store.find_sweep(session, "rates")
    assert Path(row.path) == moved / "rates.yaml" and control.drift_notice(row) is None
    assert "before" not in json.dumps(control.launched_config(row).model_dump())


@pytest.mark.parametrize("page, query", [
    ("overview", {}), ("monitor", {"run": "whole-trl"}), ("errors", {"run": "whole-trl"}),
    ("launch", {"from": "whole-trl"}), ("sweeps", {"sweep": "rates"}),
    ("compare", {"run": ["whole-trl", "whole-packed"]}),
])  # fmt: skip
def test_every_page_shows_a_moved_home(moved: Path, page: str, query: dict[str, Any]) -> None:
    def named(name: str) -> str:
        found = [f.name for f in (paths.results() / "runs").iterdir()]
        return next((n for n in found if n.rpartition("_")[0] == name), name)

    asked = {k: [named(n) for n in v] if isinstance(v, list) else named(v)
             for k, v in query.items()}  # fmt: skip
    assert html(show(page, **asked))


@pytest.mark.slow
def test_runs_whose_base_model_lies_in_a_moved_home_go_on_and_are_shared(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(base / "gpt2", before / "models/own")
    monkeypatch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
    monkeypatch.setenv("SPELLTUNE_HOME", str(before))
    settings = live.FEW | {
        "backend": "peft", "model.name": str(before / "models/own"), "evaluation.max_new_tokens": 4,
        "data.path": str(live.words(before)), "tracking.mode": "off",
    }  # fmt: skip
    try:
        whole = launcher.launch(load_config(overrides=settings))
        endless = launcher.launch(load_config(overrides=settings | live.MANY))
        assert live.wait(whole, live.ended).status == Status.COMPLETED
        live.wait(endless, live.training)
        launcher.stop(endless)
        assert live.wait(endless, live.ended).status == Status.STOPPED
        assert not live.left_over(before, 60)
        shutil.move(before, after)
        monkeypatch.setenv("SPELLTUNE_HOME", str(after))
        for call in (
            f"evaluate {whole} --data {after}/words.jsonl --baseline",
            f"merge {whole} --to {tmp_path}/merged",
            f"capsule {whole} --output {tmp_path}/whole.zip",
            f"push {whole} --repo me/speller --dry-run",
        ):
            code, text = spelltune(call, after)
            assert code == 0 and str(before) not in text, call + text
        files = [*(tmp_path / "merged").iterdir(), *(after / "results/hub").rglob("*")]
        assert len(files) > 4
        assert not [f for f in files if f.is_file() and str(before).encode() in f.read_bytes()]
        step = live.row(endless).step
        assert spelltune(f"resume {endless}", after)[0] == 0
        resumed = live.wait(endless, lambda run: run.step is not None and run.step > step)
        assert resumed.used["resume"].startswith("exact")
        launcher.stop(endless)
        assert live.wait(endless, live.ended).status == Status.STOPPED
        call = f"fork {whole} --from 4 --set name=child --set training.max_steps=6 --wait"
        code, text = spelltune(call, after)
        assert code == 0, text
    finally:
        for home in (before, after):
            live.kill_all(home)
