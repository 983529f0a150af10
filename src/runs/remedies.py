"""The changes of settings with which a run may succeed that failed, or that would not fit."""

from collections.abc import Iterator
from typing import Any

from src.config import RunConfig, with_overrides
from src.store.outcome import Remedy


def changes(
    remedy: Remedy | None, config: RunConfig, *, engine: str | None, scoring: bool = False
) -> dict[str, Any] | None:
    """{setting: value} by which a remedy mends a run of these settings; None where it cannot.

    `engine` is the one that trained it; `scoring` says that it failed while it scored a split.
    """
    match remedy:
        case Remedy.SMALLER_BATCH if scoring:
            size = config.evaluation.batch_size
            return {"evaluation.batch_size": size // 2} if size > 1 else None
        case Remedy.SMALLER_BATCH if engine == "packed":
            # It takes a whole step's rows at once, whatever the micro-batches.
            return {"engine": "trl"}
        case Remedy.SMALLER_BATCH:
            return config.smaller_micro_batch()
        case Remedy.LOWER_LEARNING_RATE:
            return {"training.learning_rate": config.training.learning_rate / 2}
    return None


def less_memory(config: RunConfig, *, engine: str | None) -> Iterator[dict[str, Any]]:
    """Changes that train the same in ever less memory, each with those before it."""
    found: dict[str, Any] = {}
    mended = config
    while more := changes(Remedy.SMALLER_BATCH, mended, engine=engine):
        found = found | more
        mended = with_overrides(config.model_dump(), found)
        engine = found.get("engine", engine)
        yield found
