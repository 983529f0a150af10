"""Parallel coordinates: an axis for each setting and metric, a line for each run."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from src.format import percent, setting_value

HEIGHT = 340  # px
MAX_TICKS = 12  # values that an axis names; of more it has even steps
NEAR = 0.06  # of an axis: values so near are named by one tick
MAX_TICK_LETTERS = 24


def figure(axes: Sequence[dict[str, Any]], colours: Sequence[int]) -> go.Figure:
    """Parallel coordinates of these axes; `colours` holds each line's palette number, 0 for a
    faint one."""
    lines = {"type": "parcoords", "line": {"color": list(colours)}, "dimensions": list(axes)}
    lines |= {"tickfont": {"size": 11}, "labelfont": {"size": 12}, "rangefont": {"size": 11}}
    layout = {
        "template": "none",
        "uirevision": "parallel",
        "height": HEIGHT,
        "margin": {"l": 70, "r": 70, "t": 50, "b": 24},
    }
    return go.Figure([lines], layout)


def axis(label: str, values: Sequence[float | None], *, is_share: bool = False) -> dict[str, Any]:
    """A Plotly dimension of numbers, of few ones with ticks at them; None, where nothing was
    measured, is a gap. Shares are in percent."""
    found: dict[str, Any] = {"label": label, "values": [np.nan if v is None else v for v in values]}
    found |= {"tickformat": ".1%"} if is_share else {}
    known = sorted({float(v) for v in values if v is not None and v == v})
    if len(known) == 1:
        # Plotly would take a tenth to each side, beyond 100% too.
        reach = 0.05 if is_share else abs(known[0]) / 10 or 1.0
        low, high = known[0] - reach, known[0] + reach
        found["range"] = [max(low, 0.0), min(high, max(1.0, *known))] if is_share else [low, high]
    if not 0 < len(known) <= MAX_TICKS:
        return found
    room = (known[-1] - known[0]) * NEAR
    shown = [known[0]]
    for value in known[1:]:
        if value - shown[-1] >= room and (value == known[-1] or known[-1] - value >= room):
            shown.append(value)
    told = [percent(v) if is_share else setting_value(v, ".4g") for v in shown]
    return found | {"tickvals": shown, "ticktext": told}


def setting_axis(label: str, values: Sequence[Any]) -> dict[str, Any]:
    """A Plotly dimension of a setting's values: numeric if all are numbers, else with a tick per
    text, for None is a value too."""
    if all(map(is_number, values)):
        return axis(label, values)
    # Numbers in their order before all texts.
    order = sorted(values, key=lambda v: (0, v, "") if is_number(v) else (1, 0, setting_value(v)))
    texts = list(dict.fromkeys(setting_value(v) for v in order))
    places = [texts.index(setting_value(v)) for v in values]
    return {"label": label, "values": places} | ticks(texts)


def is_number(value: Any) -> bool:
    """True for a number, which a switch is none of."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def ticks(texts: Sequence[str]) -> dict[str, Any]:
    """Ticks at 0, 1, 2, ... with these texts, cut to MAX_TICK_LETTERS."""
    shown = [escape(text[:MAX_TICK_LETTERS]) for text in texts]
    return {"tickvals": list(range(len(texts))), "ticktext": shown}
