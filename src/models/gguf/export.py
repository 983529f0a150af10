"""Writes a decoder of transformers as a GGUF file, in the layout that llama.cpp computes

Names of tensors are those of the package gguf. What llama.cpp would compute in another way than
transformers is refused before a weight is read.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from src.models.gguf.vocabulary import CannotExport

_Type = gguf.GGMLQuantizationType
_Change = Callable[[torch.Tensor], torch.Tensor]
# Of matrices; norms, biases and learned positions stay in 32 bits, as llama.cpp has them.
KINDS = {
    "f16": (_Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (_Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_MAX_F16 = 65504.0
_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT


@dataclass(frozen=True)
class _Shape:
    """An architecture of llama.cpp, and what it computes of a `model_type` of transformers."""

    architecture: gguf.MODEL_ARCH
    computed: Mapping[str, tuple[Any, ...]]  # values of fields; a missing field has one of them
    rotary: bool = True
    paired: bool = False  # the two numbers that a rotary position turns lie beside each other
    transposed: tuple[str, ...] = ()  # layers that transformers holds as (in, out)


_SILU = {"hidden_act": ("silu",)}
_ARCH = gguf.MODEL_ARCH
_LLAMA = _Shape(_ARCH.LLAMA, _SILU, paired=True)
_SHAPES = {
    "gpt2": _Shape(
        _ARCH.GPT2,
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        rotary=False,
        transposed=("c_attn", "c_proj", "c_fc"),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _Shape(_ARCH.QWEN2, _SILU),
    "qwen3": _Shape(_ARCH.QWEN3, _SILU | {"attention_bias": (False,)}),
}


def configuration_keys(config: Any) -> dict[str, Any]:
    """The keys of a GGUF file that describe a model of this configuration of transformers.

    CannotExport where llama.cpp has no such model.
    """
    shape = _shape(config)
    name = gguf.MODEL_ARCH_NAMES[shape.architecture]
    for field, values in shape.computed.items():
        found = getattr(config, field, values[0])
        if found not in values:
            raise CannotExport(
                f"llama.cpp has no {config.model_type} with {field}: {found}; write a merged "
                "folder instead"
            )
    own = _gpt2_keys(config) if not shape.rotary else _rotary_keys(config)
    return {
        "general.architecture": name,
        "general.type": "model",
        f"{name}.vocab_size": config.vocab_size,
        **{f"{name}.{key}": value for key, value in own.items()},
    }


def _shape(config: Any) -> _Shape:
    if config.model_type not in _SHAPES:
        known = ", ".join(_SHAPES)
        raise CannotExport(
            f"a {config.model_type} model cannot be written as GGUF; {known} models can; "
            "write a merged folder and convert it by llama.cpp's convert_hf_to_gguf.py"
        )
    return _SHAPES[config.model_type]


def _gpt2_keys(config: Any) -> dict[str, Any]:
    return {
        "block_count": config.n_layer,
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
    }


def _rotary_keys(config: Any) -> dict[str, Any]:
    head = _head_dim(config)
    # Within a window that slides attention is that of llama.cpp, which knows none in these models.
    window = getattr(config, "sliding_window", None)
    context = config.max_position_embeddings
    return {
        "block_count": config.num_hidden_layers,
        "context_length": min(context, window) if window else context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": head,
        **_rope_keys(config),
    }


def _head_dim(config: Any) -> int:
    own: int | None = getattr(config, "head_dim", None)
    return own or config.hidden_size // config.num_attention_heads


def _rope_keys(config: Any) -> dict[str, Any]:
    """How the rotary embedding is scaled; of Llama 3 the factors are a tensor: see `_factors`."""
    told = {k: v for k, v in (config.rope_parameters or {}).items() if v is not None}
    kind = told.pop("rope_type", told.pop("type", "default"))
    told.pop("type", None)
    keys: dict[str, Any] = {"rope.freq_base": float(told.pop("rope_theta", 10_000.0))}
    if kind in ("linear", "yarn"):
        keys["rope.scaling.type"] = kind
        keys["rope.scaling.factor"] = float(told.pop("factor", 1.0))
    if kind == "yarn":
        length = told.pop("original_max_position_embeddings", config.max_position_embeddings)
        keys["rope.scaling.original_context_length"] = length
    elif kind == "llama3":
        for field in ("factor", "low_freq_factor", "high_freq_factor"):
            told.pop(field, None)
        told.pop("original_max_position_embeddings", None)
    elif kind not in ("default", "linear"):
        raise CannotExport(
            f"llama.cpp has no rotary embedding of the type {kind} for {config.model_type}; "
            "write a merged folder instead"
        )
    defaults = {"partial_rotary_factor": 1.0, "beta_fast": 32, "beta_slow": 1}
    if other := [key for key, value in told.items() if defaults.get(key) != value]:
        raise CannotExport(
            f"GGUF cannot say {', '.join(other)} of the rotary embedding; write a merged folder "
            "instead"
        )
    return keys


def write(model: Any, keys: Mapping[str, Any], file: Path, kind: str) -> None:
    """Write a model with these keys to a file that is whole or not there; `kind` is one of KINDS.

    The weights are converted one after the other, so that they take no second place in memory.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{file.name}.writing")
    try:
        _write(model, {**keys, "general.file_type": int(KINDS[kind][1])}, staged, KINDS[kind][0])
        os.replace(staged, file)
    finally:
        with suppress(OSError):  # a part of it would take the last of a full disk
            staged.unlink(missing_ok=True)


def _write(model: Any, keys: Mapping[str, Any], file: Path, kind: _Type) -> None:
    tensors = list(_tensors(model, kind))
    writer = gguf.GGUFWriter(file, str(keys["general.architecture"]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in keys.items():
        if key != "general.architecture":  # the writer has it
            add_key(writer, key, value)
    for tensor in tensors:
        size = gguf.quant_shape_to_byte_shape(tensor.shape, tensor.kind)
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), int(np.prod(size)), tensor.kind
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    # Not by the writer: on a full disk its errors have no number that tells why.
    with open(file, "ab") as opened:
        for tensor in tensors:
            opened.write(bytes(-opened.tell() % _ALIGNMENT))
            opened.write(_encoded(tensor).tobytes())
        opened.write(bytes(-opened.tell() % _ALIGNMENT))
        opened.flush()
        os.fsync(opened.fileno())


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a key to a file, in the type of GGUF that fits its value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file that is to be written."""

    name: str
    shape: tuple[int, ...]
    kind: _Type
    values: Callable[[], torch.Tensor]  # float32, on the CPU


def _tensors(model: Any, kind: _Type) -> Iterator[_Tensor]:
    """The tensors of a model in the order of its layers. A head that is tied to the embeddings is
    no parameter of its own, and llama.cpp ties it by itself."""
    config = model.config
    shape = _shape(config)
    layers = getattr(config, "num_hidden_layers", 0)
    names = gguf.get_tensor_name_map(shape.architecture, layers)
    if getattr(config, "rope_parameters", None) and _is_llama3(config):
        factors = _factors(config)
        name = f"{gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight"
        yield _Tensor(name, tuple(factors.shape), _Type.F32, lambda: factors)
    for name, weights in model.named_parameters():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise CannotExport(
                f"GGUF has no place for {name} in a {config.model_type} model; write a merged "
                "folder instead"
            )
        layer = name.split(".")[-2]
        change = _layout(shape, config, layer)
        # On no device: for its shape alone.
        form = tuple(change(torch.empty(weights.shape, device="meta")).shape)
        own = _kind_of(known, form, kind)
        yield _Tensor(known, form, own, partial(_converted, weights, change))


def _converted(weights: torch.Tensor, change: _Change) -> torch.Tensor:
    return change(weights.detach()).to("cpu", torch.float32)


def _kind_of(name: str, shape: tuple[int, ...], kind: _Type) -> _Type:
    if len(shape) == 1 or name.startswith(gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.POS_EMBD]):
        return _Type.F32
    numbers, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % numbers == 0 else _Type.F16


def _layout(shape: _Shape, config: Any, layer: str) -> _Change:
    """How the weights and biases of a layer change their places."""
    if layer in shape.transposed:
        return lambda weights: weights.T if weights.dim() > 1 else weights
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    if not shape.paired or layer not in heads:
        return lambda weights: weights
    count: int = getattr(config, heads[layer])

    def paired(weights: torch.Tensor) -> torch.Tensor:
        halves = weights.reshape(count, 2, weights.shape[0] // count // 2, *weights.shape[1:])
        return halves.transpose(1, 2).reshape(weights.shape)

    return paired


def _is_llama3(config: Any) -> bool:
    told = config.rope_parameters
    return bool(told.get("rope_type", told.get("type")) == "llama3")


def _factors(config: Any) -> torch.Tensor:
    """By how much Llama 3 slows each rotary frequency down."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    head, base = _head_dim(config), config.rope_parameters["rope_theta"]
    plain = 1.0 / base ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    return plain / scaled.float()


def _encoded(tensor: _Tensor) -> np.ndarray:
    values = tensor.values().contiguous().numpy()
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest) or (tensor.kind != _Type.F32 and largest > _MAX_F16):
        raise CannotExport(
            f"{tensor.name} has numbers beyond {_MAX_F16:g}, the largest that 16 bits of GGUF "
            "hold; write a merged folder instead"
        )
    encoded: np.ndarray = gguf.quants.quantize(values, tensor.kind)
    return encoded
