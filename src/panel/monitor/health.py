"""Charts of the machine's meters while a run trained on it, along the run's own steps."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from src import store
from src.panel.monitor.curves import figure
from src.panel.ui import charts
from src.panel.ui.charts import Chart
from src.panel.ui.points import Points, Reach, Reaches
from src.store.tables import Run

POINTS = 300
GROUP = "The machine meanwhile"
_meter = partial(Chart, group=GROUP)
CHARTS = (
    _meter("Utilization", "share", {"gpu_utilization": "GPU", "cpu_utilization": "CPU"}, ".0%"),
    _meter("GPU memory in use", "GiB", {"gpu_memory_gib": "GPU"}, ".1f"),
    _meter("GPU power", "W", {"gpu_power_watts": "GPU"}, ",.0f"),
    _meter("GPU temperature", "°C", {"gpu_temperature_celsius": "GPU"}, ".0f"),
    _meter("RAM in use", "GiB", {"memory_gib": "RAM"}, ".1f"),
    _meter("Disk free", "GiB", {"disk_free_gib": "disk"}, ",.1f"),
)


def read(session: store.Session, run: Run) -> list[dict[str, float | None]]:
    """The samples of the machine while the run's last attempt trained."""
    return store.samples_of(session, run, points=POINTS)


def figures(
    run: Run,
    curves: charts.Curves,
    samples: Sequence[Mapping[str, float | None]],
    behind: Reaches,
    reach: dict[str, Reach],
) -> dict[str, go.Figure]:
    """A small chart for each meter that was read, by title; none before two samples. Points behind
    those that the browser has, as `curves.figures`."""
    frames = along_steps(samples, curves.frames.get("train/loss"))
    found = {}
    for chart in CHARTS:
        if chart.curves.keys() & frames.keys():
            points = Points(behind.get(chart.title))
            found[chart.title] = figure(chart, frames, run=run, points=points)
            reach[chart.title] = points.reach
    return found


def along_steps(
    samples: Sequence[Mapping[str, float | None]], steps: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """{meter: frame of step and value} of samples from the first step to the last one that is
    known; `steps` tells when each was taken. Meters that were never read are left out."""
    if steps is None or len(steps) < 2:
        return {}
    table = pd.DataFrame(samples, dtype="float64")
    if table.empty:
        return {}
    taken = steps.sort_values("at")
    table = table[table["at"].between(taken["at"].iloc[0], taken["at"].iloc[-1])]
    at = np.interp(table["at"], taken["at"], taken["step"])
    table = table.assign(step=at.astype("int64")).groupby("step").mean().reset_index()
    if len(table) < 2:
        return {}
    meters = [name for name in table.columns if name not in ("step", "at")]
    return {
        name: table[["step", name]].rename(columns={name: "value"})
        for name in meters
        if table[name].notna().any()
    }
