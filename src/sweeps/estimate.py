"""Estimate of a sweep before its launch: trials, duplicates, packs, memory and time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from src.config import (
    ConfigError,
    RunConfig,
    get,
    stored_config,
    with_overrides,
)
from src.format import counted
from src.runs import packing
from src.runs.estimate import load, measure, measurement_file, memory_problems
from src.runs.machine import slot_count
from src.store.tables import Run, Status
from src.sweeps import search
from src.sweeps.budget import STARTUP_SECONDS
from src.sweeps.file import (
    ACCUMULATION,
    MICRO_BATCH,
    Categorical,
    SweepConfig,
    base_config,
)


@dataclass(frozen=True)
class SweepEstimate:
    """None where a number is not known before the launch."""

    settings: int | None  # that are trained; None: as many as the time allows
    trials: int | None  # settings times seeds
    duplicates: int  # settings of a grid that take the same steps as another one of it
    skipped: int  # of them, those that are not trained
    packs: int | None  # processes that train them; None: a process a trial
    pack_size: int  # adapters of such a process, at most
    peak_gib: float | None  # of one process that is full, where it was measured
    trial_seconds: float | None  # of one trial of the base settings, from runs on this machine
    seconds: float | None  # of all, on all slots
    fits: int | None  # trials for which a budget of time is enough

    def lines(self) -> list[str]:
        """The estimate in words, a clause a line."""
        if self.trials is None or self.settings is None:
            found = ["as many trials as the time allows"]
        elif self.trials == self.settings:
            found = [counted(self.trials, "trial")]
        else:
            found = [f"{counted(self.trials, 'trial')}, {counted(self.settings, 'setting')}"]
        if self.fits is not None and (self.trials is None or self.fits < self.trials):
            found.append(f"the time is enough for about {counted(self.fits, 'trial')}")
        if self.duplicates:
            told = "left out" if self.skipped else "`duplicates: skip` leaves them out"
            same = "with the same steps as another one, cut into other micro-batches"
            found.append(f"{counted(self.duplicates, 'setting')} {same}; {told}")
        if self.packs is not None:
            found.append(
                f"in {counted(self.packs, 'pack')} of up to {self.pack_size} adapters over one "
                "base model"
            )
        if self.peak_gib is not None:
            what = "one trial" if self.packs is None else "a full pack"
            found.append(f"{self.peak_gib:.1f} GiB of memory for {what}")
        if self.seconds is not None:
            found.append(f"about {counted(math.ceil(self.seconds / 60), 'minute')}")
        else:
            # Runs alone say nothing of the pace of a pack.
            what = "run" if self.packs is None else "pack"
            after = f"after the first {what} on this machine, or "
            found.append(f"how long it takes is known {after}once it is measured")
        return found


def estimate_sweep(sweep: SweepConfig, seed: int, known: Sequence[Run] = ()) -> SweepEstimate:
    """The estimate of a sweep; completed `known` runs tell how fast this machine is.

    ConfigError where its budget is too small for one trial, or one is known not to fit.
    """
    base = base_config(sweep)
    same, size = 0, None
    if sweep.method == "grid":
        size = len(search.grid(sweep, seed))
        same = search.duplicates(sweep, seed)
    limits = sweep.limits
    most = limits.trials // sweep.seeds if limits.trials else None
    settings = min((n for n in (size, most) if n is not None), default=None)
    trials = None if settings is None else settings * sweep.seeds
    packed = base.engine == "packed"
    pace = (_packed_row_seconds if packed else _row_seconds)(base.model.name, known)
    rows = base.training.max_steps * base.rows_per_step
    one = None if pace is None or packed else STARTUP_SECONDS + pace * rows
    speaker = largest_config(sweep, base)
    if (wrong := memory_problems(speaker)) and _is_as_large_as_any(speaker, sweep):
        raise ConfigError({f"base.overrides.{name}": text for name, text in wrong.items()})
    measured = packing.predicted(speaker, 1)
    if measured:
        one = measured[0]
    if one is not None and limits.seconds is not None and one > limits.seconds:
        raise ConfigError({
            "budget": f"is too small for one trial, which takes about {one:,.0f} seconds here; "
            "raise it, or take fewer training.max_steps"
        })  # fmt: skip
    # What so many take says how many fit into a budget of time.
    some = trials or base.pack_size
    grown = _mean_rows(sweep, seed, rows) / rows
    full = packing.predicted(speaker, some if packed else 1)
    took = None
    if packed and some > 1:
        alike = None if pace is None else STARTUP_SECONDS + pace * rows * some
        took = full[0] if full else alike
        took = None if took is None else took * grown / slot_count()
    elif one is not None:
        took = (STARTUP_SECONDS + (one - STARTUP_SECONDS) * grown) * math.ceil(some / slot_count())
    seconds, fits = None if trials is None else took, None
    if limits.seconds is not None:
        seconds = min(limits.seconds, math.inf if seconds is None else seconds)
        fits = None if took is None else int(limits.seconds / took * some)
    return SweepEstimate(
        settings=settings,
        trials=trials,
        duplicates=same,
        skipped=same if sweep.duplicates == "skip" else 0,
        packs=math.ceil(trials / base.pack_size) if packed and trials is not None else None,
        pack_size=base.pack_size,
        peak_gib=full[1] if full else None,
        trial_seconds=one,
        seconds=seconds,
        fits=fits,
    )


def largest_config(sweep: SweepConfig, base: RunConfig) -> RunConfig:
    """The base settings with the largest rank of the space, which takes the most memory."""
    ranks = sweep.space.get("lora.r")
    if ranks is None:
        return base
    most = max(ranks.values) if isinstance(ranks, Categorical) else int(ranks.high)
    return with_overrides(base.model_dump(), {"lora.r": most})


def _is_as_large_as_any(speaker: RunConfig, sweep: SweepConfig) -> bool:
    """True if the rank alone, of all searched settings, decides the memory of a trial."""
    for name, parameter in sweep.space.items():
        values = (
            parameter.values if isinstance(parameter, Categorical)
            else [parameter.low, parameter.high]
        )  # fmt: skip
        trials = [with_overrides(speaker.model_dump(), {name: value}) for value in values]
        if name != "lora.r" and {measurement_file(t) for t in trials} != {
            measurement_file(speaker)
        }:
            return False
    return True


def missing_measurements(sweep: SweepConfig) -> list[tuple[RunConfig, int]]:
    """(run, adapters at once) that `estimate_sweep` wants to know and nobody measured."""
    base = base_config(sweep)
    speaker = largest_config(sweep, base)
    sizes = (1, packing.FEW_ADAPTERS) if base.engine == "packed" else (1,)
    return [(speaker, adapters) for adapters in sizes if load(speaker, adapters=adapters) is None]


def measure_missing(sweep: SweepConfig) -> None:
    """Measure what `estimate_sweep` wants to know, in seconds to a minute.

    CannotMeasure while every slot trains.
    """
    for speaker, adapters in missing_measurements(sweep):
        measure(speaker, adapters=adapters)


def _row_seconds(model: str, known: Sequence[Run]) -> float | None:
    """Seconds that a row of training took in those completed runs of a base model that trained on
    the most rows; None without any."""
    # What a short run took was not all training.
    found: list[tuple[float, float]] = []
    for run in known:
        config = run.config
        alike = config["model"]["name"] == model and config.get("engine") != "packed"
        if run.status == Status.COMPLETED and alike and run.step and run.seconds is not None:
            rows = run.step * stored_config(config).rows_per_step
            took = run.seconds - STARTUP_SECONDS * run.attempt
            found.append((rows, max(took, 0.0) / rows))
    most = max((rows for rows, _ in found), default=0)
    return median(pace for rows, pace in found if rows >= most / 2) if found else None


def _packed_row_seconds(model: str, known: Sequence[Run]) -> float | None:
    """Seconds that a row of training took in the packs of a base model that completed runs tell of:
    a process shares its time among all rows of its runs. None without any."""
    packs: dict[str, list[Run]] = {}
    for run in known:
        config = run.config
        alike = config["model"]["name"] == model and config.get("engine") == "packed"
        if alike and run.status == Status.COMPLETED and run.step and run.token and run.ended_at:
            packs.setdefault(run.token, []).append(run)
    paces = []
    for runs in packs.values():
        began = [run.started_at for run in runs if run.started_at]
        rows = sum((run.step or 0) * stored_config(run.config).rows_per_step for run in runs)
        if len(began) == len(runs) > 1:
            whole = max(run.ended_at or 0.0 for run in runs) - min(began) - STARTUP_SECONDS
            paces.append(max(whole, 0.0) / rows)
    return median(paces) if paces else None


def _mean_rows(sweep: SweepConfig, seed: int, base_rows: int) -> float:
    """Rows that a setting trains on: the mean of a grid, and those of the base else."""
    if sweep.method != "grid":
        return base_rows
    base = base_config(sweep)
    default = {n: get(base, n) for n in ("training.max_steps", MICRO_BATCH, ACCUMULATION)}
    cells = search.grid(sweep, seed)
    rows = (math.prod(cell.get(n, value) for n, value in default.items()) for cell in cells)
    return float(sum(rows)) / len(cells)
