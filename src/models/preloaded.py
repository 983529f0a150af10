"""A base model that was read before its run was there, as a standby trainer does.

The next training of this process takes it, if it asks for the same one; else its memory is freed.
"""

import gc
from collections.abc import Mapping
from typing import Any

import torch

from src.models import spelling_model as spelling
from src.models.base_files import BaseFiles

_kept: tuple[list[Any], spelling.Vocabulary, Any] | None = None  # key, vocabulary, model


def preload(name: str, **base: Any) -> None:
    """Read a base for the next `load_vocabulary` and `load_base` with these arguments."""
    global _kept
    key = key_of(name, base)
    vocabulary = spelling.load_vocabulary(name, revision=base["revision"])
    _kept = key, vocabulary, spelling.load_base(name, vocabulary, **base)


def load_vocabulary(name: str, *, revision: str | None = None) -> spelling.Vocabulary:
    """`spelling_model.load_vocabulary`, or the one that was read already."""
    if _kept is not None and _kept[0][0] == stamp_of(name, revision):
        return _kept[1]
    return spelling.load_vocabulary(name, revision=revision)


def is_ready(key: list[Any]) -> bool:
    """True if the model of this key, see `key_of`, was read already."""
    return _kept is not None and _kept[0] == key


def load_base(name: str, vocabulary: spelling.Vocabulary, **base: Any) -> Any:
    """`spelling_model.load_base`, or the model that was read already."""
    global _kept
    if _kept is not None and _kept[1] is vocabulary and is_ready(key_of(name, base)):
        model, _kept = _kept[2], None
        return model
    forget()
    return spelling.load_base(name, vocabulary, **base)


def forget() -> None:
    """Free the memory of a model that was read already, and is not the one that is needed."""
    global _kept
    if _kept is None:
        return
    _kept = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def key_of(name: str, base: Mapping[str, Any]) -> list[Any]:
    """Equal for calls of `load_base` that return the same model; `base` has its arguments."""
    # Only Unsloth is told of a seed and a length.
    left_out = () if base["backend"] == "unsloth" else ("seed", "max_length")
    arguments = sorted((k, v) for k, v in base.items() if k not in left_out)
    return [stamp_of(name, base["revision"]), arguments]


def stamp_of(name: str, revision: str | None) -> list[Any]:
    """Equal while a name stands for the same files, and none of them changes."""
    return [name, revision, BaseFiles(name, revision).stamp()]
