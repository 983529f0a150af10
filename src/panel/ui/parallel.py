"""Parallel coordinates: an axis for each setting and metric, a line for each run."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from src.format import setting_value

HEIGHT = 340  # px
MAX_TICK_LETTERS = 24


def figure(axes: Sequence[dict[str, Any]], colours: Sequence[int]) -> go.Figure:
    """Parallel coordinates of these axes; `colours` holds each line's palette number, 0 for a
    faint one."""
    lines = {"type": "parcoords", "line": {"color": list(colours)}, "dimensions": list(axes)}
    layout = {
        "template": "none",
        "uirevision": "parallel",
        "height": HEIGHT,
        "margin": {"l": 70, "r": 70, "t": 50, "b": 24},
    }
    return go.Figure([lines], layout)


def axis(label: str, values: Sequence[float | None]) -> dict[str, Any]:
    """A Plotly dimension of numbers; None, where nothing was measured, is a gap."""
    return {"label": label, "values": [np.nan if v is None else v for v in values]}


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
