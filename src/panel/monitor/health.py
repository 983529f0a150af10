"""Charts of the machine's meters while a run trained on it, along the run's own steps."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from src import store
from src.panel.monitor.curves import figure
from src.panel.ui import charts
from src.panel.ui.charts import Chart
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


def draw(run: Run, samples: Sequence[Mapping[str, float | None]], curves: charts.Curves) -> None:
    """Draw a small chart for each meter that was read; nothing before two samples."""
    frames = along_steps(samples, curves.frames.get("train/loss"))
    figures = {}
    for chart in CHARTS:
        if chart.curves.keys() & frames.keys():
            figures[chart.title] = figure(chart, frames, run=run)
    if figures:
        with st.container(key="health", gap="xxsmall"):
            charts.draw(figures, key="health charts")


def along_steps(
    samples: Sequence[Mapping[str, float | None]], steps: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """{meter: frame of step and value} of samples from the first step on; `steps` tells when each
    step was taken. Meters that were never read are left out."""
    if steps is None or len(steps) < 2:
        return {}
    table = pd.DataFrame(samples, dtype="float64")
    if table.empty:
        return {}
    taken = steps.sort_values("at")
    table = table[table["at"] >= taken["at"].iloc[0]]
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
