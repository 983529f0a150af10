"""GGUF files that are no base model: each is refused by one sentence that says what to do."""

import os
import re
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.config import load_config, with_absolute_paths
from src.models.base_files import BaseFiles
from src.models.gguf import files as gguf_files
from src.models.gguf import problems
from src.models.gguf.files import gguf_file
from src.models.gguf.header import read_header, read_vocabulary
from src.models.gguf.problems import gguf_architectures, gguf_problem, quantization
from src.models.weight_files import BaseModelError
from src.runs import base_checks
from tests.helpers import gguf
from tests.helpers.gguf import Kind, bare

TOKENS: dict[str, Any] = {
    "tokenizer__ggml__model": "gpt2",
    "tokenizer__ggml__pre": "gpt-2",
    "tokenizer__ggml__tokens": ["a", "b", "ab"],
    "tokenizer__ggml__merges": ["a b"],
}


@pytest.fixture
def whole(base: Path, tmp_path: Path) -> Path:
    return gguf.write(tmp_path / "whole.gguf", base / "llama", Kind.Q8_0)


def changed(file: Path, at: int, content: bytes) -> Path:
    own = file.read_bytes()
    file.write_bytes(own[:at] + content + own[at + len(content) :])
    return file


def written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def cut(file: Path, missing: int) -> Path:
    file.write_bytes(file.read_bytes()[:-missing])
    return file


def of_type(file: Path, number: int) -> Path:
    """The file with another type of ggml for its last tensor."""
    header = read_header(file)
    name = header.tensors[-1].name.encode()
    at = file.read_bytes().index(name) + len(name) + 4 + 8 * len(header.tensors[-1].shape)
    return changed(file, at, struct.pack("<I", number))


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda f: written(f, b""), "is empty; download it again"),
    "another file": (lambda f: changed(f, 0, b"PK\3\4"), "does not begin with GGUF"),
    "git-lfs": (
        lambda f: written(f, b"version https://git-lfs.github.com/spec/v1\n"),
        "is a git-lfs pointer .* `git lfs pull`",
    ),
    "GGML": (lambda f: changed(f, 0, b"tjgg"), "the format that came before GGUF"),
    "big-endian": (lambda f: changed(f, 4, b"\0\0\0\3"), "for big-endian machines"),
    "version 1": (lambda f: changed(f, 4, b"\1\0\0\0"), "is of version 1 of the format"),
    "many keys": (lambda f: changed(f, 16, b"\xff" * 8), "has a damaged header"),
    "many tensors": (lambda f: changed(f, 8, b"\xff" * 8), "has a damaged header"),
    "long key": (lambda f: changed(f, 24, b"\xff" * 8), "has a damaged header"),
    "cut header": (lambda f: cut(f, f.stat().st_size - 200), "header does not end .* again"),
    "cut": (lambda f: cut(f, 100), r"is cut: \d+ of [\d,]+ bytes are missing; download"),
    "unknown type": (lambda f: of_type(f, 99), "the type 99 of ggml, .* such as Q8_0"),
    "no reader": (lambda f: of_type(f, 15), "quantized to Q8_K, which .* such as Q8_0"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file(what: str, whole: Path) -> None:
    change, sentence = DAMAGED[what]
    problem = gguf_problem(change(whole))
    assert problem and problem.startswith(str(whole)) and "\n" not in problem
    assert re.search(sentence, problem), problem


OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "adapter": ("llama", {"general__type": "adapter"}, "is a LoRA adapter and no base model"),
    "projector": ("clip", {"general__type": "mmproj"}, "is a projector for images"),
    "older projector": ("clip", {}, "is a projector for images"),
    "imatrix": ("llama", {"general__type": "imatrix"}, "is an importance matrix"),
    "second part": ("llama", {"split__no": 1, "split__count": 3}, "3 parts, and not the first,"),
    "first part": ("llama", {"split__no": 0, "split__count": 3}, "llama-gguf-split --merge"),
    "architecture": ("rwkv7", {}, "is a rwkv7 model, and transformers reads .*gemma2.*qwen3"),
    "encoder": ("bert", {}, "is a bert model"),
    "no tokenizer": ("llama", {}, "has no tokenizer; take"),
    "kind of tokenizer": ("llama", TOKENS | {"tokenizer__ggml__model": "rwkv"}, "the kind rwkv"),
    "split": ("llama", TOKENS | {"tokenizer__ggml__pre": "nobody"}, "splits text as nobody"),
    "no merges": ("llama", TOKENS | {"tokenizer__ggml__merges": None}, "has no merges"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_another_kind(what: str, tmp_path: Path) -> None:
    architecture, keys, sentence = OTHERS[what]
    problem = gguf_problem(bare(tmp_path / "one.gguf", architecture, **keys))
    assert problem and "one.gguf" in problem and "\n" not in problem
    assert re.search(sentence, problem), problem


def test_a_file_without_weights_is_a_vocabulary(tmp_path: Path) -> None:
    import gguf as library

    writer = library.GGUFWriter(tmp_path / "vocab.gguf", "llama")
    file = gguf.finish(writer, tmp_path / "vocab.gguf")
    assert "has no weights, only a vocabulary" in str(gguf_problem(file))


def test_a_disk_without_room_is_said_before_anything_is_written(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems.room_problem(read_header(whole), whole.parent) is None
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(problems.shutil, "disk_usage", lambda folder: usage)
    problem = problems.room_problem(read_header(whole), whole.parent)
    assert problem and "GiB converted to 16 bits" in problem and "SPELLTUNE_HOME" in problem


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 4000), content=st.binary(min_size=1, max_size=9))
def test_no_damage_is_more_than_a_sentence(whole: Path, at: int, content: bytes) -> None:
    own = whole.read_bytes()
    try:
        problem = gguf_problem(changed(whole, at, content))
        assert problem is None or "\n" not in problem.replace(str(whole), "")
    finally:
        whole.write_bytes(own)


def test_a_whole_file_has_no_problem_and_says_what_it_is(whole: Path) -> None:
    assert gguf_problem(whole) is None
    header = read_header(whole)
    assert (header.architecture, quantization(header)) == ("llama", "Q8_0")
    assert header.metadata["tokenizer.ggml.merges"]  # short arrays are kept
    assert len(read_vocabulary(whole)["tokenizer.ggml.tokens"]) == 320
    assert "llama" in gguf_architectures() and "t5" not in gguf_architectures()


def test_the_file_that_a_name_means(whole: Path, tmp_path: Path) -> None:
    assert gguf_file(str(whole)) == whole
    models = tmp_path / "models" / "publisher" / "model"  # as LM Studio keeps them
    models.mkdir(parents=True)
    file = models / "model-Q4_K_M.gguf"
    file.write_bytes(whole.read_bytes())
    bare(models / "mmproj-model-f16.gguf", "clip")
    assert gguf_file(str(models)) == gguf_file(str(models.parent)) == file
    (models / "model-Q8_0.gguf").write_bytes(whole.read_bytes())
    with pytest.raises(BaseModelError, match=r"several GGUF files: model-Q4_K_M.gguf, model-Q8_0"):
        gguf_file(str(models))
    with pytest.raises(BaseModelError, match="there is no file"):
        gguf_file(str(tmp_path / "gone.gguf"))
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in (1, 2, 3):
        keys = {"split__no": number - 1, "split__count": 3}
        bare(parts / f"m-0000{number}-of-00003.gguf", "llama", **keys)
    assert gguf_file(str(parts)) == parts / "m-00001-of-00003.gguf"
    blob = tmp_path / "sha256-77"  # as Ollama keeps them
    blob.write_bytes(whole.read_bytes())
    assert gguf_file(str(blob)) == blob
    for name in ("gpt2", "Qwen/Qwen3-0.6B", str(tmp_path / "nothing"), "a\0b"):
        assert gguf_file(name) is None
    note = tmp_path / "notes.txt"
    note.write_text("GG")
    assert gguf_file(str(note)) is None


def test_relative_names_and_those_with_a_tilde_become_whole(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("whole.gguf", "./whole.gguf", "~/whole.gguf"):
        config = with_absolute_paths(load_config(overrides={"model.name": name}))
        assert Path(config.model.name) == whole
    (tmp_path / "gpt2").write_text("a file of this name is no base model")
    config = with_absolute_paths(load_config(overrides={"model.name": "gpt2"}))
    assert config.model.name == "gpt2"


def test_the_launch_check_says_it(home: Path, whole: Path) -> None:
    cut(whole, 100)
    config = load_config(overrides={"model.name": str(whole)})
    with pytest.raises(BaseModelError, match="whole.gguf is cut"):
        base_checks.readable_base(config)
    assert BaseFiles(str(whole)).folder is None


def test_a_conversion_that_is_killed_is_a_sentence(
    home: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(base_checks.spawn, "run", lambda *args, **env: killed)
    with pytest.raises(BaseModelError, match="not converted: it was killed, .* memory"):
        base_checks.readable_base(load_config(overrides={"model.name": str(whole)}))


def test_the_converted_folders_are_bounded(home: Path) -> None:
    made = []
    for number in range(gguf_files.KEPT + 2):
        folder = gguf_files.cache_dir() / f"{number}"
        folder.mkdir(parents=True)
        (folder / gguf_files.RECORD).write_text("{}")
        old = time.time() - gguf_files.IN_USE_SECONDS * (2 if number < 3 else 0) - 100 + number
        os.utime(folder / gguf_files.RECORD, (old, old))
        made.append(folder)
    gguf_files.remove_oldest()
    assert [folder.exists() for folder in made] == [False, False, *[True] * gguf_files.KEPT]
    gguf_files.mark_used(made[2])
    made[0].mkdir()
    (made[0] / gguf_files.RECORD).write_text("{}")
    gguf_files.remove_oldest()  # the one in excess is in use
    assert all(folder.exists() for folder in made[2:])


def test_arrays_beyond_the_bound_are_counted(tmp_path: Path) -> None:
    file = bare(tmp_path / "long.gguf", "llama", one=list(range(5000)), two=["a"] * 5000)
    assert (read_header(file).metadata["one"], read_header(file).metadata["two"]) == (5000, 5000)
