"""Device, dtype, memory, package versions and random state."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import psutil
import torch

from src.errors import UserError
from src.format import GIB

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


class ModelError(UserError, ValueError):
    """This machine cannot use a base model, or cannot train it as the settings say."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rounds_as() -> str:
    """The GPU, or the vectors of the CPU, which decide how numbers are rounded on this machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return torch.backends.cpu.get_cpu_capability()


def resolve_precision(precision: str) -> str:
    """`bf16`, `fp16` or `fp32` for the setting auto | bf16 | fp16 | fp32 on this machine.

    auto is bf16 where the GPU supports it natively, else fp16; fp32 on a CPU.
    """
    on_gpu = torch.cuda.is_available()
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return ("bf16" if has_bf16 else "fp16") if on_gpu else "fp32"
    if precision == "fp16" and not on_gpu:
        raise ModelError(
            "training.precision fp16 needs a GPU, and there is none; take auto or fp32"
        )
    if precision == "bf16" and on_gpu and not has_bf16:
        raise ModelError(
            f"training.precision bf16 is not supported by {torch.cuda.get_device_name()}; "
            "take auto or fp16"
        )
    return precision


def dtype_of(precision: str) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def autocast(precision: str) -> Any:
    """Context manager that runs a forward pass in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device().type, dtype=dtype_of(precision))


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Number of trainable and of all parameters; a 4-bit weight counts both values of a byte."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(
        p.numel() * (2 if type(p).__name__ == "Params4bit" and p.dtype == torch.uint8 else 1)
        for p in model.parameters()
    )
    return {"trainable_parameters": trainable, "parameters": total}


def memory_gib() -> dict[str, float]:
    """Peak GPU memory allocated to tensors so far; on a CPU, the resident memory now."""
    if torch.cuda.is_available():
        return {"gpu/memory_gib": torch.cuda.max_memory_allocated() / GIB}
    return {"cpu/memory_gib": psutil.Process().memory_info().rss / GIB}


@cache
def versions() -> dict[str, str]:
    """Versions of the installed packages that a training's numbers depend on."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random generators of Python, NumPy and torch on exit."""
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
