"""Settings as a run's row keeps them, which may be older than some of them"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from src.config.fields import flattened, paths_found
from src.config.loading import defaults, merge, nested, parse_config
from src.config.schema import RunConfig


def stored_config(values: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of a run's row; a setting that came later than the run has its default, or
    what the run did without it (see `values_before`)."""
    complete = defaults()
    for name, value in values_before(flattened(values)).items():
        merge(complete, nested(name, value))
    merge(complete, values)
    return parse_config(paths_found(complete))


def stored_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's row by dotted name, as `stored_config` reads them, but not checked:
    one that this version does not know is kept."""
    own = flattened(values)
    return _stored_defaults() | values_before(own) | own


@cache
def _stored_defaults() -> dict[str, Any]:
    return flattened(stored_config({}).model_dump())


# What later settings of the task `correct` were before there were any.
_CORRECT_BEFORE = {
    "data.right_words": 0.0,
    "data.length_spread": 0.0,
    "data.score_right_words": False,
}


def values_before(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name that are missing in the stored values `flat` and whose default is
    not what their run did: the rows of a built-in task."""
    own_data = flat.get("data.path") or flat.get("data.hub_id")
    if flat.get("data.task") != "correct" or own_data:
        return {}
    return {name: value for name, value in _CORRECT_BEFORE.items() if name not in flat}
