"""The base of a pack as it is kept on the disk: what transformers reads, to the bit, without it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from src.config import RunConfig
from src.file_cache import FileCache
from src.models import preloaded
from src.models.gguf import files as gguf_files
from src.models.prompt_format import PromptError, raw_format
from src.models.spelling_model import load_vocabulary, lora_config
from src.training import scoring
from src.training.packed import base_cache, shared_base, templates
from src.training.packed.base_cache import StoredTokenizer
from src.training.packed.eligibility import files_of
from src.training.packed.engine import train_one, train_pack
from src.training.packed.run import RunSpec
from src.training.packed.shared_base import SharedBase, read_ahead
from tests.helpers import gguf, tiny
from tests.helpers.families import MODELS, random_model

TEXTS = ["apple", " two  words ", "Größe €5 ✓", "", "<|end|> as text", "a\nb", "e\u0301"]


def config_of(folder: Path, **changes: Any) -> RunConfig:
    values = {"engine": "packed", "lora.dropout": 0.0, "model.name": str(folder), **changes}
    return tiny.config_of(folder.parent, **values)


def loaded(config: RunConfig, cache: Path | None) -> SharedBase:
    return SharedBase.load(config, tiny.Recorder(), cache)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the bases that transformers really reads."""
    found: list[str] = []
    load_base = shared_base.load_base

    def counted(name: str, *args: Any, **more: Any) -> Any:
        found.append(name)
        return load_base(name, *args, **more)

    monkeypatch.setattr(shared_base, "load_base", counted)
    return found


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A base of this test's own, with data beside it."""
    tiny.save_model(tmp_path / "gpt2", "gpt2")
    tiny.data(tmp_path / "words")
    return tmp_path


def parts_of(value: Any, name: str = "") -> dict[str, Any]:
    """All that a base is made of; of a tensor its numbers and how they lie in memory."""
    if isinstance(value, torch.Tensor):
        return {name: (value.dtype, value.shape, value.stride(), value.flatten().tolist())}
    if isinstance(value, StoredTokenizer):
        return {name: (value.backend_tokenizer.to_str(), value.eos_token, value.pad_token_id)}
    fields: dict[Any, Any] = {}
    if isinstance(value, tuple | list):
        fields = dict(enumerate(value))
    elif hasattr(value, "__dict__"):
        fields = vars(value)
    if not fields:
        return {name: value}
    parts = {f"{name} type": type(value)}
    for key, part in fields.items():
        parts |= parts_of(part, f"{name}.{key}")
    return parts


@pytest.mark.parametrize("name", ["gpt2", *MODELS])
def test_a_kept_base_is_the_one_that_was_read(name: str, tmp_path: Path, read: list[str]) -> None:
    folder = tmp_path / "base"
    if name == "gpt2":
        tiny.save_model(folder, "gpt2")
    else:
        torch.manual_seed(0)
        random_model(name).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
    tiny.data(tmp_path / "words")
    # No row is longer than the windows of some.
    config = config_of(folder, **{"model.max_length": 24, "evaluation.max_new_tokens": 8})
    first, second = (loaded(config, tmp_path / "cache") for _ in range(2))
    assert len(read) == 1
    assert parts_of(first.read) == parts_of(second.read)
    assert first.setup(config) == second.setup(config) and first.folder == second.folder
    assert first.vocabulary.fingerprint == load_vocabulary(str(folder)).fingerprint
    assert second.vocabulary.fingerprint == first.vocabulary.fingerprint


@pytest.mark.parametrize("special", [True, False])
def test_a_stored_tokenizer_cuts_and_joins_as_transformers_does(own: Path, special: bool) -> None:
    theirs = load_vocabulary(str(own / "gpt2")).tokenizer
    # What a file may ask for, and a training never wants.
    theirs.backend_tokenizer.enable_padding(length=40)
    theirs.backend_tokenizer.enable_truncation(3)
    stored = loaded(config_of(own / "gpt2"), None).tokenizer
    assert isinstance(stored, StoredTokenizer)
    expected = theirs(TEXTS, add_special_tokens=special)["input_ids"]
    mine = StoredTokenizer.of(theirs)
    assert mine is not None
    assert stored(TEXTS, add_special_tokens=special)["input_ids"] == expected
    assert mine(TEXTS, add_special_tokens=special)["input_ids"] == expected
    assert scoring.texts_of(stored, expected) == scoring.texts_of(theirs, expected)
    assert (stored.eos_token_id, stored.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)
    form = raw_format("Spell {question}:")
    frame = tiny.frame(tiny.WORDS)
    assert scoring.encode(stored, frame, form) == scoring.encode(theirs, frame, form)
    theirs.split_special_tokens = True  # which the text of its backend does not say
    assert StoredTokenizer.of(theirs) is None


def test_what_decides_a_base_decides_which_is_taken(own: Path, read: list[str]) -> None:
    cache, folder = own / "cache", own / "gpt2"

    def times(**changes: Any) -> int:
        base = loaded(config_of(folder, **changes), cache)
        fresh = loaded(config_of(folder, **changes), None)
        assert parts_of(base.read) == parts_of(fresh.read)
        return len(read)

    assert (times(), times()) == (2, 3)  # each second one is read without a cache
    assert times(**{"lora.target_modules": ["c_attn"]}) == 5
    assert times(**{"lora.r": 4, "model.max_length": 60, "training.seed": 7}) == 6
    assert times(**{"training.precision": "bf16"}) == 8
    tiny.save_model(folder, "gpt2", seed=1)  # other weights under the same name
    assert (times(), times()) == (10, 11)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert (times(), times()) == (13, 14)


def test_a_gguf_file_is_kept_once_it_is_converted(home: Path, base: Path, read: list[str]) -> None:
    """The record beside its converted weights is touched at each use."""
    file = gguf.write(home / "tiny.gguf", base / "llama", gguf.Kind.F16)
    config = tiny.config_of(
        base, **{"engine": "packed", "lora.dropout": 0.0, "model.name": str(file)}
    )
    parts = []
    for _ in range(4):
        parts.append(parts_of(loaded(config, home / "cache").read))
        folder = gguf_files.converted(Path(file))
        assert folder is not None
        os.utime(folder / gguf_files.RECORD, (1, 1))
    assert len(read) == 2 and parts[0] == parts[1] == parts[2] == parts[3]


def test_a_base_of_the_hub_is_kept_for_a_commit_alone(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a branch, or without a revision, transformers asks the hub for its newest files."""
    commit, hub = "0123456789" * 4, own / "hub"
    there = hub / "models--me--tiny"
    shutil.copytree(own / "gpt2", there / "snapshots" / commit)
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    kept = {}
    for revision in (None, "main", commit):
        config = config_of(own / "gpt2", **{"model.name": "me/tiny", "model.revision": revision})
        assert files_of(config).is_here
        kept[revision] = shared_base._stays(config)
    assert kept == {None: False, "main": False, commit: True}


def test_files_that_change_while_they_are_read_are_not_kept(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cache, load_base = config_of(own / "gpt2"), own / "cache", shared_base.load_base

    def replaced(name: str, *args: Any, **more: Any) -> Any:
        model = load_base(name, *args, **more)
        tiny.save_model(own / "gpt2", "gpt2", seed=1)
        return model

    with monkeypatch.context() as patched:
        patched.setattr(shared_base, "load_base", replaced)
        read_ahead(config, cache)
    fresh = parts_of(loaded(config, None).read)
    assert parts_of(loaded(config, cache).read) == fresh
    assert parts_of(loaded(config, cache).read) == fresh


def test_a_prompt_that_the_base_has_not_ends_its_run_alone(own: Path) -> None:
    """The first run of a pack loads the base for all."""
    specs = [
        RunSpec(
            config_of(own / "gpt2", **{"data.template": template}), tiny.Recorder(),
            own / str(number), own / str(number) / "steps", cache_dir=own / "cache",
        )
        for number, template in enumerate(("chat", "Spell {question}:"))
    ]  # fmt: skip
    ends = {one.output_dir.name: outcome for one, outcome in train_pack(specs)}
    assert isinstance(ends["0"], PromptError) and not isinstance(ends["1"], Exception)


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    left, young = tmp_path / ".key.123", tmp_path / ".other.124"
    for file in (left, young):
        file.write_text("half of it")
    os.utime(left, (1, 1))
    cache.write("key", lambda file: file.write_text("whole"))
    assert cache.has("key") and not left.exists() and young.exists()
    assert not FileCache(tmp_path / "key").has("key")  # no folder


def test_a_file_that_the_disk_damaged_is_read_anew(own: Path, read: list[str]) -> None:
    config, cache = config_of(own / "gpt2"), own / "cache"
    expected = parts_of(loaded(config, cache).read)
    (file,) = (cache / "bases").iterdir()
    whole = file.read_bytes()
    damages = [whole[: len(whole) // 2], b"", b"nothing of the kind"]
    for place in range(100, len(whole), len(whole) // 40):
        damages.append(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
    for damage in damages:
        file.write_bytes(damage)
        assert parts_of(loaded(config, cache).read) == expected
    assert len(read) == 1 + len(damages)
    file.write_bytes(whole)
    assert parts_of(loaded(config, cache).read) == expected


def test_a_base_that_was_read_ahead_is_taken_and_kept(own: Path, read: list[str]) -> None:
    config, cache = config_of(own / "gpt2"), own / "cache"
    read_ahead(config, None)
    expected = parts_of(loaded(config, None).read)
    assert read == [str(own / "gpt2")]  # taken, and gone
    assert parts_of(loaded(config, cache).read) == expected and len(read) == 2
    read_ahead(config, cache)  # from the disk
    assert parts_of(loaded(config, None).read) == expected and len(read) == 2
    read_ahead(config, cache)
    loaded(config_of(own / "gpt2", **{"lora.target_modules": ["c_attn"]}), cache)
    assert len(read) == 3
    assert preloaded._kept is None  # the memory of what was not needed is free again


def test_a_large_base_and_a_tokenizer_of_its_own_kind_are_not_kept(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, folder = own / "cache", own / "gpt2"
    with monkeypatch.context() as patched:
        patched.setattr(base_cache, "MAX_BYTES", 1000)
        loaded(config_of(folder), cache)
    assert not (cache / "bases").exists()

    class Cleaning:
        split_special_tokens = False
        clean_up_tokenization_spaces = True
        backend_tokenizer = type("Backend", (), {"model": object()})

    assert StoredTokenizer.of(Cleaning()) is None and StoredTokenizer.of(object()) is None
    with monkeypatch.context() as patched:
        patched.setattr(StoredTokenizer, "of", lambda tokenizer: None)
        base = loaded(config_of(folder), cache)
    assert not (cache / "bases").exists() and base.tokenizer.eos_token == "<|end|>"


@pytest.mark.parametrize("name", ["gpt2", "OPT", "SmolLM2"])
def test_the_configuration_of_an_adapter_is_that_of_peft(name: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    folder = tmp_path / "base"
    if name == "gpt2":
        tiny.save_model(folder, "gpt2")
    else:
        random_model(name).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
    tiny.data(tmp_path / "words")
    config = config_of(folder, **{"training.max_steps": 1, "lora.r": 3, "lora.alpha": 6.5})
    cache = tmp_path / "cache"
    for attempt in "ab":
        out = tmp_path / attempt
        train_one(RunSpec(config, tiny.Recorder(), out, out / "steps", cache_dir=cache))
        templates.templates.cache_clear()
        written = (out / "final/adapter_config.json").read_text()
        (step,) = (out / "steps").glob("*/adapter_config.json")
        assert step.read_text() == written
        from transformers import AutoModelForCausalLM

        asked = lora_config(
            r=3, alpha=6.5, dropout=0.0, targets=json.loads(written)["target_modules"],
            bias="none", conv1d=name == "gpt2",
        )  # fmt: skip
        made = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), asked)
        made.save_pretrained(tmp_path / "theirs")
        theirs = json.loads((tmp_path / "theirs/adapter_config.json").read_text())
        theirs["target_modules"].sort()
        assert json.loads(written) == theirs
        assert written == json.dumps(theirs, indent=2, sort_keys=True)


def test_damaged_templates_are_made_anew(tmp_path: Path) -> None:
    def found() -> Any:
        templates.templates.cache_clear()
        return templates.templates(tmp_path)

    expected = found()
    (file,) = (tmp_path / "templates").iterdir()
    text = file.read_text()
    for damage in ("", text[:50], text.replace("LORA", "LORE")):
        file.write_text(damage)
        assert found() == expected and file.read_text() == text


PACK = """
import sys
from pathlib import Path
from src.config import RunConfig
from src.file_cache import FileCache
from src.training.packed.eligibility import files_of
from src.training.packed.engine import train_pack
from src.training.packed.run import RunSpec
from tests.helpers import gguf, tiny

own, name = Path(sys.argv[1]), sys.argv[2]
config = tiny.config_of(own, **{"engine": "packed", "lora.dropout": 0.0})
spec = RunSpec(config, tiny.Recorder(), own / name, own / name / "steps", cache_dir=own / "cache")
((_, outcome),) = train_pack([spec])
assert not isinstance(outcome, Exception), outcome
slow = {"transformers", "peft", "scipy", "accelerate", "datasets", "torch._dynamo", "sympy"}
print(*sorted(slow & set(sys.modules)))
"""


def test_a_pack_on_a_known_base_imports_no_library_of_models_or_compilers(own: Path) -> None:
    """They take longer than all else before the first step, and than a short training."""
    said = []
    for name in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", PACK, str(own), name],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said[1] == [] and "transformers" in said[0]
    for file in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        one, other = ((own / name / "final" / file).read_bytes() for name in ("first", "second"))
        assert one == other, file


def test_runs_of_a_kept_base_are_the_same_runs(own: Path, read: list[str]) -> None:
    curves = []
    for name, cache in (("a", own / "cache"), ("b", own / "cache"), ("c", None)):
        specs = [
            RunSpec(
                config_of(own / "gpt2", **{"training.seed": seed}), tiny.Recorder(),
                own / name / str(seed), own / name / str(seed) / "steps", cache_dir=cache,
            )
            for seed in (0, 1)
        ]  # fmt: skip
        ends = train_pack(specs)
        assert not [outcome for _, outcome in ends if isinstance(outcome, Exception)]
        names = ("train/loss", "val/loss", "test/loss")
        recorders = [cast(tiny.Recorder, spec.reporter) for spec in specs]
        curves.append([one.curve(name) for one in recorders for name in names])
    assert curves[0] == curves[1] == curves[2] and len(read) == 2
