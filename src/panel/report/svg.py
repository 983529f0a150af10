"""Figures of the panel as SVG, which needs no script: lines, bands, marks and their axes."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape, unescape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from src.panel.sweeps.figures import log_ticks

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 10, 40  # margins of the axes
DASHES = {"dash": "6 4", "dot": "2 3"}
MARKS = {"best": "good", "stop": "warn", "fork": "quiet"}  # kind of a marked step -> its colour
# In the order in which powers of ten are divided.
NICE = (1, 2, 2.5, 5, 10)
MAX_TICKS = 5


class _Axis:
    """Places of values on one side of the picture, and its ticks."""

    def __init__(self, values: Sequence[Any], about: Mapping[str, Any], start: float, end: float):
        self.start, self.end = start, end
        self.texts = list(dict.fromkeys(v for v in values if isinstance(v, str)))
        self.is_log = about.get("type") == "log"
        self.form = about.get("tickformat") or ""
        known = [float(v) for v in values if not isinstance(v, str) and math.isfinite(v)]
        if self.texts:
            low, high = -0.5, len(self.texts) - 0.5
        else:
            low, high = min(known, default=0.0), max(known, default=1.0)
        if about.get("rangemode") == "tozero":
            low, high = min(low, 0.0), max(high, 0.0)
        low, high = _bounded(low, high, about)
        if self.is_log:
            self.ticks = log_ticks(low, high)
            low, high = math.log10(low), math.log10(high)
        if high <= low:
            low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
        room = 0.04 * (high - low)
        grows = about.get("rangemode") == "tozero" and low == 0
        self.low = 0.0 if grows else max(low - room, 0) if low >= 0 and not self.is_log else (
            low - room
        )  # fmt: skip
        self.high = high + room
        if not self.is_log:
            self.ticks = [] if self.texts else _ticks(self.low, self.high)

    def place(self, value: Any) -> float:
        """The place of a value, in units of the picture."""
        at = self.texts.index(value) if isinstance(value, str) else float(value)
        at = math.log10(at) if self.is_log else at
        return self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start)

    def labels(self) -> list[tuple[float, str]]:
        """(place, text) of each tick."""
        if self.texts:
            return [(self.place(text), text) for text in self.texts]
        if "%" in self.form:
            step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1
            digits = 0 if step >= 0.01 else 1
            return [(self.place(tick), f"{tick:.{digits}%}") for tick in self.ticks]
        return [(self.place(tick), _short(tick)) for tick in self.ticks]


def _bounded(low: float, high: float, about: Mapping[str, Any]) -> tuple[float, float]:
    """The ends of an axis by what its layout asks for beside its values."""
    asked = about.get("autorangeoptions") or {}
    known = [low, high, *asked.get("include", ()), *(about.get("range") or ())]
    return max(min(known), 0.0) if low >= 0 else min(known), max(known)


def _short(value: float) -> str:
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e+")
    return f"{value:,.6g}"


def _ticks(low: float, high: float) -> list[float]:
    """At most MAX_TICKS + 1 round values from `low` to `high`."""
    rough = (high - low) / MAX_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in NICE if power * n >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * n, 12) for n in range(first, last + 1)]


def card(title: str, figure: go.Figure) -> str:
    """HTML of a figure with its title and the last values of its curves."""
    drawn = figure.to_plotly_json()
    traces, layout = drawn["data"], drawn["layout"]
    if (layout.get("meta") or {}).get("many"):  # bands of many would hide the lines
        traces = [trace for trace in traces if not trace.get("fill")]
    legend = [(trace, _called(trace)) for trace in traces if trace.get("meta") is not None]
    items = "".join(
        f'<span style="--curve:{_colour(trace)}">{escape(text)}</span>' for trace, text in legend
    )
    told = ", ".join(text for _, text in legend)
    unit = (layout.get("meta") or {}).get("unit")
    about = f" <small>({escape(unit)})</small>" if unit else ""
    name = escape(f"{title}: {told}" if told else title)
    return (
        f'<section class="chart"><header><h3>{escape(title)}{about}</h3>'
        f'<span class="last">{items}</span></header>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"{_picture(traces, layout)}</svg></section>"
    )


def _called(trace: Mapping[str, Any]) -> str:
    """The legend of a trace: what it is called, and its last value."""
    meta = trace["meta"]
    return f"{trace.get('name', '')} {meta}" if isinstance(meta, str) else " ".join(meta)


def _colour(trace: Mapping[str, Any]) -> str:
    return f"var(--curve-{trace.get('legendrank', 1)})"


def _picture(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> str:
    """SVG: axes, and over them marked steps and all traces."""
    marks = layout.get("shapes") or ()
    xs = [v for trace in traces for v in _values(trace, "x")] + [mark["x0"] for mark in marks]
    ys = [v for trace in traces for v in _values(trace, "y")]
    x = _Axis(xs, layout.get("xaxis") or {}, LEFT, WIDTH - RIGHT)
    y = _Axis(ys, layout.get("yaxis") or {}, HEIGHT - BOTTOM, TOP)
    lines = [
        f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{escape(text)}</text>'
        for at, text in y.labels()
    ]
    lines += [
        f'<text y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">{_label(text, at)}</text>'
        for at, text in x.labels()
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    lines.append(
        f'<text x="{middle[0]}" y="{HEIGHT - 4}" text-anchor="middle">{_title(layout, "xaxis")}'
        f'</text><text transform="translate(9 {middle[1]}) rotate(-90)" text-anchor="middle">'
        f"{_title(layout, 'yaxis')}</text>"
    )
    lines += [_mark(mark, place, x) for place, mark in enumerate(marks)]
    return "".join([*lines, *(_trace(trace, x, y) for trace in traces)])


def _values(trace: Mapping[str, Any], axis: str) -> list[Any]:
    found = trace.get(axis)
    if isinstance(found, dict):  # arrays travel as base64
        found = np.frombuffer(base64.b64decode(found["bdata"]), found["dtype"])
    return [] if found is None else np.asarray(found).tolist()


def _label(text: str, at: float) -> str:
    """SVG of a tick, whose text is HTML for Plotly: lines with <br> between them."""
    lines = text.split("<br>")[:2]
    return "".join(
        f'<tspan x="{at:.1f}" dy="{11 * bool(place)}">{escape(unescape(line))}</tspan>'
        for place, line in enumerate(lines)
    )


def _title(layout: Mapping[str, Any], axis: str) -> str:
    return escape(str(((layout.get(axis) or {}).get("title") or {}).get("text") or ""))


def _mark(mark: Mapping[str, Any], place: int, x: _Axis) -> str:
    """SVG: a step that is marked, with its kind."""
    at, tone = x.place(mark["x0"]), f"var(--{MARKS.get(mark['name'], 'quiet')})"
    return (
        f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" style="stroke:{tone}" '
        f'stroke-dasharray="2 3"/><text x="{at - 4:.1f}" y="{TOP + 10 + 12 * place}" '
        f'text-anchor="end" style="fill:{tone}">{escape(mark["name"])}</text>'
    )


def _trace(trace: Mapping[str, Any], x: _Axis, y: _Axis) -> str:
    """SVG: one trace as line, marks or area."""
    places = [
        None if isinstance(b, float) and not math.isfinite(b) else (x.place(a), y.place(b))
        for a, b in zip(_values(trace, "x"), _values(trace, "y"), strict=True)
    ]
    colour, line = _colour(trace), trace.get("line") or {}
    if trace.get("fill"):
        return f'<path d="{_path(places, "")}Z" style="fill:{colour};fill-opacity:.18"/>'
    mode, drawn = trace.get("mode", "lines"), ""
    faint = f' opacity="{trace["opacity"]}"' if trace.get("opacity", 1) < 1 else ""
    if "lines" in mode:
        width = line.get("width") or (1.75 if trace.get("meta") is not None else 2.25)
        dash = f' stroke-dasharray="{DASHES[line["dash"]]}"' if line.get("dash") in DASHES else ""
        drawn += (
            f'<path d="{_path(places, line.get("shape", ""))}" style="stroke:{colour}" '
            f'stroke-width="{width}"{dash}{faint}/>'
        )
    if "markers" in mode:
        symbol = (trace.get("marker") or {}).get("symbol", "circle")
        sign = SYMBOLS.get(symbol, _dot)
        drawn += f'<g style="--curve:{colour}"{faint}>' + "".join(
            sign(*place) for place in places if place
        )
        drawn += "</g>"
    return drawn


def _path(places: Sequence[tuple[float, float] | None], shape: str) -> str:
    """SVG of a line with gaps, which goes in steps where its shape is hv."""
    parts, pen = [], "M"
    for place in places:
        if place is None:
            pen = "M"
            continue
        if pen == "L" and shape == "hv":
            parts.append(f"H{place[0]:.1f}")
        parts.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
        pen = "L"
    return "".join(parts)


def _dot(x: float, y: float) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'


def _ring(x: float, y: float) -> str:
    return f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def _cross(x: float, y: float) -> str:
    return f'<path class="ring" d="M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6"/>'


SYMBOLS: dict[str, Callable[[float, float], str]] = {"circle-open": _ring, "x-thin-open": _cross}
