"""Decides which base models the packed engine computes, by configuration. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from src.models.multi_lora.families import ACTIVATIONS, FAMILIES, Family

# Layers that may carry adapters, by `model_type` of transformers' config.
SHAPES = {kind: family.targets for kind, family in FAMILIES.items()}

# Rotary positions that are one table for all rows within the context; with `longrope` within the
# original one.
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "dynamic", "longrope")


def config_problem(config: Mapping[str, Any], longest: int | None = None) -> str | None:
    """The reason why the packed engine cannot compute a base model of this configuration, or None.

    `config` holds the fields of transformers' configuration, from a config.json or a loaded model;
    a field that is missing has the default of its class. No row has more than `longest` tokens;
    None: it may fill the context. tests/engines/test_shapes.py decides on each field that the
    installed transformers knows.
    """
    try:
        return _config_problem(config, longest)
    except (TypeError, AttributeError, ValueError) as error:
        # A file that somebody wrote by hand: transformers refuses such values too.
        return f"the packed engine has no use for a configuration with such values: {error}"


def _config_problem(config: Mapping[str, Any], longest: int | None) -> str | None:
    kind = config.get("model_type")
    if kind not in FAMILIES:
        return f"the packed engine computes {', '.join(FAMILIES)} shapes, and this base is {kind}"
    family = FAMILIES[kind]
    if config.get("quantization_config"):
        return "the packed engine has no quantized base"
    if not config.get("is_causal", True):
        return "the packed engine has only causal attention, and this base has is_causal: false"
    if config.get("per_layer_config"):
        return "the packed engine has only layers of one kind, and this base has per_layer_config"
    name, default = family.activation
    activation = config.get(name, default)
    if activation not in ACTIVATIONS:
        return f"the packed engine has no {activation} for {kind} shapes"
    for name, values in family.computed.items():
        if name in config and config[name] not in values:
            return f"the packed engine has no {kind} with {name}: {json.dumps(config[name])}"
    context = config.get("max_position_embeddings", config.get("n_positions"))
    longest = min((most for most in (longest, context) if most), default=None)
    width = config.get("hidden_size")
    if kind == "opt" and config.get("word_embed_proj_dim", width) not in (None, width):
        return "the packed engine has no embeddings of another width than the blocks"
    window = _window_problem(config, family, longest)
    return window or (_rope_problem(config, family, longest) if family.rotary else None)


def _window_problem(config: Mapping[str, Any], family: Family, longest: int | None) -> str | None:
    if not _has_window(config, family):
        return None
    fields = config.get("sliding_window", family.window), config.get("attention_chunk_size")
    window = min((value for value in fields if value), default=0)
    if longest is None or not window:
        return "the packed engine has no sliding-window attention"
    if longest <= window:
        return None
    return (
        f"the packed engine has no sliding-window attention, and with these settings a row may "
        f"have {longest} tokens, more than this base's window of {window}; lower model.max_length"
    )


def _has_window(config: Mapping[str, Any], family: Family) -> bool:
    """True if some layer may attend to a part of the tokens before it only."""
    if kinds := config.get("layer_types"):
        if set(kinds) != {"full_attention"}:
            return True
        if family.window_by_layer_type:
            return False
    elif family.windows_by_default:
        return True
    if config.get("attention_chunk_size"):
        return True
    if family.window_switch and not config.get("use_sliding_window"):
        return False
    first = config.get("max_window_layers", family.window_from)
    # Fields of architectures without windows count too, because decoding would follow them.
    window = config.get("sliding_window", family.window)
    return bool(window) and first < config.get("num_hidden_layers", first + 1)


def _rope_problem(config: Mapping[str, Any], family: Family, longest: int | None) -> str | None:
    # Older files say rope_scaling and type, and transformers reads them first.
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    nested = [value for value in found.values() if isinstance(value, Mapping)]
    if nested and not family.rotary_by_layer_type:
        return "the packed engine has the same rotary positions in all layers"
    for rope in nested or [found]:
        kind = rope_type(rope)
        if kind not in ROPE_TYPES:
            return f"the packed engine has no {kind} rotary positions"
        part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        # `default` reads no such factor in the other architectures.
        if not family.partial_rotary and kind != "default" and part not in (None, 1, 1.0):
            return (
                f"the packed engine has no partial rotary positions (partial_rotary_factor {part})"
            )
        limit = original_context(config, rope, family)
        if limit is not None and (longest is None or longest > limit):
            return (
                f"the packed engine has {kind} rotary positions for rows of up to {limit} tokens "
                "only, and with these settings a row may have more; lower model.max_length"
            )
    return None


def rope_type(rope: Mapping[str, Any]) -> str:
    """The kind of rotary positions that these parameters ask for."""
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    return "longrope" if kind == "su" else kind  # its name in older files of Phi-3


def original_context(
    config: Mapping[str, Any], rope: Mapping[str, Any], family: Family
) -> int | None:
    """Tokens of a row beyond which its rotary positions are others; None where they never are."""
    if rope_type(rope) != "longrope":
        return None
    name = "original_max_position_embeddings"
    found = config.get(name, family.original_context) or rope.get(name)
    return int(found or config.get("max_position_embeddings") or 0)


def targets_problem(kind: str, targets: Sequence[str]) -> str | None:
    """The reason why the packed engine cannot adapt these layers of such a model, or None."""
    if unknown := sorted(set(targets) - set(SHAPES[kind])):
        return (
            f"the packed engine has no adapters at {', '.join(unknown)}; in {kind} shapes "
            f"lora.target_modules may name {', '.join(SHAPES[kind])}"
        )
    return None
