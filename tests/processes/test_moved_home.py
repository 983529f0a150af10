"""A home with completed runs that was moved: every command and page that reads a run answers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import paths, store
from src.runs import launcher
from src.sweeps import control
from tests.golden.commands import RECORD, RECORDED, differences, document, spelltune, unpacked
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
