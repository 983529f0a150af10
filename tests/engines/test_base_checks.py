"""A base model that no run could train on is found by the check before the launch, in words."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.config import ConfigError, RunConfig, load_config
from src.models import spelling_model as spelling
from src.models.base_files import BaseFiles
from src.models.base_problems import causal_architectures
from src.models.utils import ModelError
from src.paths import ROOT
from src.runs import checks, machine
from tests.helpers import tiny

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 14000000\n"


def changed(file: str, **values: Any) -> Callable[[Path], None]:
    """Set fields of a JSON file of the base; None takes the field out."""

    def change(base: Path) -> None:
        document = json.loads((base / file).read_text()) | values
        kept = {name: value for name, value in document.items() if value is not None}
        (base / file).write_text(json.dumps(kept))

    return change


def written(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda base: (base / file).write_bytes(content) and None


def adapter(base: Path) -> None:
    (base / "config.json").unlink()
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')


def truncated(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def sharded(base: Path) -> None:
    (base / "model.safetensors").unlink()
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def more_tokens(base: Path) -> None:
    words = tiny.tokenizer()
    words.add_tokens([f"token{n}" for n in range(40)])
    words.save_pretrained(base)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "adapter": (adapter, "is a LoRA adapter and no base model; take gpt2, or merge"),
    "no config": (lambda base: (base / "config.json").unlink(), "has no config.json"),
    "cut config": (written("config.json", b'{"model_type": '), "config.json cannot be read"),
    "list as config": (written("config.json", b"[1]"), "config.json holds no object"),
    "pointer as config": (written("config.json", POINTER), "config.json is a git-lfs pointer"),
    "no type": (changed("config.json", model_type=None), "names no model_type"),
    "encoder": (changed("config.json", model_type="t5"), "is a t5 model, and the installed"),
    "unheard of": (changed("config.json", model_type="gpt9"), "is a gpt9 model"),
    "own code": (changed("config.json", auto_map={"AutoConfig": "a.B"}), "brings its own code"),
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "has no weights"),
    "pointer as weights": (written("model.safetensors", POINTER), "safetensors is a git-lfs point"),
    "cut weights": (truncated, "model.safetensors is damaged or not complete"),
    "empty weights": (written("model.safetensors", b""), "is damaged or not complete"),
    "endless header": (
        written("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "is damaged or not complete",
    ),
    "other rows": (changed("config.json", vocab_size=310), "and its weights have 320 rows"),
    "fewer layers": (changed("config.json", n_layer=3), "asks for 3 layers, and its weights have"),
    "lost shard": (sharded, "lacks model-00001-of-00002.safetensors"),
    "no tokenizer": (lambda base: (base / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "pointer as tokenizer": (written("tokenizer.json", POINTER), "tokenizer.json is a git-lfs"),
    "cut tokenizer": (written("tokenizer.json", b'{"version": "1.0"'), "json cannot be read"),
    "no EOS": (changed("tokenizer_config.json", eos_token=None), "has no EOS token"),
    "many tokens": (more_tokens, "has 340 tokens, but its model has 320"),
}


@pytest.fixture
def own(base: Path, tmp_path: Path) -> Path:
    """A base model that a test may damage."""
    shutil.copytree(base / "gpt2", tmp_path / "own")
    return tmp_path / "own"


def refusal(config: RunConfig) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        checks.check(config)
    return refused.value.problems


@pytest.mark.parametrize("case", BROKEN)
def test_a_base_that_cannot_be_loaded(case: str, base: Path, own: Path, home: Path) -> None:
    damage, words = BROKEN[case]
    good = tiny.config_of(base, **{"model.name": str(own)})
    damage(own)
    problems = refusal(good)
    assert list(problems) == ["model.name"] and words in problems["model.name"]
    # The check is no stricter than the training.
    with pytest.raises(ModelError):
        vocabulary = spelling.load_vocabulary(str(own))
        spelling.load_base(
            str(own), vocabulary, revision=None, load_in_4bit=False, max_length=64,
            precision="fp32", backend="peft", gradient_checkpointing=False, seed=0,
        )  # fmt: skip


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_target_modules_that_are_not_there(shape: str, base: Path, home: Path) -> None:
    files = BaseFiles(str(base / shape))
    layers = files.linear_layers() or []
    for targets in ([layers[0]], layers):
        named = {"model.name": str(base / shape), "lora.target_modules": targets}
        assert checks.setting_problems(tiny.config_of(base, **named)) == {}
    embedding = "wte" if shape == "gpt2" else "embed_tokens"
    for wrong in ("queries", "lm_head", embedding, "ln_1", "model"):
        named |= {"lora.target_modules": [layers[0], wrong]}
        found = checks.setting_problems(tiny.config_of(base, **named))["lora.target_modules"]
        assert found == f"this model has no linear layer {wrong}; it has {', '.join(layers)}"


def test_the_layers_are_those_that_peft_would_adapt(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    for folder in (base / "gpt2", base / "llama", ROOT / "checkpoints" / "base" / "spelltune-tiny"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert BaseFiles(str(folder)).linear_layers() == spelling.resolve_targets(model, None)
        context = model.config.max_position_embeddings
        assert BaseFiles(str(folder)).context_tokens == context


def test_rows_beyond_the_context_of_the_base(base: Path, tmp_path: Path, home: Path) -> None:
    long = {"data.template": "x " * 100 + "{question}", "model.max_length": 512}
    problem = refusal(tiny.config_of(base, **long))["model.max_length"]
    assert "rows longer than the base model's context of 128, the longest has" in problem
    short = {"data.template": "{question}", "model.max_length": 512}
    assert checks.check(tiny.config_of(base, **short))["max_length"] == 512


@pytest.mark.parametrize(
    ("devices", "bf16", "changes", "field"),
    [
        ({}, True, {"training.precision": "fp16"}, "training.precision"),
        ({"0": "T4"}, False, {"training.precision": "bf16"}, "training.precision"),
        ({"0": "T4"}, False, {"engine": "packed"}, "engine"),
        ({"0": "T4"}, False, {"engine": "auto"}, None),
        ({"0": "H200"}, True, {"training.precision": "bf16"}, None),
        ({"0": "H200"}, True, {"engine": "packed"}, None),
    ],
)
def test_a_precision_that_the_machine_does_not_have(
    devices: dict[str, str],
    bf16: bool,
    changes: dict[str, Any],
    field: str | None,
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
) -> None:
    for module in (checks, machine):
        monkeypatch.setattr(module, "gpus", lambda: devices)
        monkeypatch.setattr(module, "has_bf16", lambda device: bf16)
    found = checks.setting_problems(load_config(overrides=changes))
    assert list(found) == ([field] if field else [])


def test_a_base_on_the_hub_is_checked_by_what_is_here_of_it(
    base: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the check of the data downloaded its small files."""
    here = {name: base / "gpt2" / name for name in ("config.json", "tokenizer.json")}
    monkeypatch.setattr(BaseFiles, "find", lambda self, name: here.get(name))
    hub = {"model.name": "someone/words"}
    targets = checks.setting_problems(tiny.config_of(base, **hub, **{"lora.target_modules": ["q"]}))
    assert "no linear layer q; it has c_attn, c_fc, c_proj" in targets["lora.target_modules"]
    config = json.loads(here["config.json"].read_text()) | {"activation_function": "mish"}
    here["config.json"] = home / "config.json"
    here["config.json"].write_text(json.dumps(config))
    packed = checks.setting_problems(tiny.config_of(base, **hub, engine="packed"))
    assert "the packed engine has no mish for gpt2 shapes" in packed["engine"]


def test_the_check_knows_the_architectures_and_imports_no_torch(base: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_architectures() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    code = (
        "import sys; from src.config import load_config; from src.runs import checks; "
        "checks.check(load_config()); "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"
