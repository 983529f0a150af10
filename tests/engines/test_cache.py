"""What the next run takes from the disk: scores of its base model, and rows in tokens."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.file_cache import KEPT, FileCache
from src.models import preloaded
from src.models.prompt_format import raw_format
from src.training import row_cache, scoring
from src.training.train import train
from tests.helpers import tiny

ONE_STEP = {"training.max_steps": 1, "evaluation.eval_steps": 1, "scheduler.warmup_steps": 0}


@pytest.fixture
def own(base: Path, tmp_path: Path) -> Path:
    """A base model and words that a test may change."""
    tiny.save_model(tmp_path / "gpt2", "gpt2")
    tiny.data(tmp_path / "words")
    return tmp_path


def trained(own: Path, name: str, *, cache: Path | None, **changes: Any) -> tiny.Recorder:
    recorder = tiny.Recorder()
    train(
        tiny.config_of(own, **ONE_STEP | changes),
        recorder,
        output_dir=own / name,
        checkpoints_dir=own / name / "checkpoints",
        cache_dir=cache,
    )
    return recorder


def scorings(recorder: tiny.Recorder) -> int:
    """How often the run computed scores of its validation rows: at steps 0 and 1."""
    phases = [phase for phase in recorder.phases if phase.startswith("validation ")]
    first = min(phases, key=lambda phase: int(phase.split()[1]))
    return phases.count(first)


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_the_next_run_takes_the_scores_of_its_base_from_the_disk(own: Path, engine: str) -> None:
    cache = own / "cache"
    first = trained(own, "a", cache=cache, engine=engine)
    assert scorings(first) == 2 and len(list(cache.glob("base_scores/*"))) == 1
    other = {"training.seed": 7, "training.learning_rate": 1e-3, "lora.r": 2}
    second = trained(own, "b", cache=cache, engine=engine, **other)
    assert scorings(second) == 1
    for name in ("val/loss", "val/exact_match", "val/token_accuracy", "val/cer"):
        assert second.curve(name)[0] == first.curve(name)[0]
    (step, split, table), *_ = second.evaluations
    assert (step, split) == (0, "validation") and table.equals(first.evaluations[0][2])
    # They are those that it would have computed.
    alone = trained(own, "c", cache=None, engine=engine, **other)
    assert scorings(alone) == 2
    assert alone.curve("val/loss") == second.curve("val/loss")
    assert alone.evaluations[0][2].equals(table) and not list(own.glob("c/**/*.parquet"))


def test_scores_are_those_of_the_same_base_rows_settings_and_engine(own: Path) -> None:
    cache = own / "cache"

    def computes(name: str, **changes: Any) -> bool:
        return scorings(trained(own, name, cache=cache, **changes)) == 2

    assert computes("a") and not computes("b")
    assert computes("c", engine="packed")
    assert computes("d", **{"evaluation.batch_size": 3})
    assert computes("e", **{"evaluation.max_new_tokens": 5})
    assert computes("f", **{"data.template": "Spell {question}:"})
    weights = own / "gpt2" / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert computes("g") and not computes("h")
    for file in cache.glob("base_scores/*"):
        file.write_bytes(file.read_bytes()[:-1])
    assert computes("i") and not computes("j")


def test_a_resumed_run_does_not_take_them_for_its_own(own: Path) -> None:
    cache = own / "cache"
    first = trained(own, "a", cache=cache)
    (_, checkpoint, _) = first.checkpoints[-1]
    again = tiny.Recorder()
    train(
        tiny.config_of(own, **ONE_STEP | {"training.max_steps": 2}),
        again,
        output_dir=own / "a",
        checkpoints_dir=own / "a" / "checkpoints",
        resume_from=checkpoint,
        cache_dir=cache,
    )
    assert 0 not in again.curve("val/loss")
    assert len(list(cache.glob("base_scores/*"))) == 1


def test_a_folder_that_takes_no_files_changes_nothing(own: Path) -> None:
    (own / "cache").write_text("a file")
    first = trained(own, "a", cache=own / "cache", engine="packed")
    assert scorings(first) == 2


def test_the_oldest_files_are_removed(own: Path) -> None:
    folder = own / "cache" / "base_scores"
    folder.mkdir(parents=True)
    for age in range(KEPT):
        (folder / str(age)).touch()
        os.utime(folder / str(age), (age, age))
    trained(own, "a", cache=own / "cache", engine="packed")
    left = {file.name for file in folder.iterdir()}
    assert len(left) == KEPT and "0" not in left and "1" in left


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the rows that are really tokenized."""
    found: list[int] = []
    encode = row_cache.encode

    def counted(tokenizer: Any, frame: Any, form: Any) -> Any:
        found.append(len(frame))
        return encode(tokenizer, frame, form)

    monkeypatch.setattr(row_cache, "encode", counted)
    return found


def test_rows_are_tokenized_once(own: Path, encoded: list[int]) -> None:
    def rows(template: str = "Spell {question}:", task: str | None = None) -> Any:
        vocabulary = preloaded.load_vocabulary(str(own / "gpt2"))
        cache = row_cache.RowCache(own / "cache", str(own / "gpt2"), None)
        frame = tiny.frame(tiny.WORDS[:5])
        if task:
            frame = frame.assign(task=task)
        form = raw_format(template)
        found = cache.encode(vocabulary.tokenizer, frame, form)
        assert found == scoring.encode(vocabulary.tokenizer, frame, form)
        return len(encoded)

    assert rows() == rows() == 1
    assert rows("Spell {question}") == rows("Spell {question}") == 2
    assert rows(task="spell_out") == rows(task="spell_out") == 3
    # Another tokenizer under the name, and a file whose content the disk has lost.
    tokenizer = own / "gpt2" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert rows() == rows() == 4
    for file in (own / "cache" / "rows").iterdir():
        content = bytearray(file.read_bytes())
        content[8:40] = bytes(32)
        file.write_bytes(content)
    assert rows() == rows() == 5


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_the_next_run_trains_on_the_same_rows(own: Path, encoded: list[int], engine: str) -> None:
    first = trained(own, "a", cache=own / "cache", engine=engine)
    assert sorted(encoded) == [5, 5, 15]
    second = trained(own, "b", cache=own / "cache", engine=engine)
    assert sorted(encoded) == [5, 5, 15]
    for name in ("train/loss", "val/loss", "test/loss"):
        assert first.curve(name) == second.curve(name)


def test_a_disk_that_is_nearly_full_gets_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    cache = FileCache(tmp_path / "cache" / "rows")
    for name, few in (("f_favail", 10), ("f_bavail", 10)):
        fields = {field: getattr(disk, field) for field in dir(disk) if field.startswith("f_")}
        state = SimpleNamespace(**fields | {"f_files": 1000, "f_favail": 900} | {name: few})
        monkeypatch.setattr(os, "statvfs", lambda path, state=state: state)
        cache.write("a", lambda file: file.write_text("content"))
        assert not (tmp_path / "cache").exists()
    monkeypatch.undo()
    cache.write("a", lambda file: file.write_text("content"))
    assert cache.read("a", Path.read_text) == "content"
