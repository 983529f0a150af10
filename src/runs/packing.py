"""Which runs share a process, how many at once, and the memory and time that they take.

Predicted from a measurement of one adapter and one of a few (src/runs/estimate.py).
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from src.config import RunConfig, affecting, subset
from src.runs.estimate import Measurement, load, measure
from src.runs.machine import gpus
from src.training.packed.eligibility import pack_key, packed_problems

FEW_ADAPTERS = 4  # of the second measurement
MAX_MEMORY_SHARE = 0.9  # of the memory that a plan may fill
MAX_TIME_SHARE = 0.95  # of the time one by one; a pack that takes more does not pay


@dataclass(frozen=True)
class Pack:
    """Runs that train in one process, `size` at a time; one by one if `size` is 1."""

    members: list[int]  # indices into the planned configs
    size: int
    engine: str
    seconds: float  # predicted
    seconds_one_by_one: float
    peak_gib: float
    room_gib: float
    why: str


@dataclass(frozen=True)
class Plan:
    """Packs, and the duplicates {index: the earlier index that takes the same steps}."""

    packs: list[Pack]
    duplicates: dict[int, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all packs, one after the other."""
        return sum(pack.seconds for pack in self.packs)


def plan(configs: Sequence[RunConfig], *, once: bool = False) -> Plan:
    """Plan how to train these configs. Measures what is not known yet: seconds to minutes.

    With `once`, only the first of several that take the same steps is trained.
    """
    same = duplicates(configs)
    alike: dict[Any, list[int]] = defaultdict(list)
    for place, config in enumerate(configs):
        if not (once and place in same):
            alike[_alike(config)].append(place)
    packs = [_pack(places, [configs[place] for place in places]) for places in alike.values()]
    return Plan(packs, same)


def duplicates(configs: Sequence[RunConfig]) -> dict[int, int]:
    """{index: the first index that takes the same steps up to rounding}: equal rows per step, in
    any micro-batches. With dropout other micro-batches draw other masks, so they are different."""
    first: dict[str, int] = {}
    found = {}
    for place, config in enumerate(configs):
        values = subset(config, affecting())
        training = values["training"]
        if not config.lora.dropout:
            training["rows"] = config.rows_per_step
            del training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
        there = first.setdefault(json.dumps(values, sort_keys=True), place)
        if there != place:
            found[place] = there
    return found


def _alike(config: RunConfig) -> tuple[Any, ...]:
    """Key of configs that can train in one pack without waiting for each other: what the engine
    requires, and the same data and rows per step."""
    data = json.dumps(subset(config, affecting("data")), sort_keys=True)
    packed = config.model_copy(update={"engine": "packed", "pack_size": 1})
    return (*pack_key(packed), data, config.rows_per_step, config.engine == "trl")


def _pack(places: list[int], configs: list[RunConfig]) -> Pack:
    """Plan how to train configs of equal key."""
    # The largest rank takes the most memory, so what fits for it fits for all.
    heaviest = max(configs, key=lambda config: config.lora.r)
    engine = heaviest.engine if len(configs) == 1 or heaviest.engine == "trl" else "auto"
    alone = _known(heaviest.model_copy(update={"engine": engine}))
    slow = sum(alone.seconds(config) for config in configs) if alone.fits else math.inf

    def one_by_one(why: str) -> Pack:
        return Pack(places, 1, engine, slow, slow, alone.peak_gib, alone.room_gib, why)

    if len(configs) == 1:
        return one_by_one("no other run to share a process with")
    if heaviest.engine == "trl":
        return one_by_one("engine trl was asked for")
    if problems := packed_problems(heaviest):
        return one_by_one(next(iter(problems.values())))
    packed = heaviest.model_copy(update={"engine": "packed"})
    count = min(FEW_ADAPTERS, len(configs))
    one, few = _known(packed), _known(packed, adapters=count)
    # The packed engine may also be faster for runs that train one by one.
    if one.fits and (own := sum(one.seconds(config) for config in configs)) < slow:
        engine, alone, slow = "packed", one, own
    if not (one.fits and few.fits):
        return one_by_one(f"not even {count} at once fit into {few.room_gib:.1f} GiB")
    # As many as fit, or two: two also load the model only once, and if one adapter keeps the
    # machine busy, each further one makes the steps of all longer.
    fast, size, peak = min(
        (pack_seconds(configs, size, one, few), size, peak)
        for size, peak in (sized(heaviest, n, one, few) for n in (len(configs), 2))
    )
    if size == 1:
        return one_by_one("pack_size or memory leaves room for one at a time")
    if fast > MAX_TIME_SHARE * slow:
        return one_by_one(f"{size} at once would take {fast / slow:.0%} of the time one by one")
    why = f"{slow / fast:.1f} times faster than one by one"
    return Pack(places, size, "packed", fast, slow, peak, few.room_gib, why)


def _known(config: RunConfig, *, adapters: int = 1) -> Measurement:
    return load(config, adapters=adapters) or measure(config, adapters=adapters)


def sized(config: RunConfig, most: int, one: Measurement, few: Measurement) -> tuple[int, float]:
    """Number of adapters at once in a pack of `most` such runs, and the GiB that they take."""
    each = max(few.peak_gib - one.peak_gib, 1e-6) / (few.adapters - 1)
    room = int((MAX_MEMORY_SHARE * few.room_gib - one.peak_gib) / each) + 1
    size = max(1, min(most, config.pack_size, room))
    return size, one.peak_gib + (size - 1) * each


def predicted(config: RunConfig, runs: int) -> tuple[float, float] | None:
    """Predicted seconds and GiB of a pack of `runs` such runs, or of one alone; None if it was not
    measured or does not fit."""
    one = load(config)
    if one is None or not one.fits:
        return None
    if runs == 1:
        return one.seconds(config), one.peak_gib
    few = load(config, adapters=FEW_ADAPTERS)
    if few is None or not few.fits:
        return None
    size, peak = sized(config, runs, one, few)
    return pack_seconds([config] * runs, size, one, few), peak


def pack_seconds(
    configs: Sequence[RunConfig], size: int, one: Measurement, few: Measurement
) -> float:
    """Upper bound on the seconds of a pack of `size` slots that the queue refills; see
    `Measurement.seconds`."""
    assert one.step_seconds and few.step_seconds and few.start_seconds
    assert one.evaluation_seconds is not None and few.evaluation_seconds is not None
    more = max(few.step_seconds - one.step_seconds, 0.0) / (few.adapters - 1)
    total = few.start_seconds
    waiting = [config.training.max_steps for config in configs]
    slots, waiting = waiting[:size], waiting[size:]
    on_gpu, busy = bool(gpus()), len(slots)
    while slots:
        steps = min(slots)
        # On a GPU the CUDA graph of a step also computes empty slots, up to half of them.
        if not on_gpu or len(slots) <= busy // 2:
            busy = len(slots)
        total += steps * (one.step_seconds + (busy - 1) * more)
        left = [n - steps for n in slots]
        slots = [n for n in left if n]
        refill = len(left) - len(slots)
        slots, waiting = slots + waiting[:refill], waiting[refill:]
    # Beyond its steps, a run takes its share of the evaluations of a few.
    share = few.evaluation_seconds / few.adapters
    for config in configs:
        own = few.seconds(config) - few.start_seconds
        own -= config.training.max_steps * few.step_seconds
        total += own * share / few.evaluation_seconds
    return total
