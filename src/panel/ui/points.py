"""Chooses the points of a chart's curves that the browser gets: few that look like all of them, or
those behind what it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

MAX_POINTS = 600  # of one curve: a chart is half as many pixels wide
MAX_POINTS_WITH_MARKS = 60

Reach = Sequence[float | None]  # of each curve of a chart, up to where its points are known
Reaches = Mapping[str, Reach]  # by the chart's title


@dataclass
class Points:
    """Chooses the points of one chart, curve by curve in the order in which they are drawn."""

    behind: Reach | None = None  # what the browser has; None: nothing
    reach: list[float | None] = field(default_factory=list)  # what it has then

    def line(
        self, x: Any, y: Any, *, limit: int = MAX_POINTS, final: float | None = None
    ) -> dict[str, np.ndarray]:
        """x and y of a curve; later points may still change those behind `final`, if given."""
        x, y = np.asarray(x), np.asarray(y, "float32")
        new = self._new(x, final)
        x, y = x[new], y[new]
        chosen = thin(y, limit)
        return {"x": x[chosen], "y": y[chosen]}

    def area(
        self, x: np.ndarray, low: np.ndarray, high: np.ndarray, *, final: float | None
    ) -> dict[str, np.ndarray]:
        """x and y of the outline of an area: there above it, and back below it."""
        new = self._new(x, final)
        x, low, high = x[new], low[new], high[new]
        y = np.concatenate([high, low[::-1]]).astype("float32")
        return {"x": np.concatenate([x, x[::-1]]), "y": y}

    def _new(self, x: np.ndarray, final: float | None) -> Any:
        """Which of these places the browser has not got."""
        place, last = len(self.reach), float(x[-1]) if len(x) else None
        self.reach.append(last if final is None or last is None else min(final, last))
        known = self.behind[place] if self.behind and place < len(self.behind) else None
        return slice(None) if known is None else x > known


def mode(count: int, most: int = MAX_POINTS_WITH_MARKS) -> str:
    """Plotly's mode of a curve with so many points: a few, at `most`, have marks."""
    return "lines+markers" if count <= most else "lines"


def thin(values: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Places of at most `limit` values that look the same when drawn: extremes and gaps of nan
    stay.

    By MinMaxLTTB (Van Der Donckt et al. 2023).
    """
    if len(values) <= limit:
        return np.arange(len(values))
    missing = np.isnan(values)
    gaps = np.flatnonzero(missing & ~np.roll(missing, 1))[: limit // 4]
    drawn = np.flatnonzero(~missing)
    room = limit - len(gaps)
    if len(drawn) > room:
        drawn = drawn[MinMaxLTTBDownsampler().downsample(values[drawn], n_out=room)]
    return np.union1d(drawn, gaps)


def plain(values: Any, digits: int = 6) -> list[float | None]:
    """Numbers for JSON, rounded; None for nan."""
    return [None if v != v else float(f"{v:.{digits}g}") for v in np.asarray(values, float)]
