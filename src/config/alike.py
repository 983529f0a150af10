"""Which runs are of one config: equal settings but for the seed and what cannot change a score"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from src import paths
from src.config.fields import affecting, by_name
from src.config.stored import stored_values


@cache
def _indifferent() -> frozenset[str]:
    """Settings that affect nothing, and the seed: runs of one config differ in it."""
    return frozenset(by_name()) - affecting() | {"training.seed"}


def distinguishes(name: str) -> bool:
    """True if runs that differ in this setting are of different configs. So does a setting that
    this version does not know."""
    return name not in _indifferent()


def config_key(
    values: Mapping[str, Any], parent_id: str | None = None, parent_step: int | None = None
) -> str:
    """A key that is equal for runs that differ only in seed and in settings aside from training:
    of the stored settings of a run and, of a fork, the checkpoint that it began from."""
    usual = _usual()
    # Without what is usual: a setting that a later version adds leaves the keys as they are.
    kept = {
        name: _to_keep(value)
        for name, value in stored_values(values).items()
        if distinguishes(name) and (name not in usual or usual[name] != value)
    }
    text = json.dumps([kept, parent_id, parent_step], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def _usual() -> dict[str, Any]:
    """The values that settings have where a run's row does not tell them."""
    return stored_values({})


def _to_keep(value: Any) -> Any:
    """A path inside the home by its place in it, so that the home can move."""
    return paths.to_keep(value) if isinstance(value, str) and value.startswith("/") else value
