"""Money: what this machine has cost since it was started, and what is left of the budget."""

import time

from src.config import MachineSettings
from src.runs import machine


def spent(settings: MachineSettings) -> float | None:
    """Money that the machine has cost since it was started, trained or not; None without a
    price."""
    return of_seconds(settings, time.time() - machine.started_at())


def left(settings: MachineSettings) -> float | None:
    """Money that is left of the budget, below 0 once it is spent; None without both."""
    used = spent(settings)
    return None if used is None or settings.budget is None else settings.budget - used


def of_seconds(settings: MachineSettings, seconds: float | None) -> float | None:
    """Money that the whole machine costs in so many seconds; None without a price."""
    if settings.price_per_hour is None or seconds is None:
        return None
    return settings.price_per_hour * max(0.0, seconds) / 3600


def seconds_left(settings: MachineSettings) -> float | None:
    """Seconds until the budget is spent, 0 after that; None without one."""
    money = left(settings)
    if money is None or settings.price_per_hour is None:
        return None
    return max(0.0, money / settings.price_per_hour * 3600)
