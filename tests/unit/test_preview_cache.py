"""Previews of data that are kept on disk for the next launch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src import paths
from src.config import ConfigError, RunConfig, load_config
from src.file_cache import KEPT
from src.runs import checks, preview_cache

ROWS = "question,answer\n" + "".join(f"spell w{n}rd,w {n} r d\n" for n in range(100, 160))


@pytest.fixture
def made(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The data path of each config whose data are really read."""
    made: list[str | None] = []
    read = checks.data_preview

    def data_preview(config: RunConfig) -> dict[str, Any]:
        made.append(config.data.path)
        return read(config)

    monkeypatch.setattr(checks, "data_preview", data_preview)
    return made


@pytest.fixture
def own(home: Path) -> Path:
    (home / "words.csv").write_text(ROWS)
    return home / "words.csv"


def config_of(path: Path, **changes: object) -> RunConfig:
    return load_config(preset="tiny-spell", overrides={"data.path": str(path), **changes})


def test_the_same_data_are_read_once(made: list[str | None], own: Path) -> None:
    first = checks.check(config_of(own))
    assert first["rows"]["train"] > 30
    # What does not concern the data is looked at all the same.
    assert checks.check(config_of(own, **{"lora.r": 3})) == first
    assert made == [str(own)]
    with pytest.raises(ConfigError, match="4-bit"):
        checks.check(config_of(own, **{"model.load_in_4bit": True}))
    assert made == [str(own)]


def test_a_launch_of_known_data_loads_nothing_heavy(made: list[str | None], own: Path) -> None:
    checks.check(config_of(own))
    heavy = "{'numpy', 'pandas', 'pyarrow', 'transformers', 'torch'}"
    look = (
        "import sys; from src.cli import app\n"
        f"sys.argv = ['', 'preview', '--preset', 'tiny-spell', '--set', 'data.path={own}']\n"
        "try: app()\nexcept SystemExit as end: assert not end.code\n"
        f"print({heavy} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", look], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines()[-1] == "set()", told.stdout


def test_whatever_a_preview_depends_on_has_it_made_again(
    made: list[str | None], own: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = home / "base"
    shutil.copytree(paths.base_model("spelltune-tiny"), base)

    def check(**changes: object) -> int:
        before = len(made)
        checks.check(config_of(own, **{"model.name": str(base), **changes}))
        checks.check(config_of(own, **{"model.name": str(base), **changes}))
        return len(made) - before

    assert check() == 1 and check() == 0
    assert check(**{"data.template": "Q: {question}\nA:"}) == 1
    assert check(**{"model.max_length": 64}) == 1
    state = own.stat()
    own.write_text(ROWS.replace("w100rd,w 100 r d", "w100rd,w 100 r t"))
    os.utime(own, ns=(state.st_atime_ns, state.st_mtime_ns))  # of the same size, too
    assert check() == 1
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["truncation"] = None
    (base / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    assert check() == 1
    monkeypatch.setattr(preview_cache, "code_stamp", lambda: [["another version"]])
    assert check() == 1 and check() == 0


def test_a_folder_of_splits_is_known_by_all_of_its_files(
    made: list[str | None], home: Path
) -> None:
    folder = home / "splits"
    folder.mkdir()
    for name, rows in (("train", ROWS), ("dev", ROWS), ("test", ROWS)):
        (folder / f"{name}.csv").write_text(rows)
    first = checks.check(config_of(folder))
    assert checks.check(config_of(folder)) == first and len(made) == 1
    (folder / "dev.csv").rename(folder / "val.csv")
    assert checks.check(config_of(folder)) == first and len(made) == 2
    (folder / "val.csv").write_text(ROWS + "spell new,n e w\n")
    assert checks.check(config_of(folder))["rows"]["validation"] == 61


def test_refused_data_and_data_that_may_change_unseen_are_read_each_time(
    made: list[str | None], own: Path, home: Path
) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="longer than 16 tokens"):
            checks.check(config_of(own, **{"model.max_length": 16}))
        with pytest.raises(ConfigError, match="no file"):
            checks.check(config_of(home / "gone.csv"))
        checks.check(config_of(own, **{"evaluation.suites": ["general"]}))
    assert len(made) == 6 and not list(home.glob("results/cache/previews/*"))


def test_a_damaged_file_and_a_disk_that_takes_none_only_cost_time(
    made: list[str | None], own: Path, home: Path
) -> None:
    first = checks.check(config_of(own))
    (file,) = home.glob("results/cache/previews/*")
    for damaged in ("", "{", "[]", "null"):
        file.write_text(damaged)
        assert checks.check(config_of(own)) == first
    assert len(made) == 5
    shutil.rmtree(file.parent)
    file.parent.write_text("in the way")
    assert checks.check(config_of(own)) == first


def test_only_the_latest_are_kept(made: list[str | None], own: Path, home: Path) -> None:
    folder = home / "results" / "cache" / "previews"
    folder.mkdir(parents=True)
    for number in range(KEPT + 5):
        file = folder / str(number)
        file.write_text("{}")
        os.utime(file, (number, number))
    checks.check(config_of(own))
    left = {file.name for file in folder.iterdir()}
    assert len(left) == KEPT and str(KEPT + 4) in left and "5" not in left


def test_no_other_setting_of_data_names_a_file() -> None:
    fields = type(load_config().data).model_fields
    texts = {name for name, field in fields.items() if "str" in str(field.annotation)}
    # What a new one names must be in the key of a preview by its content.
    assert texts == {"task", "mix", "path", "hub_id", "revision", "template", "system_prompt"}
