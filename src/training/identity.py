"""The identity of a run in its checkpoints, and whether a resume is exact."""

from collections.abc import Mapping
from typing import Any

import torch

from src.config import RunConfig, affecting, stored_config, subset
from src.models import utils as machine
from src.training.packed.eligibility import files_of
from src.training.utils import TrainingError


def run_identity(config: RunConfig, *, data: str, tokenizer: str, **engine: Any) -> dict[str, Any]:
    """The identity that decides if a resume is the same run, and exact.

    Settings, fingerprints of data and tokenizer, the content of a base that is a GGUF file, device,
    the vectors of its processor (`AVX2`), versions and, of a packed run, its engine and the version
    of that engine's arithmetic.
    """
    record = files_of(config).gguf_record
    return {
        **engine,
        "config": config.model_dump(),
        "data": data,
        "tokenizer": tokenizer,
        **({"base_model": record["sha256"]} if record else {}),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "versions": machine.versions(),
    }


def resume_exactness(manifest: Mapping[str, Any], now: Mapping[str, Any], name: str) -> str:
    """`exact`, or `warm` and why: then the resumed training is valid, but not bit for bit the
    uninterrupted one. TrainingError where data, tokenizer or base model differ: that is another
    run.
    """
    for key in ("data", "tokenizer", "base_model"):
        # The first checkpoint of a fork leaves the data open: it may go on with other rows. Only of
        # a base in a GGUF file the content is known.
        if manifest.get(key) not in (now.get(key), None):
            what = key.replace("_", " ")
            raise TrainingError(
                f"the {what} changed since {name} was written, so the run cannot go on from it; "
                f"bring the old {what} back, or launch a new run with the new one"
            )
    changed = [what for what in ("device", "versions") if manifest[what] != now[what]]
    # Processors with wider vectors sum in another order.
    if now["device"] == "cpu" and manifest.get("vectors") not in (now["vectors"], None):
        changed.append("kind of processor")
    if manifest.get("engine") != now.get("engine"):
        changed.append("engine")
    elif "engine" in now and manifest.get("arithmetic", 1) != now["arithmetic"]:
        changed.append("version of the packed engine, which rounds otherwise")
    if _decisive(manifest["config"]) != _decisive(now["config"]):
        changed.insert(0, "config")
    if changed:
        return f"warm from {name}: another {' and '.join(changed)}"
    if now["device"] != "cpu":
        return f"warm from {name}: on a GPU"
    # With `engine: packed` the shape of the stacks depends on the other runs in them; a run that
    # `auto` gave to that engine trains alone.
    packed = "engine" in now and now["config"]["engine"] == "packed"
    return f"warm from {name}: in a pack" if packed else f"exact from {name}"


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the weights and scores; the data's fingerprint stands for the data.
    A setting that is newer than the checkpoint has its default."""
    return subset(stored_config(config), affecting("weights", "scores"))
