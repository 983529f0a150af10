"""Which settings the packed engine trains. Imports no torch: a launch asks before it loads."""

import json
from pathlib import Path
from typing import Any

from src.config import RunConfig
from src.models.multi_lora.shapes import SHAPES, shape_problem
from src.paths import base_model


def pack_key(config: RunConfig) -> tuple[Any, ...]:
    """What the members of one pack must have in common."""
    return (
        config.engine,
        config.pack_size,
        base_model(config.model.name),
        config.model.revision,
        tuple(sorted(config.lora.target_modules or ())),
        config.training.precision,
        config.optimizer.name,
    )


def packed_problems(config: RunConfig) -> dict[str, str]:
    """A sentence for each setting that the packed engine cannot follow: {setting: sentence}.

    The shape of a base model that lies on the hub is seen only when it is loaded.
    """
    problems = {}
    file = Path(base_model(config.model.name)) / "config.json"
    if file.is_file():
        kind = json.loads(file.read_text()).get("model_type", "unknown")
        if problem := shape_problem(kind, config.lora.target_modules or ()):
            field = "lora.target_modules" if kind in SHAPES else "engine"
            problems[field] = f"{problem}; engine trl has no such limits"
    if config.model.load_in_4bit:
        problems["model.load_in_4bit"] = (
            "the packed engine has no 4-bit base; set it to false, or take engine trl"
        )
    if config.lora.bias != "none":
        problems["lora.bias"] = (
            f"the packed engine trains no biases; set it to none instead of {config.lora.bias}, or "
            "take engine trl"
        )
    if config.training.precision == "fp16":
        problems["training.precision"] = (
            "the packed engine does not scale losses for fp16; take auto or bf16, or engine trl"
        )
    if config.backend == "unsloth":
        problems["backend"] = (
            "the packed engine computes the base by itself, without Unsloth; take auto or peft, or "
            "engine trl"
        )
    return problems
