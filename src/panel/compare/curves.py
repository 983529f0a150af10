"""The curves of several runs over each other, by step, tokens or time."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from src import store
from src.analysis.comparison import Group
from src.format import capital
from src.models.metrics import TOKENS, metric_info, metric_label
from src.panel.ui import charts
from src.panel.ui.charts import PALETTE
from src.panel.ui.points import Points, Reach, Reaches, mode
from src.store.tables import Run

DASHES = ("solid", "dash", "dot")
MAX_BAND_POINTS = 300
# Configs whose bands are all drawn, and of which the legend names those that another one hides. Of
# more the lines are faint, but for those that are brought out (charts.js): at first the best.
FEW = 4
ALIKE = 0.01  # of the height of a chart: how wide a line is drawn
# Choice -> points of the running mean.
SMOOTHING = {"none": 1, "mean of 5 points": 5, "mean of 20 points": 20, "mean of 100 points": 100}
AXES = {  # choice -> title and d3 format of the x axis
    "step": ("step", ",.9~r"),
    "tokens": ("tokens seen", ".3~s"),
    "time": ("minutes since the first point", ",.4~g"),
}
HOVERED = {"step": "step %{x:,}", "tokens": "%{x:.3s} tokens", "time": "%{x:.3~g} min"}
FIRST_CURVES = ["val/exact_match", "val/loss", "train/loss"]


@dataclass(frozen=True)
class Shown:
    """The curves that the page shows of the runs, as its reader chose."""

    metrics: tuple[str, ...]
    axis: str  # step, tokens or time
    window: int  # points of the running mean; 1 is none
    band: bool  # one line and band per config instead of a line per run
    lead: Sequence[str] = ()  # the configs with the best score


def figures(
    groups: Sequence[Group],
    curves: Mapping[str, Mapping[str, pd.DataFrame]],
    shown: Shown,
    behind: Reaches,
    reach: dict[str, Reach],
) -> dict[str, go.Figure]:
    """A chart per metric by title, with the points behind those that the browser has of each;
    `reach` gets what it has then."""
    found = {}
    for metric in shown.metrics:
        title, points = about(metric)[0], Points(behind.get(about(metric)[0]))
        found[title] = figure(metric, groups, curves, shown, points)
        reach[title] = points.reach
    return found


def legend(groups: Sequence[Group], order: Sequence[Group]) -> list[dict[str, Any]]:
    """The colour and the line of each config, once for all charts: of many in this order."""
    places = {group.name: place for place, group in enumerate(groups)}
    return [
        {
            "name": group.name,
            "config": str(places[group.name]),
            "colour": places[group.name] % PALETTE + 1,
            "dash": DASHES[places[group.name] // PALETTE % len(DASHES)],
        }
        for group in (order if len(groups) > FEW else groups)
    ]


def about(metric: str) -> tuple[str, str, str]:
    """Title, unit and d3 format of a metric."""
    if info := metric_info(metric):
        title = metric_label(metric)
        return capital(title), info.unit, info.format
    for chart in charts.CHARTS:
        if metric in chart.curves:
            only = len(chart.curves) == 1
            title = chart.title if only else f"{chart.title}, {chart.curves[metric]}"
            return title, chart.unit, chart.format
    return metric, metric, ",.3~g"


def read(
    session: store.Session, runs: Iterable[Run], metrics: Collection[str], *, axis: str
) -> dict[str, dict[str, pd.DataFrame]]:
    """{run id: {metric: frame with a column x}}; no metrics for a run whose x is not known."""
    needed = {*metrics, TOKENS, "tokens_per_second"} if axis == "tokens" else set(metrics)
    found = {}
    for run in runs:
        frames = charts.read_curves(session, run, needed).frames
        place = _axis(frames, axis)
        found[run.id] = {
            name: frame.assign(x=place(frame)).sort_values("x", kind="stable")
            for name, frame in frames.items()
            if name in metrics and place is not None and len(frame)
        }
    return found


def _axis(
    frames: Mapping[str, pd.DataFrame], axis: str
) -> Callable[[pd.DataFrame], pd.Series] | None:
    """A function that gives x of a frame's points; None while a run's tokens are not known."""
    if axis == "time":
        begin = min((frame["at"].min() for frame in frames.values() if len(frame)), default=0.0)
        return lambda frame: (frame["at"] - begin) / 60
    if axis == "tokens":
        seen = frames.get(TOKENS)
        if seen is not None and len(seen):
            return lambda frame: tokens_at(frame["step"], seen)
        rate = tokens_per_step(frames.get("tokens_per_second"))
        return None if rate is None else lambda frame: frame["step"] * rate
    return lambda frame: frame["step"]


def tokens_at(steps: pd.Series, seen: pd.DataFrame) -> pd.Series:
    """Tokens seen at these steps: exact where they were logged, else by the steps around or, after
    the last one, by the mean of all."""
    known = seen.dropna(subset="value").sort_values("step", kind="stable")
    at, tokens = np.append(0, known["step"]), np.append(0, known["value"])
    beyond = np.maximum(steps - at[-1], 0) * tokens[-1] / max(at[-1], 1)
    return pd.Series(np.interp(steps, at, tokens) + beyond, index=steps.index)


def tokens_per_step(speed: pd.DataFrame | None) -> float | None:
    """Median tokens per step, from the speed (tokens per second) and times of the reports: for runs
    of earlier versions, which did not record the tokens.

    None before the second report.
    """
    if speed is None or len(speed) < 2:
        return None
    tokens = speed["value"].iloc[1:].to_numpy() * np.diff(speed["at"]) / np.diff(speed["step"])
    return float(np.nanmedian(tokens)) if np.isfinite(tokens).any() else None


def figure(
    metric: str,
    groups: Sequence[Group],
    curves: Mapping[str, Mapping[str, pd.DataFrame]],
    drawn_as: Shown,
    points: Points | None = None,
) -> go.Figure:
    """One metric of all runs in one chart, a colour per config, and of its curves the chosen
    points."""
    points = points or Points()
    _, unit, form = about(metric)
    traces = []
    found = {
        number: [_smooth(curves[run.id][metric], drawn_as.window) for run in group.runs
                 if metric in curves[run.id]]
        for number, group in enumerate(groups)
    }  # fmt: skip
    many = len(groups) > FEW
    below = {number: [] for number in found} if many else _alike(found)
    # Of many only one is told, whose name stands in the head of the chart.
    alone = f", {HOVERED[drawn_as.axis]}<extra></extra>"
    for number, group in enumerate(groups):
        runs = [run for run in group.runs if metric in curves[run.id]]
        if not runs:
            continue
        frames, lines = [curves[run.id][metric] for run in runs], found[number]
        last = [frame["value"].dropna().iloc[-1:] for frame in frames]
        mean = charts.last_value(pd.Series([pd.concat(last).mean()]), form)
        if below[number]:
            mean += f" (as {groups[below[number][0]].name})"
        dash = DASHES[(number // PALETTE + len(below[number])) % len(DASHES)]
        style = {
            "type": "scatter",
            "mode": "lines",
            "legendgroup": str(number),
            "legendrank": number % PALETTE + 1,
            "hovertemplate": f"%{{y:{form}}}" + (alone if many else ""),
            "line": {"dash": dash, "width": 1.25 if many else 1.75},
        }
        if drawn_as.band and len(lines) > 1:
            traces += _band(style, group.name, lines, mean, points)
            continue
        for place, (run, line) in enumerate(zip(runs, lines, strict=True)):
            name = f"{group.name}, seed {run.config['training']['seed']}"
            # The legend names each config once.
            called = [group.name, mean] if len(runs) > 1 else mean
            legend = {"meta": called} if place == 0 else {}
            # Marks on many lines would be a cloud.
            own = {"mode": "lines" if many and len(line) > 1 else mode(len(line)), "name": name}
            traces.append(style | own | legend | points.line(line["x"], line["value"]))
    lead = [str(number) for number, group in enumerate(groups) if group.name in drawn_as.lead]
    faint = {"many": True, "lead": lead} if many else {}
    return go.Figure(traces, _layout(unit, form, drawn_as, faint))


def _alike(lines: Mapping[int, Sequence[pd.DataFrame]]) -> dict[int, list[int]]:
    """{config: those before it that its curve would hide}, by the means of their seeds: over the
    last half of what both have they are never further apart than a line is wide."""
    known = {n: [k for line in own if len(k := line.dropna())] for n, own in lines.items()}
    known = {number: own for number, own in known.items() if own}
    drawn = [line["value"] for own in known.values() for line in own]
    width = ALIKE * float(np.ptp(np.concatenate(drawn))) if drawn else 0.0
    below: dict[int, list[int]] = {number: [] for number in lines}
    for one, other in combinations(known, 2):
        end = min(line["x"].iloc[-1] for line in (*known[one], *known[other]))
        x = np.linspace(end / 2, end, 20)
        if np.abs(_mean_at(known[one], x) - _mean_at(known[other], x)).max() <= width:
            below[other].append(one)
    return below


def _mean_at(lines: Sequence[pd.DataFrame], x: np.ndarray) -> np.ndarray:
    """The mean of some curves at these places, between their points."""
    return np.asarray(np.mean([np.interp(x, one["x"], one["value"]) for one in lines], axis=0))


def _layout(unit: str, form: str, drawn_as: Shown, faint: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of one metric's chart; the reader's zoom stays while the x axis does. `faint` says
    which lines stand out, where they are many."""
    axis, ticks = AXES[drawn_as.axis]
    smoothing = f", mean of {drawn_as.window} points" if drawn_as.window > 1 else ""
    return {
        "template": "none",
        "uirevision": drawn_as.axis,
        "meta": {"unit": unit + smoothing, "compared": True, **faint},
        "xaxis": {
            "title": {"text": axis},
            "tickformat": ticks,
            "rangemode": "tozero",
            "unifiedhovertitle": {"text": HOVERED[drawn_as.axis]},
        },
        "yaxis": {
            "tickformat": ".0%" if form.endswith("%") else None,
            "exponentformat": "e",
            "minexponent": 5,
            "separatethousands": True,
        },
        "separators": ".,",
    }


def _smooth(frame: pd.DataFrame, window: int) -> pd.DataFrame:
    """The frame with a running mean over `window` points."""
    if window <= 1:
        return frame
    return frame.assign(value=frame["value"].rolling(window, min_periods=1).mean())


def _band(
    style: Mapping[str, Any],
    name: str,
    lines: Sequence[pd.DataFrame],
    last: str,
    points: Points,
) -> list[dict[str, Any]]:
    """Traces: the mean of several curves, and an area from the lowest to the highest of them."""
    x = np.unique(np.concatenate([line["x"].to_numpy(float) for line in lines]))
    # Beyond it a slower run has points to come.
    final = min((float(line["x"].iloc[-1]) for line in lines if len(line)), default=None)
    if len(x) > MAX_BAND_POINTS:
        x = x[np.linspace(0, len(x) - 1, MAX_BAND_POINTS).astype(int)]
    known = [line.dropna(subset="value") for line in lines]
    y = np.stack(
        [np.interp(x, k["x"], k["value"], left=np.nan, right=np.nan) for k in known if len(k)]
        or [np.full(len(x), np.nan)]
    )
    there = np.isfinite(y).sum(axis=0)
    x, y, there = x[there > 0], y[:, there > 0], there[there > 0]
    several = there > 1
    edge, of_several = x[several], y[:, several]
    low, high = (
        (f(of_several, axis=0) for f in (np.nanmin, np.nanmax)) if len(edge) else (edge, edge)
    )
    area = {
        **points.area(edge, low, high, final=final),
        "fill": "toself",
        "hoverinfo": "skip",
        "line": {"width": 0},
    }
    mean = np.nanmean(y, axis=0) if len(x) else x
    middle = points.line(x, mean, final=final) | ({"meta": last} if len(x) else {})
    hidden = {k: v for k, v in style.items() if k != "hovertemplate"}
    return [hidden | area, {**style, "name": f"{name}, mean of {len(lines)} seeds", **middle}]
