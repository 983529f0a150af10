"""Switches off what a base model brings along: random draws in training, rules of generation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch

# Rates of noise in routers of experts; phimoe's `router_jitter_noise` is no noise but a threshold.
NOISE = ("jitter_noise", "input_jitter_noise", "moe_jitter_eps")


def disable_randomness(model: Any) -> None:
    """Switch off all that a base draws at random in training: dropout of every kind, skipped
    layers, and the noise of routers of experts.

    Architectures keep these rates in modules, as numbers in their layers, or read them from their
    configuration at each step. tests/engines/test_base_randomness.py looks through the installed
    transformers for further ways.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if type(module).__name__.endswith("Router"):  # phimoe's draws the experts in training
            module.train = MethodType(lambda self, mode=True: self, module)
        for name in _random_rates(vars(module)):
            setattr(module, name, 0.0)
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        for name in _random_rates(vars(config)):
            setattr(config, name, 0.0)


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Generate without the rules of the base's generation_config.json, such as a repetition
    penalty: the most likely token has to be the one that the logits say. A merged model is written
    with them, so they come back."""
    from transformers import GenerationConfig

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = own


def _random_rates(values: Mapping[str, Any]) -> list[str]:
    """Names of the numbers, among attributes, that are the rate of something random."""
    return [
        name
        for name, value in values.items()
        if ("drop" in name or name in NOISE)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    ]
