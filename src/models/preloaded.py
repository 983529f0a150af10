"""A base model that was read before its run was there, as a standby trainer does.

The next training of this process takes it, if it asks for the same one; else its memory is freed.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from src.models import spelling_model as spelling
from src.models.base_files import BaseFiles

_kept: tuple[list[Any], Any] | None = None  # key, and what was read


def preload(name: str, **base: Any) -> None:
    """Read a base for the next `load_vocabulary` and `load_base` with these arguments."""
    key = key_of(name, base)  # before: the files may change meanwhile
    vocabulary = spelling.load_vocabulary(name, revision=base["revision"])
    keep(key, (vocabulary, spelling.load_base(name, vocabulary, **base)))


def load_vocabulary(name: str, *, revision: str | None = None) -> spelling.Vocabulary:
    """`spelling_model.load_vocabulary`, or the one that was read already."""
    if _kept is not None and _kept[0][0] == stamp_of(name, revision):
        found: spelling.Vocabulary = _kept[1][0]
        return found
    return spelling.load_vocabulary(name, revision=revision)


def load_base(name: str, vocabulary: spelling.Vocabulary, **base: Any) -> Any:
    """`spelling_model.load_base`, or the model that was read already."""
    found = take(key_of(name, base))
    if found is not None and found[0] is vocabulary:
        return found[1]
    del found  # two at a time may not fit
    return spelling.load_base(name, vocabulary, **base)


def keep(key: list[Any], read: Any) -> None:
    """Keep what was read of a base until it is taken."""
    global _kept
    _kept = key, read


def take(key: list[Any]) -> Any:
    """The read base that was kept under this key, once; None where another was, whose memory is
    free again."""
    global _kept
    if _kept is None:
        return None
    (own, read), _kept = _kept, None
    if own == key:
        return read
    del read
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return None


@contextmanager
def restored() -> Iterator[None]:
    """Restore the preloaded base after the block, which may take it but must not change it."""
    global _kept
    before = _kept
    try:
        yield
    finally:
        _kept = before


def key_of(name: str, base: Mapping[str, Any]) -> list[Any]:
    """Equal for calls of `load_base` that return the same model; `base` has its arguments."""
    # Only Unsloth is told of a seed and a length.
    left_out = () if base["backend"] == "unsloth" else ("seed", "max_length")
    arguments = sorted((k, v) for k, v in base.items() if k not in left_out)
    return [stamp_of(name, base["revision"]), arguments]


def stamp_of(name: str, revision: str | None) -> list[Any]:
    """Equal while a name stands for the same files, and none of them changes."""
    return [name, revision, BaseFiles(name, revision).stamp()]
