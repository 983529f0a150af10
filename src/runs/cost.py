"""Money: what this machine has cost since it was started, and what is left of the budget; and what
runs took of it."""

import time

from src.config import MachineSettings, usable_machine
from src.format import energy, money
from src.runs import machine


def spent(settings: MachineSettings) -> float | None:
    """Money that the machine has cost since it was started, trained or not; None without a
    price."""
    return settings.cost_of(time.time() - machine.started_at())


def left(settings: MachineSettings) -> float | None:
    """Money that is left of the budget, below 0 once it is spent; None without both."""
    used = spent(settings)
    return None if used is None or settings.budget is None else settings.budget - used


def seconds_left(settings: MachineSettings) -> float | None:
    """Seconds until the budget is spent, 0 after that; None without one."""
    money = left(settings)
    if money is None or settings.price_per_hour is None:
        return None
    return max(0.0, money / settings.price_per_hour * 3600)


def facts() -> list[tuple[str, str]]:
    """The money spent since the machine was started, and that left; nothing without a price."""
    settings = usable_machine()
    used, rest = spent(settings), left(settings)
    found = [] if used is None else [("spent", money(used, settings.currency))]
    if rest is not None:
        name = "left" if rest >= 0 else "over the budget"
        found.append((name, money(abs(rest), settings.currency)))
    return found


def taken(machine_seconds: float | None, energy_wh: float | None) -> list[tuple[str, str]]:
    """The energy and the money that runs took, as names and texts; without what is not known."""
    settings = usable_machine()
    cost = settings.cost_of(machine_seconds)
    found = [] if energy_wh is None else [("energy", energy(energy_wh))]
    return found + ([] if cost is None else [("cost", money(cost, settings.currency))])
