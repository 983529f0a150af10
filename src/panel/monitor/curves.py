"""The charts of one run: score and loss large, the others small, all along the same steps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from src.models.metrics import SUITE
from src.panel.monitor import marks as marked
from src.panel.monitor.marks import Mark
from src.panel.ui import charts
from src.panel.ui.charts import PALETTE, Chart
from src.panel.ui.points import MAX_POINTS_WITH_MARKS, Points, Reach, Reaches, mode
from src.store.tables import Run

MEAN_POINTS = 200  # of a running mean, and of how a parent went on
MIN_POINTS_FOR_MEAN = 301  # from here on a noisy curve also shows a running mean
LARGE, SMALL = 320, 136  # pixels
TICKS = {LARGE: 6, SMALL: 4}  # of an axis at most, as charts.js asks for them
MARGIN = 1.06  # that Plotly leaves at the end of an axis
FEW = 12  # points of a small curve, which have marks
HELD_OUT = ("val/", SUITE)
EARLY = 0.2  # of the steps so far, in which a curve that falls may be out of all proportion
LEAST_SHARE = 0.1  # of an axis of shares: below it, ticks in percent would repeat
NEAR_ZERO = 0.5  # of the highest value: below it, an axis begins at 0
LEAST_SPAN = 0.1  # of an axis that does not begin at 0, as a part of its values


def figures(
    run: Run,
    curves: charts.Curves,
    marks: Sequence[Mark],
    behind: Reaches,
    reach: dict[str, Reach],
) -> dict[str, go.Figure]:
    """The charts of a run by title, with the points behind those that the browser has of each;
    `reach` gets what it has then."""
    found: dict[str, go.Figure] = {}
    # An attempt that went on before the first point of a metric has none of it yet.
    frames = {name: frame for name, frame in curves.frames.items() if len(frame)}
    for chart in charts.charts(frames):
        points = Points(behind.get(chart.title))
        drawn = figure(chart, frames, run=run, branches=curves.branches, points=points)
        if not chart.group or not found:
            marked.draw(drawn, marks, best=not found)
        found[chart.title] = drawn
        reach[chart.title] = points.reach
    return found


def figure(
    chart: Chart, frames: Mapping[str, pd.DataFrame], *, run: Run,
    branches: Mapping[str, pd.DataFrame] | None = None, points: Points | None = None,
) -> go.Figure:  # fmt: skip
    """A chart of these frames of a run, with `branches` dotted, and of its curves the chosen
    points."""
    drawn, points, branches = go.Figure(), points or Points(), branches or {}
    most = FEW if chart.group else MAX_POINTS_WITH_MARKS
    shown = {name: label for name, label in chart.curves.items() if name in frames}
    for (name, label), colour in zip(shown.items(), _colours(shown), strict=True):
        frame = frames[name]
        many = chart.noisy and len(frame) >= MIN_POINTS_FOR_MEAN
        curve = {"mode": "lines", "hovertemplate": f"%{{y:{chart.format}}}", "legendrank": colour}
        drawn.add_scatter(
            # A mark at the end of an axis is not cut in half.
            **curve | {"mode": mode(len(frame), most), "cliponaxis": len(frame) > most},
            **points.line(frame["step"].to_numpy("int32"), frame["value"]),
            name=label,
            meta=charts.last_value(frame["value"], chart.format),
            opacity=0.35 if many else 1,
        )
        if many:
            # A number that does not change with each point: the browser keeps what it has.
            window = 2 ** int(np.log2(len(frame) / 50))
            mean = frame["value"].rolling(window, min_periods=1).mean()
            drawn.add_scatter(
                **curve,
                **points.line(frame["step"].to_numpy("int32"), mean, limit=MEAN_POINTS),
                name=f"mean of {window} points",
            )
        if name in branches:
            rest = branches[name]
            drawn.add_scatter(
                **curve,
                **points.line(rest["step"].to_numpy("int32"), rest["value"], limit=MEAN_POINTS),
                name=f"{label}, not forked",
                line_dash="dot",
                opacity=0.7,
            )
    several = [frames[name] for name in shown] + [branches[n] for n in shown if n in branches]
    _set_axes(drawn, chart, several, run)
    return drawn


def _colours(names: Iterable[str]) -> Iterator[int]:
    """A colour for each curve of a chart. The second one is that of validation, and of nothing
    else."""
    own, held_out = iter([1, *range(3, 99)]), iter(range(2, 99))
    for name in names:
        number = next(held_out if name.startswith(HELD_OUT) else own)
        yield (number - 1) % PALETTE + 1


def _set_axes(drawn: go.Figure, chart: Chart, frames: Sequence[pd.DataFrame], run: Run) -> None:
    last = max([run.max_steps, run.step or 0, *(int(f["step"].max()) for f in frames if len(f))])
    ends, beyond = _ends(chart, frames)
    room = round(0.015 * last, 3)
    unit = "" if chart.unit.lower() == chart.title.lower() else chart.unit
    share = chart.format.endswith("%")
    drawn.update_layout(
        template="none",
        uirevision=run.id,
        meta={"unit": unit, "group": chart.group},
        height=SMALL if chart.group else LARGE,
        xaxis_range=[-room, last + room],
        xaxis_title_text="step",
        xaxis_unifiedhovertitle_text="step %{x:,}",
        xaxis_dtick=1 if last <= 5 else None,
        yaxis_tickformat=".2~%" if share else None,
        yaxis_rangemode="tozero" if chart.from_zero else "normal",
        yaxis_autorangeoptions=ends,
        yaxis_exponentformat="e",
        yaxis_minexponent=5,
        separators=".,",
        yaxis_separatethousands=True,
    )
    if beyond is not None:
        at, value = beyond
        number = format(value, chart.format.replace("~", ""))
        drawn.add_annotation(
            x=at, y=1, yref="paper", xanchor="left", yanchor="bottom", text=f"↑ up to {number}",
            hovertext=f"{number} at step {at:,}, above the top of this chart", name="beyond",
            showarrow=False, font_size=11,
        )  # fmt: skip


def _ends(
    chart: Chart, frames: Sequence[pd.DataFrame]
) -> tuple[dict[str, Any], tuple[int, float] | None]:
    """The bounds of the y axis as Plotly fits it to the values; step and value of the highest
    point if that is left out."""
    steps = np.concatenate([np.empty(0), *(f["step"].to_numpy(float) for f in frames)])
    values = np.concatenate([np.empty(0), *(f["value"].to_numpy(float) for f in frames)])
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    ends: dict[str, Any] = {"include": [0, LEAST_SHARE]} if chart.format.endswith("%") else {}
    if not len(values):
        return ends, None
    low, high = float(values.min()), float(values.max())
    late = values[steps >= EARLY * steps.max()]
    top, is_cut = high, chart.falls and len(late) >= 3 and high > 1.65 * late.max() > 0
    if is_cut:
        top = ends["clipmax"] = 1.1 * float(late.max())
    # A loss that fell to less than half is not drawn as if it had fallen to nothing.
    if chart.from_zero or 0 <= low < NEAR_ZERO * top:
        # Up to a tick above the curve.
        top = _rounded_up(max(top, *ends.get("include", [0])), SMALL if chart.group else LARGE)
        ends["include"] = [min(low, 0.0), top]
        if is_cut:
            ends["clipmax"] = top
    elif high - low < LEAST_SPAN * abs(high):
        middle, half = (low + high) / 2, LEAST_SPAN / 2 * abs(high)
        ends["include"] = [middle - half, middle + half]
    if low >= 0:
        ends["clipmin"] = 0
    highest = int(values.argmax())
    return ends, (int(steps[highest]), high) if is_cut else None


def _rounded_up(top: float, height: int) -> float:
    """The first tick at or above `top` of an axis from 0, as Plotly places them."""
    if top <= 0:
        return top
    for end in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0):
        power = 10.0 ** np.floor(np.log10(top / TICKS[height]))
        step = float(power * end)
        rounded = float(np.ceil(top / step - 1e-9) * step)
        if rounded * MARGIN / TICKS[height] <= step:
            return rounded
    return top
