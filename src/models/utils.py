"""What a model needs to know of the machine: device, number format, memory, random state."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import psutil
import torch

GIB = 2**30
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "unsloth",
    "unsloth_zoo",
    "bitsandbytes",
)


class ModelError(ValueError):
    """A base model, or a way of training it, that this machine cannot use."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(wanted: str) -> str:
    """`bf16`, `fp16` or `fp32` for auto | bf16 | fp16 | fp32 on this machine.

    auto takes bf16 where the GPU computes in it, else fp16, and fp32 on a CPU.
    """
    on_gpu = torch.cuda.is_available()
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        return ("bf16" if has_bf16 else "fp16") if on_gpu else "fp32"
    if wanted == "fp16" and not on_gpu:
        raise ModelError(
            "training.precision fp16 needs a GPU, and there is none; take auto or fp32"
        )
    if wanted == "bf16" and on_gpu and not has_bf16:
        raise ModelError(
            f"training.precision bf16 is not supported by {torch.cuda.get_device_name()}; "
            "take auto or fp16"
        )
    return wanted


def dtype_of(precision: str) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Trainable and all parameters. A 4-bit weight counts each of its packed values."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(
        p.numel() * (2 if type(p).__name__ == "Params4bit" and p.dtype == torch.uint8 else 1)
        for p in model.parameters()
    )
    return {"trainable_parameters": trainable, "parameters": total}


def memory_gib() -> dict[str, float]:
    """The most GPU memory that tensors took so far, or the process's resident memory now."""
    if torch.cuda.is_available():
        return {"gpu/memory_gib": torch.cuda.max_memory_allocated() / GIB}
    return {"cpu/memory_gib": psutil.Process().memory_info().rss / GIB}


@cache
def versions() -> dict[str, str]:
    """Versions of the installed packages that decide a training's numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the random generators of Python, NumPy and torch as they were found."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)
