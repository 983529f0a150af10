"""Architectures that the packed engine computes. Imports no torch: forms and checks read it."""

from collections.abc import Mapping, Sequence
from typing import Any

# Layers that may carry adapters, by `model_type` of transformers' config.
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPES = {"gpt2": ("c_attn", "c_proj", "c_fc"), "llama": _LLAMA, "qwen2": _LLAMA}

# Activations that are the same function under several names.
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh")
SILU = ("silu", "swish")

# Rotary positions that are one table, whatever the length of a row.
ROPE_TYPES = ("default", "linear", "llama3")


def config_problem(config: Mapping[str, Any]) -> str | None:
    """The reason why the packed engine cannot compute a base model of this configuration, or None.

    `config` holds the fields of transformers' configuration, from a config.json or a loaded model;
    a field that is missing has the default of its class. tests/engines/test_shapes.py decides on
    each field that the installed transformers knows.
    """
    kind = config.get("model_type")
    if kind not in SHAPES:
        return f"the packed engine computes {', '.join(SHAPES)} shapes, and this base is {kind}"
    if config.get("quantization_config"):
        return "the packed engine has no quantized base"
    if not config.get("is_causal", True):
        return "the packed engine has only causal attention, and this base has is_causal: false"
    if config.get("per_layer_config"):
        return "the packed engine has only layers of one kind, and this base has per_layer_config"
    if _has_window(config):
        return "the packed engine has no sliding-window attention"
    return _gpt2_problem(config) if kind == "gpt2" else _llama_problem(config)


def _has_window(config: Mapping[str, Any]) -> bool:
    """True if some layer attends to a part of the tokens before it only."""
    if kinds := config.get("layer_types"):
        return set(kinds) != {"full_attention"}
    if config["model_type"] != "qwen2":
        # These architectures have none, but decoding would follow these fields.
        return any(config.get(name) for name in ("sliding_window", "attention_chunk_size"))
    # The layers from `max_window_layers` on; a field that is null switches them off.
    layers, first = config.get("num_hidden_layers", 32), config.get("max_window_layers", 28)
    has_window = config.get("use_sliding_window") and config.get("sliding_window", 4096)
    return bool(has_window) and first < layers


def _gpt2_problem(config: Mapping[str, Any]) -> str | None:
    activation = config.get("activation_function", "gelu_new")
    if activation not in TANH_GELU:
        return f"the packed engine has no {activation} for GPT-2"
    plain = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    }
    for name, value in plain.items():
        if config.get(name, value) != value:
            return (
                "the packed engine has only GPT-2's plain attention, and this base has "
                f"{name}: {str(not value).lower()}"
            )
    return None


def _llama_problem(config: Mapping[str, Any]) -> str | None:
    activation = config.get("hidden_act", "silu")
    if activation not in SILU:
        return f"the packed engine has no {activation} for Llama shapes"
    # Older files say rope_scaling and type, and transformers reads them first.
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if any(isinstance(value, Mapping) for value in rope.values()):
        return "the packed engine has the same rotary positions in all layers"
    if kind not in ROPE_TYPES:
        return f"the packed engine has no {kind} rotary positions"
    # `default` reads no such factor in these architectures.
    part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if kind != "default" and part not in (None, 1, 1.0):
        return f"the packed engine has no partial rotary positions (partial_rotary_factor {part})"
    return None


def targets_problem(kind: str, targets: Sequence[str]) -> str | None:
    """The reason why the packed engine cannot adapt these layers of such a model, or None."""
    if unknown := sorted(set(targets) - set(SHAPES[kind])):
        return (
            f"the packed engine has no adapters at {', '.join(unknown)}; in {kind} shapes "
            f"lora.target_modules may name {', '.join(SHAPES[kind])}"
        )
    return None
