"""The best settings of a sweep and what to do with them; where several tie, what would tell."""

from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from src import store
from src.config import (
    DEFAULT_PRESET,
    flattened,
    parse_yaml,
    with_absolute_paths,
    with_overrides,
)  # fmt: skip
from src.format import settings_text
from src.models.metrics import metric_label
from src.panel.launch import form as run_form
from src.panel.sweeps import common, form, view
from src.panel.sweeps.space import flow
from src.panel.ui import navigation
from src.sweeps import control, results
from src.sweeps.file import base_config
from src.sweeps.results import SweepResults

MORE = 2  # times the steps, for a launch of the best or of a sweep that found nothing


def draw(found: SweepResults) -> None:
    """Draw the best settings, and how far the runs are that confirm them."""
    if found.settings.empty:
        return
    if (tied := results.tied(found.settings)) > 1:
        _draw_tie(found, tied)
    else:
        _draw_best(found)
    if found.confirming:
        runs = [run.id for run in found.confirming]
        link = navigation.link("compare", "compare them", {"run": runs})
        st.html(f'<p class="quiet">{view.confirmed(found)}; {link}.</p>')


def _draw_best(found: SweepResults) -> None:
    """Draw the best settings, with links to their run and to launches of them."""
    values, row = results.top(found, 1)[0], found.settings.iloc[0]
    steps = MORE * base_config(found.sweep).training.max_steps
    run = navigation.link("monitor", f"trial {row['trial']}", {"run": row["run"]})
    st.html(f'<p class="claim">{view.best_claim(found)} ({run}).</p>')
    # One that goes on may find a better one.
    first = "" if found.row.status in control.OPEN else "button"
    launches = [("Launch these settings", launch_query(found, values))]
    if "training.max_steps" not in values:
        more = launch_query(found, {"training.max_steps": steps} | values)
        launches.insert(0, (f"Launch with {steps:,} steps", more))
    links = [
        navigation.link("launch", told, query, style="" if place else first)
        for place, (told, query) in enumerate(launches)
    ]
    st.html(f'<p class="next">{"".join(links)}</p>')


def _draw_tie(found: SweepResults, tied: int) -> None:
    """Draw that several settings are the best, which of them the loss prefers, and what to do."""
    told = view.tie_claim(found, tied)
    if ahead := _by_loss(found):
        told += f" By {escape(metric_label(view.BY_LOSS))}, {escape(ahead)} is ahead."
    st.html(f'<p class="claim">{told}</p>')
    file = form.name_of(Path(found.row.path))
    if found.row.status in control.OPEN or file is None:
        return
    links = []
    if view.is_nothing_right(found) and "training.max_steps" not in found.sweep.space:
        steps = MORE * base_config(found.sweep).training.max_steps
        given = form.section(parse_yaml(found.row.file, found.row.path, unique=False), "base")
        shared = flattened(form.section(given, "overrides")) | {"training.max_steps": steps}
        query = {"file": file, common.NAME: flow(shared)}
        links.append(
            navigation.link("sweeps", f"Sweep with {steps:,} steps", query, style="button")
        )
    if found.sweep.metric != view.BY_LOSS:
        query = {"file": file, "metric": view.BY_LOSS}
        links.append(navigation.link("sweeps", "Sweep by validation loss", query))
    if links:
        st.html(f'<p class="next">{"".join(links)}</p>')


def _by_loss(found: SweepResults) -> str | None:
    """The settings with the lowest mean validation loss of those that tie; None where the loss is
    what they tie in, or has no lowest either."""
    if found.sweep.metric == view.BY_LOSS:
        return None
    with store.reading() as session:
        losses = store.trial_metrics(session, found.row.id, {view.BY_LOSS})
    known = found.trials.assign(
        loss=[losses.get(i, {}).get(view.BY_LOSS) for i in found.trials["run"]]
    )
    best = found.settings.index[: results.tied(found.settings)]
    means = known[known["setting"].isin(best)].groupby("setting")["loss"].mean().dropna()
    if len(means) < len(best) or (means == means.min()).sum() > 1:
        return None
    return settings_text(found.values[int(means.idxmin())])


def launch_query(found: SweepResults, values: dict[str, Any]) -> dict[str, str]:
    """The address of the Launch page with these settings of the sweep."""
    own = {"name": f"{found.row.name} best"}
    config = with_overrides(base_config(found.sweep).model_dump(), values | own)
    config = with_absolute_paths(config, Path(found.row.folder))
    return run_form.query(config, found.sweep.base.preset or DEFAULT_PRESET)
