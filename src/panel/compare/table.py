"""Several runs in tables: the settings that differ, their metrics, and their tags and notes."""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from src import setting_labels
from src.analysis.comparison import Comparison
from src.config import distinguishes
from src.format import capital, number, setting_value
from src.models.metrics import is_share, metric_info, metric_label, short_label, value_text
from src.panel.compare import colours, curves
from src.panel.ui import find_box, guarded, html, navigation, parallel, tags
from src.panel.ui.charts import PALETTE
from src.store.tables import Run
from src.text import caseless

MAX_STICKY = 7  # columns that fit a window of 1,000 pixels: then the head stays in view
NONE_DIFFERS = "These runs differ in nothing but their seeds."
FIRST_COLUMNS = ["test/exact_match", "val/exact_match", "val/loss"]


def settings_that_differ(found: Comparison) -> dict[str, dict[str, Any]]:
    """{setting: {run id: value}}, except settings that cannot change a score, and seeds."""
    return {name: row for name, row in found.differing.items() if distinguishes(name)}


def settings_table(found: Comparison) -> str:
    """HTML: the settings that differ, a row for each, with a column for each config; of more than
    four configs a row for each of these. A sentence if none differs."""
    differ = settings_that_differ(found)
    if not differ:
        return f'<p class="quiet">{NONE_DIFFERS}</p>'
    runs = {group.name: group.runs[0].id for group in found.groups}
    configs = {
        group.name: f"{colours.swatch(place)}{escape(group.name)}"
        for place, group in enumerate(found.groups)
    }
    names = {
        name: f"{escape(setting_labels.label(name))}<small><code>{escape(name)}</code></small>"
        for name in differ
    }
    shown = {name: _told(differ[name], runs) for name in differ}
    if len(runs) <= curves.FEW:
        head = [("Setting", "", "Setting"), *((c, "fit", told) for c, told in configs.items())]
        return html.table(head, [[names[name], *shown[name].values()] for name in differ])
    head = [("Config", "", "Config")]
    for name, row in differ.items():
        is_number = all(map(parallel.is_number, row.values()))
        head.append((setting_labels.label(name), "num" if is_number else "fit", names[name]))
    rows = [[told, *(shown[name][c] for name in differ)] for c, told in configs.items()]
    return html.table(head, rows)


def _told(row: Mapping[str, Any], runs: Mapping[str, str]) -> dict[str, str]:
    """{config: HTML of its value of a setting}."""
    return {config: escape(setting_value(row[run_id], ".6g")) for config, run_id in runs.items()}


def parallel_figure(
    found: Comparison, latest: Mapping[str, Mapping[str, float | None]], metrics: Sequence[str]
) -> go.Figure | None:
    """Parallel coordinates: an axis per differing setting and metric, a line per run.

    None if no setting differs.
    """
    runs = [run for group in found.groups for run in group.runs]
    colour = [i % PALETTE + 1 for i, group in enumerate(found.groups) for _ in group.runs]
    differ = settings_that_differ(found)
    axes = [
        parallel.setting_axis(setting_labels.inline(n), [row[r.id] for r in runs])
        for n, row in differ.items()
    ]
    for name in metrics:
        values = [latest[run.id].get(name) for run in runs]
        if any(value is not None for value in values):
            axes.append(parallel.axis(short_label(name), values, is_share=is_share(name)))
    if not differ:
        return None
    return parallel.figure(axes, colour)


def run_table(
    runs: Sequence[Run], latest: Mapping[str, Mapping[str, float | None]], *,
    columns: Sequence[str], find: str, order: str, ascending: bool,
) -> pd.DataFrame:  # fmt: skip
    """A row per run that matches `find` (see ui/find_box.py), indexed by id, with the metrics in
    `columns`."""
    words, conditions = find_box.parse(find)
    kept = []
    for run in runs:
        text = caseless(" ".join([run.label, run.id, *(run.tags or []), run.notes or ""]))
        within = all(c.holds(latest[run.id].get(c.column)) for c in conditions)
        if within and all(word in text for word in words):
            kept.append(run)
    frame = pd.DataFrame(
        {
            "run": [run.label for run in kept],
            "seed": [run.config["training"]["seed"] for run in kept],
            "status": [run.status.lower() for run in kept],
            **{name: [latest[run.id].get(name) for run in kept] for name in columns},
            "tags": [tags.joined(run.tags) for run in kept],
            "notes": [run.notes or "" for run in kept],
        },
        index=pd.Index([run.id for run in kept], name="id"),
    )
    frame[list(columns)] = frame[list(columns)].astype("float64")
    if order in frame:
        frame = frame.sort_values(order, ascending=ascending, kind="stable", na_position="last")
    return frame


def runs_html(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    """HTML of the table, a row for each run, which leads to it."""
    told = [name for name in ("tags", "notes") if (frame[name] != "").any()]
    head = {"Run": "", "Seed": "num", "Status": "fit"}
    head |= {_title(name): "num" for name in columns} | {name.capitalize(): "" for name in told}
    rows = [
        [
            navigation.link("monitor", row["run"], {"run": run_id}),
            str(row["seed"]),
            f'<span class="badge {row["status"]}">{row["status"]}</span>',
            *(_value(name, row[name]) for name in columns),
            *(escape(row[name]) for name in told),
        ]
        for run_id, row in zip(frame.index, frame.to_dict("records"), strict=True)
    ]
    return html.table(head, rows, name="opens few" if len(head) <= MAX_STICKY else "opens")


def _title(metric: str) -> str:
    label = metric_label(metric)
    return capital(label)


def _value(name: str, value: float) -> str:
    info = metric_info(name)
    # Losses stand below each other with the same number of digits.
    is_loss = info is not None and info.title == "loss"
    return number(value, ",.3f") if is_loss else value_text(name, value)


def edit_runs(frame: pd.DataFrame) -> None:
    """Draw the tags and notes of these runs to be edited; they are stored as a cell is left."""
    # Streamlit keeps edits by row number, so rows in another order need another widget.
    key = f"edited {hash(tuple(frame.index))}"
    guarded.data_editor(
        frame[["run", "seed", "tags", "notes"]],
        key=key,
        hide_index=True,
        disabled=["run", "seed"],
        column_config={
            "run": st.column_config.TextColumn("run", width=110),
            "seed": st.column_config.NumberColumn("seed", width=50),
            "tags": tags.COLUMN,
            "notes": st.column_config.TextColumn("notes ✎", max_chars=2000),
        },
        on_change=partial(tags.save_edits, key, list(frame.index)),
    )
