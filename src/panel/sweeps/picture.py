"""A sweep before its launch: how many trials it comes to, and a small picture of what is tried."""

import math
from html import escape

from src import setting_labels
from src.config import RunConfig, Setting, by_name
from src.format import counted, duration, setting_value
from src.runs import preset_cards
from src.sweeps.estimate import SweepEstimate
from src.sweeps.file import Categorical, Parameter, Range, SweepConfig

MAX_MARKS = 40  # of a range with steps; more of them are a bar
EDGE = 3  # per cent of a strip at each end
ROOM = 0.2  # of a strip, that the labels of its ends take


def sum_line(sweep: SweepConfig, plan: SweepEstimate) -> str:
    """`2 × 2 = 4 settings × 3 seeds = 12 trials ≈ 6 min`."""
    sizes = [_size(parameter) for parameter in sweep.space.values()]
    unit = "setting" if sweep.seeds > 1 else "trial"
    if plan.settings is None:
        told = "As many settings as the time allows"
    elif sweep.method != "grid":
        told = f"{counted(plan.settings, unit)} drawn"
    elif math.prod(size or 0 for size in sizes) == plan.settings and len(sizes) > 1:
        told = f"{' × '.join(map(str, sizes))} = {counted(plan.settings, unit)}"
    else:
        told = counted(plan.settings, unit)
    if sweep.seeds > 1:
        told += f" × {sweep.seeds} seeds"
        told += f" = {counted(plan.trials, 'trial')}" if plan.trials is not None else ""
    return f"{told} ≈ {duration(plan.seconds)}" if plan.seconds is not None else told


def guess(base: RunConfig, plan: SweepEstimate) -> list[str]:
    """A line on the time of the trials one after the other, by what was measured of a preset
    elsewhere; none where this machine tells it, or no preset like the base was measured."""
    found = preset_cards.elsewhere(base)
    if plan.seconds is not None or plan.trials is None or found is None:
        return []
    seconds, hardware = found
    return [f"estimate: ≈ {duration(seconds * plan.trials)} one by one (on {hardware})"]


def _size(parameter: Parameter) -> int | None:
    """How many values a parameter has; None: no end of them, or not in every trial."""
    if parameter.when:
        return None
    if isinstance(parameter, Categorical):
        return len(parameter.values)
    return (
        None
        if parameter.step is None
        else int((parameter.high - parameter.low) / parameter.step + 1e-9) + 1
    )


def strips(sweep: SweepConfig) -> str:
    """HTML: a strip for each searched setting: a mark at each value, or a bar from end to end."""
    known = by_name()
    rows = []
    for name, parameter in sweep.space.items():
        between = ""
        if isinstance(parameter, Categorical):
            drawn, ends = _listed(parameter)
        else:
            drawn, ends = _ranged(parameter, known[name])
            between = "".join(
                f'<span class="at" style="left:{_left(place)}">{_number(power)}</span>'
                for power, place in _powers(parameter)
                if ROOM < place < 1 - ROOM
            )
        called = escape(setting_labels.label(name))
        rows.append(
            f'<div role="img" aria-label="{called}: {escape(_told(parameter))}">'
            f'<b>{called}</b><span class="strip">{drawn}</span>'
            f"<small><span>{escape(ends[0])}</span>{between}<span>{escape(ends[1])}</span></small>"
            "</div>"
        )
    return f'<div class="strips">{"".join(rows)}</div>'


def _listed(parameter: Categorical) -> tuple[str, tuple[str, str]]:
    values = parameter.values
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(numbers) > 1:
        numbers = sorted(numbers)
        log = numbers[0] > 0 and numbers[-1] / numbers[0] >= 8
        places = [_place(v, numbers[0], numbers[-1], log=log) for v in numbers]
        return "".join(map(_mark, places)), (_number(numbers[0]), _number(numbers[-1]))
    places = [(i + 0.5) / len(values) for i in range(len(values))]
    shown = [setting_value(v) for v in values]
    return "".join(map(_mark, places)), (", ".join(shown), "")


def _ranged(parameter: Range, setting: Setting) -> tuple[str, tuple[str, str]]:
    low, high = parameter.low, parameter.high
    step = parameter.step or (1 if setting.type is int and not parameter.log else None)
    ends = _number(low), _number(high) + (" (log)" if parameter.log else "")
    if step and high > low and (high - low) / step < MAX_MARKS:
        many = int((high - low) / step + 1e-9) + 1
        return "".join(_mark(i * step / (high - low)) for i in range(many)), ends
    bar = f'<i class="span" style="left:{EDGE}%;right:{EDGE}%"></i>'
    return bar + "".join(_tick(place) for _, place in _powers(parameter)), ends


def _powers(parameter: Range) -> list[tuple[float, float]]:
    """The powers of ten of a range by order of magnitude, and where they lie in it."""
    low, high = parameter.low, parameter.high
    if not parameter.log or low <= 0:
        return []
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [(10.0**power, _place(10.0**power, low, high, log=True)) for power in powers]


def _place(value: float, low: float, high: float, *, log: bool) -> float:
    """Where a value lies between two others, in [0, 1]."""
    if high <= low:
        return 0.5
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _left(place: float) -> str:
    return f"{EDGE + place * (100 - 2 * EDGE):.1f}%"


def _mark(place: float) -> str:
    return f'<i style="left:{_left(place)}"></i>'


def _tick(place: float) -> str:
    return f'<i class="tick" style="left:{_left(place)}"></i>'


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _told(parameter: Parameter) -> str:
    if isinstance(parameter, Categorical):
        return ", ".join(setting_value(value) for value in parameter.values)
    way = " by order of magnitude" if parameter.log else ""
    return f"{_number(parameter.low)} to {_number(parameter.high)}{way}"
