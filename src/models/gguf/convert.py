"""Converts a GGUF file to a folder that transformers reads, once: see `gguf.files` for where.

transformers dequantizes the weights and names the configuration; what it leaves out or guesses is
taken from the file here, and a file with something that would be lost is refused.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from src.files import alone
from src.models.gguf import files as gguf_files
from src.models.gguf.header import GgufHeader, read_header, read_vocabulary
from src.models.gguf.problems import gguf_problem, quantization, room_problem
from src.models.gguf.tokenizer import write_tokenizer
from src.models.pretrained import one_line
from src.models.weight_files import BaseModelError

_F32, _LIKE_BF16 = 0, {30, 39, 40}  # types of ggml: BF16, MXFP4, NVFP4
# Tensors that are part of the configuration: see `_set_rope`.
_ROPE_FACTORS = "rope_freqs.weight"
# Of Llama 3.1 and later, whose files have only the factors that follow from them.
_LLAMA3_ROPE = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def readable(name: str) -> str:
    """The name under which transformers reads a base model: of a GGUF file its folder, which is
    made here where it is not there yet."""
    file = gguf_files.gguf_file(name)
    return name if file is None else str(convert(file))


def convert(file: Path) -> Path:
    """The folder with the model of a GGUF file, converted if nobody has done it before.

    BaseModelError says why a file cannot be a base model.
    """
    folder = gguf_files.converted(file)
    if folder is None:
        if problem := gguf_problem(file):
            raise BaseModelError(problem)
        try:
            folder = _converted_once(file)
        except BaseModelError as error:
            # What is said of its parts names no file.
            known = str(file) in str(error)
            raise error if known else BaseModelError(f"{file} {error}") from None
        except OSError as error:
            why = (error.strerror or one_line(error)).lower()
            where = gguf_files.cache_dir()
            raise BaseModelError(
                f"{file} cannot be converted to {where}: {why}; see that it can be written and has "
                "room"
            ) from error
    gguf_files.mark_used(folder)
    return folder


def _converted_once(file: Path) -> Path:
    content = gguf_files.content_of(file)
    target = gguf_files.cache_dir() / content
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Without locks both convert, and the second one replaces.
    with alone(target.parent / f".{content}.lock", seconds=math.inf):
        if not (target / gguf_files.RECORD).is_file():  # another process was first
            header = read_header(file)
            if problem := room_problem(header, target.parent):
                raise BaseModelError(problem)
            # A leftover of a process that died; its lock is ours now.
            for left in target.parent.glob(f".{content}.*"):
                shutil.rmtree(left, ignore_errors=True)
            staged = Path(tempfile.mkdtemp(prefix=f".{content}.", dir=target.parent))
            try:
                _write(header, content, staged)
                if gguf_files.content_of(file) != content:
                    raise BaseModelError("changed while it was read; try again")
                shutil.rmtree(target, ignore_errors=True)
                staged.replace(target)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
            gguf_files.remove_oldest()
    return target


def _write(header: GgufHeader, content: str, folder: Path) -> None:
    """Write the model of a file, its tokenizer and what it was into an empty folder."""
    metadata = read_vocabulary(header.path)
    with _names_mapped_once():
        model = _load(header, metadata)
    model.save_pretrained(str(folder))
    del model
    write_tokenizer(metadata, folder, context=header.own("context_length"))
    record = {
        "file": header.path.name,
        "sha256": content,
        "architecture": header.architecture,
        "quantization": quantization(header),
        "name": metadata.get("general.name"),
        "license": metadata.get("general.license"),
    }
    (folder / gguf_files.RECORD).write_text(json.dumps(record, indent=2) + "\n")
    for file in folder.iterdir():  # after a power cut they would be there without content
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())


@contextmanager
def _names_mapped_once() -> Iterator[None]:
    """Keep the names that `gguf` maps for an architecture: transformers asks it for each module of
    the model again, which takes longer than all weights."""
    import gguf

    original = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = cache(original)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = original


def _load(header: GgufHeader, metadata: Mapping[str, Any]) -> Any:
    """The model of a file in 16 bits, or in 32 where the file has them."""
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    # Their own annotations do not say what comes back with `output_loading_info`.
    configs: Any = AutoConfig
    models: Any = AutoModelForCausalLM
    logging.disable_progress_bar()  # of transformers; its reader of GGUF has one of its own
    with tempfile.TemporaryDirectory() as name:
        # transformers goes by the ending of its name.
        (Path(name) / "model.gguf").symlink_to(header.path.resolve())
        read = {"gguf_file": "model.gguf", "local_files_only": True}
        try:
            config = configs.from_pretrained(name, **read)
            _complete(config, header, metadata)
            model, found = models.from_pretrained(
                name,
                **read,
                config=config,
                dtype=_dtype(header),
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
        except BaseModelError:
            raise
        # Whatever the reader of transformers raises, it is said of this file.
        except Exception as error:
            raise BaseModelError(f"cannot be read by transformers: {one_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise BaseModelError(f"lacks weights: {_some(missing)}; download it again")
    if lost := _unread(model, header):
        raise BaseModelError(
            f"has weights that transformers does not read: {_some(lost)}; take the model in "
            "transformers' own format from the hub"
        )
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise BaseModelError(f"has numbers in {name} that are not finite; download it again")
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.eos_token_id = model.generation_config.eos_token_id = config.eos_token_id
    return model


def _dtype(header: GgufHeader) -> torch.dtype:
    """Of the weights when they are saved. Scales of a quantization are numbers of fp16, which keeps
    three more bits of each weight than bf16; other files have the exponents of bf16."""
    kinds = {tensor.type for tensor in header.tensors if len(tensor.shape) > 1}
    if kinds == {_F32}:
        return torch.float32
    return torch.bfloat16 if kinds & _LIKE_BF16 else torch.float16


def _complete(config: Any, header: GgufHeader, metadata: Mapping[str, Any]) -> None:
    """Set what transformers leaves at the defaults of a class."""
    for name, key in (
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "padding_token_id"),
    ):
        setattr(config, name, metadata.get(f"tokenizer.ggml.{key}"))
    if hasattr(config, "head_dim") and (length := header.own("attention.key_length")):
        config.head_dim = length
    names = {tensor.name for tensor in header.tensors}
    if header.architecture == "gpt2":  # which transformers reads into fields that GPT-2 has not
        config.n_positions = header.own("context_length", config.n_positions)
        config.n_inner = header.own("feed_forward_length", config.n_inner)
    if header.architecture == "llama":
        config.attention_bias = "blk.0.attn_q.bias" in names
    _set_rope(config, header)


def _set_rope(config: Any, header: GgufHeader) -> None:
    """Set how the rotary embedding is scaled, of which transformers reads nothing."""
    kind = header.own("rope.scaling.type", "none")
    parameters = dict(getattr(config, "rope_parameters", None) or {})
    if any(tensor.name.startswith("rope_factors_") for tensor in header.tensors):
        raise BaseModelError(
            "scales its rotary embedding by LongRoPE, which is not read from GGUF; take the model "
            "in transformers' own format from the hub"
        )
    if any(tensor.name == _ROPE_FACTORS for tensor in header.tensors):
        factors = _values(header, _ROPE_FACTORS)
        parameters |= _LLAMA3_ROPE | {"rope_type": "llama3", "factor": float(factors.max())}
        if not _explains(parameters, factors, config):
            raise BaseModelError(
                "scales its rotary embedding in a way that Spelltune does not know; take the model "
                "in transformers' own format from the hub"
            )
    elif kind in ("linear", "yarn"):
        parameters |= {"rope_type": kind, "factor": float(header.own("rope.scaling.factor", 1.0))}
        if length := header.own("rope.scaling.original_context_length"):
            parameters["original_max_position_embeddings"] = length
    elif kind != "none":
        raise BaseModelError(
            f"scales its rotary embedding by {kind}, which Spelltune does not know"
        )
    else:
        return
    config.rope_parameters = parameters


def _explains(parameters: Mapping[str, Any], factors: torch.Tensor, config: Any) -> bool:
    """True if Llama 3's rule with these parameters gives the factors of the file."""
    base, count = float(parameters.get("rope_theta", 10_000.0)), len(factors)
    plain = base ** -(torch.arange(count, dtype=torch.float64) / count)
    waves = 2 * torch.pi / plain
    length, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    share = ((length / waves - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - share) / factor + share)
    return torch.allclose(expected, factors.double(), rtol=1e-3)


def _values(header: GgufHeader, name: str) -> torch.Tensor:
    """A tensor of 32-bit numbers in a file."""
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    if tensor.type != _F32:
        raise BaseModelError(f"has {name} in a type that is not read")
    with open(header.path, "rb") as file:
        file.seek(header.data_start + tensor.offset)
        content = bytearray(file.read(4 * tensor.numbers))
    return torch.frombuffer(content, dtype=torch.float32)


def _unread(model: Any, header: GgufHeader) -> list[str]:
    """The tensors of a file that have no place in the model."""
    from transformers.integrations.gguf import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    if is_gguf_arch_supported(header.architecture):  # it says so itself
        return []
    kind = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    places = get_gguf_hf_weights_map(model, kind(config=model.config.to_dict()))
    return [t.name for t in header.tensors if t.name not in places and t.name != _ROPE_FACTORS]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
