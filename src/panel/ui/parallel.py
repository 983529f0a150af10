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


def axis(label: str, values: Sequence[Any]) -> dict[str, Any]:
    """A Plotly dimension: numeric if all values are numbers or None, else with a tick per text."""
    if all(v is None or isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return {"label": label, "values": [np.nan if v is None else v for v in values]}
    texts = sorted({setting_value(v) for v in values})
    places = [texts.index(setting_value(v)) for v in values]
    return {"label": label, "values": places} | ticks(texts)


def ticks(texts: Sequence[str]) -> dict[str, Any]:
    """Ticks at 0, 1, 2, ... with these texts, cut to MAX_TICK_LETTERS."""
    shown = [escape(text[:MAX_TICK_LETTERS]) for text in texts]
    return {"tickvals": list(range(len(texts))), "ticktext": shown}
