"""What a sweep comes to before its launch: trials, duplicates, packs and time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from src.config import ConfigError, effective_batch, get, stored_config
from src.runs import preflight
from src.runs.slots import slot_count
from src.runs.table import Run, Status
from src.sweeps import spaces
from src.sweeps.spaces import LOADING_SECONDS, SweepConfig


@dataclass(frozen=True)
class Plan:
    """None where a number is not known before the launch."""

    settings: int | None  # that are trained; None: as many as the time allows
    trials: int | None  # settings times seeds
    duplicates: int  # settings of a grid that take the same steps as another one of it
    skipped: int  # of them, those that are not trained
    packs: int | None  # processes that train them; None: a process a trial
    pack_size: int  # adapters of such a process, at most
    peak_gib: float | None  # of one trial of the base settings, where it was measured
    trial_seconds: float | None  # of one trial of the base settings, from runs on this machine
    seconds: float | None  # of all, on all slots

    def lines(self) -> list[str]:
        """What a person reads of it."""
        many = "as many trials as the time allows" if self.trials is None else (
            f"{self.trials:,} trials of {self.settings:,} settings"
        )  # fmt: skip
        found = [many]
        if self.duplicates:
            told = "are left out" if self.skipped else "`duplicates: skip` leaves them out"
            same = "take the same steps as another one, cut into other micro-batches"
            found.append(f"{self.duplicates:,} settings {same}; {told}")
        if self.packs is not None:
            found.append(
                f"in {self.packs:,} packs of up to {self.pack_size} adapters over one base model"
            )
        if self.peak_gib is not None:
            found.append(f"{self.peak_gib:.1f} GiB of memory for one trial")
        if self.seconds is not None:
            found.append(f"about {self.seconds / 60:,.0f} minutes")
        else:
            found.append("how long is known after the first run on this machine, or `preflight`")
        return found


def plan(sweep: SweepConfig, seed: int, known: Sequence[Run] = ()) -> Plan:
    """What the sweep comes to; `known` runs say how fast this machine is.

    ConfigError where its budget is too small for one trial.
    """
    base = spaces.base_config(sweep)
    same, size = 0, None
    if sweep.method == "grid":
        size = len(spaces.grid(sweep, seed))
        same = spaces.duplicates(sweep, seed)
    limits = sweep.limits
    most = limits.trials // sweep.seeds if limits.trials else None
    settings = min((n for n in (size, most) if n is not None), default=None)
    trials = None if settings is None else settings * sweep.seeds
    packed = base.engine == "packed"
    pace = None if packed else _row_seconds(base.model.name, known)
    rows = base.training.max_steps * effective_batch(base)
    one = None if pace is None else LOADING_SECONDS + pace * rows
    measured = preflight.kept(base)
    if measured and measured.fits:
        one = measured.seconds(base)
    if one is not None and limits.seconds is not None and one > limits.seconds:
        raise ConfigError({
            "budget": f"is too small for one trial, which takes about {one:,.0f} seconds here; "
            "raise it, or take fewer training.max_steps"
        })  # fmt: skip
    seconds = limits.seconds
    if seconds is None and one is not None and trials is not None:
        grown = _mean_rows(sweep, seed, rows) / rows
        each = LOADING_SECONDS + (one - LOADING_SECONDS) * grown
        seconds = each * math.ceil(trials / slot_count())
    return Plan(
        settings=settings,
        trials=trials,
        duplicates=same,
        skipped=same if sweep.duplicates == "skip" else 0,
        packs=math.ceil(trials / base.pack_size) if packed and trials is not None else None,
        pack_size=base.pack_size,
        peak_gib=measured.peak_gib if measured else None,
        trial_seconds=one,
        seconds=seconds,
    )


def _row_seconds(model: str, known: Sequence[Run]) -> float | None:
    """Seconds that a row of training took in completed runs of a base model; None without any."""
    found = []
    for run in known:
        config = run.config
        alike = config["model"]["name"] == model and config.get("engine") != "packed"
        if run.status == Status.COMPLETED and alike and run.step and run.started_at:
            rows = run.step * effective_batch(stored_config(config))
            took = (run.ended_at or run.started_at) - run.started_at - LOADING_SECONDS
            found.append(max(took, 0.0) / rows)
    return median(found) if found else None


def _mean_rows(sweep: SweepConfig, seed: int, base_rows: int) -> float:
    """Rows that a setting trains on: the mean of a grid, and those of the base else."""
    if sweep.method != "grid":
        return base_rows
    base = spaces.base_config(sweep)
    default = {n: get(base, n) for n in ("training.max_steps", spaces.BATCH, spaces.TIMES)}
    cells = spaces.grid(sweep, seed)
    rows = (math.prod(cell.get(n, value) for n, value in default.items()) for cell in cells)
    return float(sum(rows)) / len(cells)
