"""A home that was moved: its rows, its data and its base models are found in the new place."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from src import paths, store
from src.config import load_config, stored_config


@pytest.mark.parametrize("old_rows", [False, True])
def test_a_moved_home_finds_its_files(
    old_rows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    monkeypatch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
    monkeypatch.setenv("SPELLTUNE_HOME", str(before))
    data = before / "data" / "words.csv"
    data.parent.mkdir(parents=True)
    data.write_text("question,answer\na,b\n")
    own = before / "models" / "own"
    own.mkdir(parents=True)
    inside = {"data.path": str(data), "model.name": str(own)}
    with store.writing() as session:
        run = store.enqueue(session, load_config(overrides=inside))
        folder = paths.checkpoints_dir(run.id) / "step-5"
        folder.mkdir(parents=True)
        store.record_checkpoint(session, run.id, 1, 5, folder, is_best=True)
        file = paths.predictions_dir(run.id) / "step-5.parquet"
        file.parent.mkdir(parents=True)
        file.touch()
        store.record_evaluation(session, run.id, 1, 5, "validation", file, rows=1, correct=1)
        run_id, config = run.id, run.config
    with sqlite3.connect(before / "results" / "spelltune.db") as table:
        kept = [table.execute(f"SELECT path FROM {t}").fetchone()[0] for t in TABLES]
        assert not any(Path(path).is_absolute() for path in kept)
        if old_rows:
            for name in TABLES:
                table.execute(f"UPDATE {name} SET path = ? || path", (f"{before}/",))
    table.close()
    shutil.move(before, after)
    monkeypatch.setenv("SPELLTUNE_HOME", str(after))
    with store.reading() as session:
        assert [c.path for c in store.list_checkpoints(session, run_id)] == [
            str(after / folder.relative_to(before))
        ]
        assert [e.path for e in store.list_evaluations(session, run_id)] == [
            str(after / file.relative_to(before))
        ]
    assert stored_config(config).data.path == str(after / "data" / "words.csv")
    assert stored_config(config).model.name == str(after / "models" / "own")


TABLES = ("checkpoint", "evaluation")


def test_a_path_outside_the_home_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPELLTUNE_HOME", str(tmp_path / "home"))
    for path in ("/elsewhere/data/words.csv", str(tmp_path / "data" / "words.csv")):
        assert paths.to_keep(path) == path == paths.found_again(path)
