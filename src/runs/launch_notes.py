"""Notes on a config before its launch: what works against its aim. None prevents the launch."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from src.config import ConfigError, RunConfig, load_config, presets
from src.format import counted
from src.runs import checks, estimate
from src.training.data_notes import preview_counts, preview_notes

HIGH_RATE = 10  # times the rate of a preset
FEW_ROWS = 100  # of a validation set


def notes(config: RunConfig, preview: Mapping[str, Any]) -> list[str]:
    """All that is told of a config and the `preview` of its data, as sentences."""
    found = setting_notes(config) | size_notes(config, preview)
    return [*found.values(), *preview_counts(preview), *preview_notes(preview)]


def check(config: RunConfig) -> tuple[list[str], str | None]:
    """Notes on a config and its data, and what it is known to take. ConfigError where it cannot be
    trained here."""
    told = notes(config, checks.check(config))
    measured = estimate.load(config)
    if measured is None:
        return told, None
    if problems := measured.problems(config):
        raise ConfigError(problems)
    return told, f"it {measured.sentence(config)}"


def setting_notes(config: RunConfig) -> dict[str, str]:
    """{setting: why its value does little of what it is meant for}. Reads no data."""
    found = {}
    rate = config.training.learning_rate
    preset, known = _highest_rate(config.model.name, config.optimizer.name)
    if known and is_rate_high(config):
        found["training.learning_rate"] = (
            f"at a learning rate of {rate:g} a run mostly diverges and learns nothing: it is "
            f"{rate / known:,.0f} times that of the preset {preset} ({known:g})"
        )
    warmup, steps = config.scheduler.warmup_steps, config.training.max_steps
    if config.scheduler.name != "constant" and warmup >= steps:
        how = "as long as" if warmup == steps else "longer than"
        found["scheduler.warmup_steps"] = (
            f"the learning rate only rises, to {(steps - 1) / warmup:.0%} of its peak: the warm-up "
            f"of {warmup:,} steps is {how} the run of {steps:,}"
        )
    return found


def is_rate_high(config: RunConfig) -> bool:
    """True if the learning rate is far above those that are known to work."""
    known = usual_rate(config)
    return known is not None and config.training.learning_rate > HIGH_RATE * known


def usual_rate(config: RunConfig) -> float | None:
    """The highest learning rate of a preset for a config's base model and optimizer, if any."""
    return _highest_rate(config.model.name, config.optimizer.name)[1]


def size_notes(config: RunConfig, preview: Mapping[str, Any]) -> dict[str, str]:
    """{setting: why it does not fit the number of rows}."""
    found = {}
    rows = preview["rows"]
    if config.rows_per_step > rows["train"]:
        found["training.per_device_train_batch_size"] = (
            f"a step takes {config.rows_per_step:,} rows, and there are only "
            f"{counted(rows['train'], 'row')} to train on; take a smaller batch"
        )
    limit = config.evaluation.max_rows
    scored = rows["validation"] if limit is None else min(rows["validation"], limit)
    if 0 < scored < FEW_ROWS:
        name = "evaluation.max_rows" if scored == limit else config.data.source_setting
        # At a score of 50%, where chance moves it most.
        swing = 100 * 1.96 * 0.5 / math.sqrt(scored)
        found[name] = (
            f"a score may be off by {swing:.0f} points by chance alone: each evaluation scores "
            f"only {counted(scored, 'row')}, of which one is {100 / scored:.3g} points; with "
            f"{FEW_ROWS} rows or more it says more"
        )
    return found


@cache
def _highest_rate(model: str, optimizer: str) -> tuple[str, float | None]:
    """(preset, its learning rate), the highest of this base model or, where it has no preset, of
    all; with this optimizer."""
    configs = {name: load_config(preset=name) for name in presets()}
    fitting = {name: c for name, c in configs.items() if c.optimizer.name == optimizer}
    own = {name: c for name, c in fitting.items() if c.model.name == model}
    rates = {name: c.training.learning_rate for name, c in (own or fitting).items()}
    if not rates:
        return "", None
    preset = max(rates, key=rates.__getitem__)
    return preset, rates[preset]
