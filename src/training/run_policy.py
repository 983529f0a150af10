"""What follows from one run's steps, evaluations and saves, for either engine."""

from collections.abc import Mapping
from typing import Any

from src.config import stored_config
from src.training.utils import TrainingError


def resume_exactness(manifest: Mapping[str, Any], now: Mapping[str, Any], name: str) -> str:
    """`exact`, or `warm` and why: with another device or other versions a resume is valid, but not
    bit for bit. TrainingError where data or tokenizer differ: that is another run.
    """
    for what in ("data", "tokenizer"):
        # The first checkpoint of a fork leaves the data open: it may go on with other rows.
        if manifest[what] != now[what] and manifest[what] is not None:
            raise TrainingError(
                f"the {what} changed since {name} was written, so the run cannot go on from it; "
                f"bring the old {what} back, or launch a new run with the new one"
            )
    changed = [what for what in ("device", "versions") if manifest[what] != now[what]]
    if _decisive(manifest["config"]) != _decisive(now["config"]):
        changed.insert(0, "config")
    if changed:
        return f"warm from {name}: another {' and '.join(changed)}"
    return f"exact from {name}" if now["device"] == "cpu" else f"warm from {name}: on a GPU"


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the weights; of the data, their fingerprint does. One that came
    later than the checkpoint has its default."""
    config = stored_config(config).model_dump()
    kept = {k: v for k, v in config.items() if k not in ("name", "data", "supervision", "tracking")}
    return kept | {"template": config["data"]["template"]}
