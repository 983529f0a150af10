"""Architectures that the packed engine computes. Imports no torch: forms and checks read it."""

from collections.abc import Sequence

# Layers that may carry adapters, by `model_type` of transformers' config.
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPES = {"gpt2": ("c_attn", "c_proj", "c_fc"), "llama": _LLAMA, "qwen2": _LLAMA}


def shape_problem(kind: str, targets: Sequence[str]) -> str | None:
    """The reason why the packed engine cannot adapt these layers of such a model, or None."""
    if kind not in SHAPES:
        return f"the packed engine computes {', '.join(SHAPES)} shapes, and this base is {kind}"
    if unknown := sorted(set(targets) - set(SHAPES[kind])):
        return (
            f"the packed engine has no adapters at {', '.join(unknown)}; in {kind} shapes "
            f"lora.target_modules may name {', '.join(SHAPES[kind])}"
        )
    return None
