"""Figures of a sweep: best score so far, slices and parallel coordinates."""

import math
import textwrap
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from src import setting_labels
from src.format import capital, setting_value
from src.models.metrics import is_share, short_label, value_text
from src.panel.ui import parallel
from src.sweeps import ranking, results
from src.sweeps.file import Categorical, Parameter
from src.sweeps.results import SweepResults

ROOM = 0.06  # beyond the scores, of their span
LEAST_SPAN = 0.1  # of an axis of scores: ten points, or a tenth of the score
MAX_TICKS = 8  # values of a setting of which each has a tick
MANY = 50  # marks, from which on they let each other show through
WIDE = 8  # times the smallest value: from here on an axis goes by order of magnitude
MIN_HIGHLIGHTED = 10  # lines of parallel coordinates, or a tenth of them if that is more
# Outcome of a trial -> its Plotly symbol.
SYMBOLS = {"completed": "circle", "early stopped": "circle-open", "pruned": "x-thin-open"}


def _layout(x: str, metric: str, revision: str, scores: pd.Series, **axes: Any) -> dict[str, Any]:
    """A layout of `scores` by `x`; the reader's zoom stays while `revision` does."""
    return {
        "template": "none",
        "uirevision": revision,
        "xaxis": {"title": {"text": x}, "tickformat": ",.3~g"} | axes.get("xaxis", {}),
        # As many digits as neighbouring ticks need to differ.
        "yaxis": {
            "title": {"text": short_label(metric)},
            **axis_ends(metric, scores),
        }
        | ({"tickformat": "~%"} if is_share(metric) else {}),
        "separators": ".,",
    }


def axis_ends(metric: str, scores: pd.Series) -> dict[str, Any]:
    """The range of the axis of scores: small differences are not drawn as if they were large, and a
    share has no room beyond 0% and 100%."""
    known = scores.dropna()
    if known.empty:
        return {}
    low, high = float(known.min()), float(known.max())
    share = is_share(metric)
    least = LEAST_SPAN * (1 if share else max(abs(low), abs(high)) or 1)
    room = max(ROOM * (high - low), (least - high + low) / 2)
    bottom, top = low - room, high + room
    if share:
        bottom, top = min(bottom, 1 - least), min(max(top, least), 1.0)
    if low >= 0:
        bottom = max(bottom, 0.0)
    # Where a reader lets Plotly fit the axis, it would leave the room again.
    fitted = {"clipmin": 0} if low >= 0 else {}
    fitted |= {"clipmax": 1} if share else {}
    return {"range": [bottom, top], "autorangeoptions": fitted}


def best_so_far(found: SweepResults) -> dict[str, go.Figure]:
    """The best score so far against scored trials, and against minutes of training."""
    points = results.best_so_far(found)
    best = points["best"]
    told = value_text(found.sweep.metric, best.iloc[-1]) if len(best) else "none yet"
    figures = {}
    for axis, title in {"trials": "scored trials", "minutes": "minutes of training"}.items():
        trace = {
            "type": "scatter",
            "mode": "lines+markers",
            "line": {"shape": "hv"},
            "legendrank": 1,
            "cliponaxis": False,
            "name": "best",
            "meta": told,
            "x": points[axis].to_numpy("float64"),
            "y": best.to_numpy("float64"),
        }
        layout = _layout(title, found.sweep.metric, axis, best, xaxis={"rangemode": "tozero"})
        figures[f"Best so far, by {axis}"] = go.Figure([trace], layout)
    return figures


def slices(found: SweepResults) -> dict[str, go.Figure]:
    """A figure per searched setting: its values against the score, a mark per trial."""
    figures = {}
    for name, parameter in found.sweep.space.items():
        traces = []
        tried = found.trials[name].map(ranking.is_searched).astype(bool)
        numbers = all(map(parallel.is_number, found.trials.loc[tried, name]))
        for place, (outcome, symbol) in enumerate(SYMBOLS.items()):
            rows = found.trials[found.trials["became"] == outcome]
            rows = rows[tried[rows.index] & rows["score"].notna()]
            if rows.empty:
                continue
            values = rows[name]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": outcome,
                    "meta": [outcome, f"{len(rows):,}"],
                    "marker": {
                        "symbol": symbol,
                        "size": 7,
                        "opacity": 1 if len(rows) < MANY else 0.6,
                    },
                    "legendrank": (1, 2, 8)[place],
                    "cliponaxis": False,
                    "x": values.to_numpy("float64") if numbers else list(map(_lines, values)),
                    "y": rows["score"].to_numpy("float64"),
                }
            )
        kind = _listed(found.trials.loc[tried, name]) if numbers else {}
        if getattr(parameter, "log", False):
            kind = {"type": "log"}
        scores = found.trials.loc[found.trials["became"].isin(SYMBOLS), "score"]
        layout = _layout(setting_labels.inline(name), found.sweep.metric, name, scores, xaxis=kind)
        figures[name] = go.Figure(traces, layout | ({} if numbers else {"margin": {"b": 58}}))
    return figures


def slices_of_page(found: SweepResults) -> dict[str, go.Figure]:
    """The slices by a title that says what is drawn, each with the best setting marked, if there is
    one."""
    metric, drawn = capital(short_label(found.sweep.metric)), {}
    best = found.settings.iloc[0] if results.tied(found.settings) == 1 else None
    for name, figure in slices(found).items():
        if best is not None and ranking.is_searched(best[name]):
            numbers = all(map(parallel.is_number, figure.data[0].x)) if figure.data else False
            figure.add_scatter(
                x=[best[name] if numbers else _lines(best[name])],
                y=[best["score"]],
                mode="markers",
                name="best",
                meta=["best", value_text(found.sweep.metric, best["score"])],
                marker={"symbol": "star", "size": 14},
                legendrank=3,
                cliponaxis=False,
            )
        drawn[f"{metric} by {setting_labels.inline(name)}"] = _untitled(figure)
    return drawn


def best_of_page(found: SweepResults) -> dict[str, go.Figure]:
    """The best score so far against scored trials, by a title that says so."""
    title = f"Best {short_label(found.sweep.metric)} after so many scored trials"
    return {title: _untitled(next(iter(best_so_far(found).values())))}


def _untitled(figure: go.Figure) -> go.Figure:
    """The figure without the titles of its axes: the title of its card has their words."""
    low = figure.layout.margin.b
    figure.update_layout(
        xaxis_title=None, yaxis_title=None, margin={"l": 48, "b": 28 if low is None else low - 14}
    )
    return figure


def _listed(tried: pd.Series) -> dict[str, Any]:
    """The x axis of a few numbers: a tick at each, by order of magnitude where they go that far."""
    values = sorted({float(value) for value in tried})
    if not 1 < len(values) <= MAX_TICKS:
        return {}
    ticks = {"tickvals": values, "ticktext": [setting_value(v, ".3g") for v in values]}
    return ticks | ({"type": "log"} if values[0] > 0 and values[-1] / values[0] >= WIDE else {})


def _lines(value: Any) -> str:
    """A value wrapped to lines that are short enough for a tick label, as HTML."""
    text = escape(setting_value(value, ".3g")).replace("_", " ")
    return "<br>".join(textwrap.wrap(text, 12)) or " "


def parallel_figure(found: SweepResults) -> go.Figure:
    """Parallel coordinates: an axis per setting and the score; the best lines are coloured."""
    rows, best = found.settings, highlighted_count(found)
    axes = [_axis(name, parameter, rows[name]) for name, parameter in found.sweep.space.items()]
    metric, scores = found.sweep.metric, list(rows["score"])
    axes.append(parallel.axis(short_label(metric), scores, is_share=is_share(metric)))
    # The last lines are drawn on top.
    order = range(len(rows) - 1, -1, -1)
    for axis in axes:
        axis["values"] = [axis["values"][place] for place in order]
    colours = [1 if place < best else 0 for place in order]
    return parallel.figure(axes, colours)


def highlighted_count(found: SweepResults) -> int:
    """Number of coloured lines: the best tenth, without those that tie with the next one."""
    scores = list(found.settings["score"])
    if len(scores) <= 2 * MIN_HIGHLIGHTED:
        return 1
    best = max(MIN_HIGHLIGHTED, len(scores) // 10)
    return sum(score != scores[best] for score in scores[:best]) or 1


def _axis(name: str, parameter: Parameter, column: pd.Series) -> dict[str, Any]:
    """An axis of parallel coordinates: categories at equal distances, a range linear or log."""
    if isinstance(parameter, Categorical):
        listed = parameter.values
        if all(isinstance(value, int | float) for value in listed):
            listed = sorted(listed)
        return {
            "label": setting_labels.inline(name),
            "values": [listed.index(v) if ranking.is_searched(v) else math.nan for v in column],
            "range": [0, max(len(listed) - 1, 1)],
        } | parallel.ticks([setting_value(value, ".3g") for value in listed])
    values = [v if ranking.is_searched(v) else None for v in column]
    axis = parallel.axis(setting_labels.inline(name), values)
    if not parameter.log:
        return axis
    ticks = log_ticks(parameter.low, parameter.high)
    return axis | {
        "values": [math.nan if v is None else math.log10(v) for v in values],
        "range": [math.log10(parameter.low), math.log10(parameter.high)],
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [setting_value(tick, ".3g") for tick in ticks],
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks from `low` to `high`: 1, 2 and 5 times powers of ten; only the powers over many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    found = [tick for tick in ticks if low <= tick <= high]
    return found if len(found) > 1 else [low, high]
