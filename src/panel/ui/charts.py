"""A run's curves: which metrics share a chart, how new points are read, and how they are drawn.

`st.plotly_chart` loses the reader's zoom whenever its figure changes, so the figures go to a small
component that calls `Plotly.react` and keeps it.
"""

import json
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from src import store
from src.models.metrics import METRICS, TOKENS, metric_info
from src.panel.ui.assets import CURVES, PLOTLY_JS
from src.panel.ui.points import Points, Reach, Reaches, mode, plain
from src.store.outcome import EndReason
from src.store.tables import Run, Status
from src.tasks import TASKS

MEAN_POINTS = 200  # of a running mean, and of how a parent went on
MIN_POINTS_FOR_MEAN = 301  # from here on a noisy curve also shows a running mean
PALETTE = 8  # curve colours in panel.css
HELD_OUT = ("val/", "suite/")  # their curves begin at the second colour: the training has the first


@dataclass(frozen=True)
class Chart:
    """Metrics that share one pair of axes."""

    title: str
    unit: str  # title of the y axis
    curves: Mapping[str, str]  # metric name -> what the legend calls it
    format: str = ",.3~g"  # of a value, in d3's and (without ~) Python's notation
    noisy: bool = False  # many points get the mean of the last ones drawn over them


def _by_task(metric: str) -> dict[str, str]:
    """{metric of one task: its name in the legend}, for runs of several tasks."""
    names = {name: name.replace("_", " ") for name in TASKS}
    # Of own data and older runs, whose task is told from the answer.
    names |= {"spell_out": "spelled out", "word": "whole words"}
    return {f"{metric}/{name}": title for name, title in names.items()}


def _of(metric: str, curves: Mapping[str, str], *, noisy: bool = False) -> Chart:
    """A chart with the title, unit and format of a recorded metric, where they are known."""
    info = metric_info(metric)
    if info is None:
        return Chart(metric, metric, curves)
    return Chart(info.title[0].upper() + info.title[1:], info.unit, curves, info.format, noisy)


CHARTS = (
    _of("train/loss", {"train/loss": "train", "val/loss": "validation"}, noisy=True),
    Chart(
        "Accuracy",
        "share of validation",
        {"val/exact_match": "exact match", "val/token_accuracy": "tokens"}
        | _by_task("val/exact_match"),
        METRICS["exact_match"].format,
    ),
    Chart(
        "Corrections",
        "share of validation",
        {"val/mends": "misspelled words mended", "val/leaves_alone": "right words left alone"},
        METRICS["mends"].format,
    ),
    _of("val/cer", {"val/cer": "validation"} | _by_task("val/cer")),
    _of(
        "val/edit_distance",
        {"val/edit_distance": "validation mean"} | _by_task("val/edit_distance"),
    ),
    _of("lr", {"lr": "rate"}),
    _of("grad_norm", {"grad_norm": "norm"}, noisy=True),
    _of("tokens_per_second", {"tokens_per_second": "tokens"}, noisy=True),
    Chart("Memory", "GiB", {"gpu/memory_gib": "GPU", "cpu/memory_gib": "process"}, ".2f"),
)

SCORES = CHARTS[:3]  # and the loss


def is_share(metric: str) -> bool:
    """True if the metric is shown in percent."""
    info = metric_info(metric)
    return info is not None and info.is_share


def charts(names: Iterable[str]) -> list[Chart]:
    """The charts for these metrics; each suite has one, and one that is in none of CHARTS gets a
    chart of its own."""
    # The test set is scored once: a number, no curve. Tokens are an axis of Compare.
    names = [name for name in names if not name.startswith("test/") and name != TOKENS]
    known = {name for chart in CHARTS for name in chart.curves}
    found = [chart for chart in CHARTS if chart.curves.keys() & set(names)]
    suites = dict.fromkeys(suite for name in names if (suite := suite_of(name)))
    # The scores stand together, before what tells of the training itself.
    place = sum(chart in SCORES for chart in found)
    found[place:place] = [_of_suite(suite, names) for suite in suites]
    alone = [name for name in names if name not in known and suite_of(name) is None]
    return found + [_of(name, {name: name}) for name in alone]


def suite_of(metric: str) -> str | None:
    """The suite that a metric is recorded of, or None."""
    if not metric.startswith("suite/"):
        return None
    return metric.removeprefix("suite/").rpartition("/")[0]


def _of_suite(suite: str, names: Collection[str]) -> Chart:
    """The chart of a suite: its share of right answers or, of running text, its bits."""
    prefix = f"suite/{suite}/"
    if f"{prefix}bits_per_character" in names:
        info = METRICS["bits_per_character"]
        curves = {prefix + info.name: info.title}
        return Chart(f"Suite {suite}", info.unit, curves, info.format)
    curves = {f"{prefix}exact_match": "exact match", f"{prefix}token_accuracy": "tokens"}
    curves |= {f"{prefix}mends": "misspelled words mended"}
    curves |= {f"{prefix}leaves_alone": "right words left alone"}
    return Chart(f"Suite {suite}", "share of questions", curves, METRICS["exact_match"].format)


# --- reading --------------------------------------------------------------------------------------


@dataclass
class _Known:
    """Points of one run that this process has already read."""

    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(max_entries=128, show_spinner=False)
def _known(run_id: str, attempt: int, ended: bool) -> _Known:
    # Keyed by attempt and end: a resume rewrites steps of the attempt before it, and the end
    # reports the restored best step again. Both must start from an empty cache.
    return _Known()


@dataclass(frozen=True)
class Curves:
    """A run's metrics by name, as frames of step, value and at."""

    frames: dict[str, pd.DataFrame]  # of a fork: its parent's up to the fork, then its own
    branches: dict[str, pd.DataFrame] = field(default_factory=dict)  # how the parent went on


def read_curves(session: store.Session, run: Run, names: Collection[str] | None = None) -> Curves:
    """A run's curves, or those of some metrics. Reads only points new to this process."""
    own = _own_curves(session, run, names)
    parent = session.get(Run, run.parent_id) if run.parent_id else None
    if parent is None:
        return Curves(own)
    at = run.parent_step or 0
    before = read_curves(session, parent, names).frames
    frames = {
        name: _joined(frame[frame["step"] <= at], own.get(name)) for name, frame in before.items()
    }
    rest = {name: frame[frame["step"] >= at] for name, frame in before.items()}
    return Curves(own | frames, {name: frame for name, frame in rest.items() if len(frame) > 1})


def _joined(before: pd.DataFrame, own: pd.DataFrame | None) -> pd.DataFrame:
    """The parent's points, then the fork's, which scores its first checkpoint again."""
    if own is None:
        return before
    return pd.concat([before[~before["step"].isin(own["step"])], own], ignore_index=True)


def _own_curves(
    session: store.Session, run: Run, names: Collection[str] | None
) -> dict[str, pd.DataFrame]:
    known = _known(run.id, run.attempt, Status(run.status).ended)
    with known.lock:
        wanted = [n for n in store.metric_names(session, run.id) if names is None or n in names]
        for name in wanted:
            have = known.frames.get(name)
            after = -1 if have is None or have.empty else int(have["step"].iloc[-1])
            new = store.curve(session, run.id, name, after_step=after)
            known.frames[name] = new if have is None else pd.concat([have, new], ignore_index=True)
        return {name: known.frames[name] for name in wanted}


# --- drawing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """A step that is marked in every chart by a vertical line with a label."""

    kind: str  # best, stop or fork: decides the colour
    step: int
    text: str


def marks(run: Run) -> list[Mark]:
    """The steps at which a run forked from its parent, ended early and was best."""
    found = []
    if run.parent_id and run.parent_step is not None:
        found.append(Mark("fork", run.parent_step, "fork"))
    early = run.end_reason in (EndReason.STOPPED, EndReason.EARLY_STOPPED)
    if (early or run.stop_reason) and run.step:
        words = (
            "pruned" if run.stop_reason else "stopped" if run.status == Status.STOPPED
            else "early stop"
        )  # fmt: skip
        found.append(Mark("stop", run.step, words))
    if run.best_step:
        found.append(Mark("best", run.best_step, "best"))
    return found


def figure(
    chart: Chart, frames: Mapping[str, pd.DataFrame], *, revision: str,
    branches: Mapping[str, pd.DataFrame] | None = None, marks: Iterable[Mark] = (),
    points: Points | None = None,
) -> go.Figure:  # fmt: skip
    """A chart of these frames, with `branches` dotted, and of its curves the chosen points. The
    reader's zoom stays while `revision` does."""
    drawn, points = go.Figure(), points or Points()
    shown = {name: label for name, label in chart.curves.items() if name in frames}
    first = 1 if next(iter(shown), "").startswith(HELD_OUT) else 0
    for number, (name, label) in enumerate(shown.items(), start=first):
        frame = frames[name]
        many = chart.noisy and len(frame) >= MIN_POINTS_FOR_MEAN
        colour = number % PALETTE + 1
        curve = {"mode": "lines", "hovertemplate": f"%{{y:{chart.format}}}", "legendrank": colour}
        drawn.add_scatter(
            **curve | {"mode": mode(len(frame))},
            **points.line(frame["step"].to_numpy("int32"), frame["value"]),
            name=label,
            meta=last_value(frame["value"], chart.format),
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
        if branches and name in branches:
            rest = branches[name]
            drawn.add_scatter(
                **curve,
                **points.line(rest["step"].to_numpy("int32"), rest["value"], limit=MEAN_POINTS),
                name=f"{label}, not forked",
                line_dash="dot",
                opacity=0.7,
            )
    _mark(drawn, marks)
    drawn.update_layout(
        template="none",
        uirevision=revision,
        xaxis_title_text="step",
        yaxis_title_text=chart.unit,
        yaxis_tickformat=".0%" if chart.format.endswith("%") else None,
        # Else the axis of a score that is 0 throughout would reach to -100%.
        yaxis_rangemode="tozero" if chart.format.endswith("%") else "normal",
        yaxis_exponentformat="e",
        yaxis_minexponent=5,
        separators=".,",
        yaxis_separatethousands=True,
    )
    return drawn


def _mark(drawn: go.Figure, marks: Iterable[Mark]) -> None:
    """Add marks to a chart; the page gives them the theme's colours."""
    for height, mark in enumerate(marks):
        drawn.add_shape(
            type="line", x0=mark.step, x1=mark.step, y0=0, y1=1, yref="paper", name=mark.kind,
            line_dash="dot", line_width=1.5,
        )  # fmt: skip
        drawn.add_annotation(
            x=mark.step, y=1 - 0.1 * height, yref="paper", text=mark.text, name=mark.kind,
            showarrow=False, xanchor="right", yanchor="top", font_size=11,
        )  # fmt: skip


def last_value(values: pd.Series, form: str) -> str:
    """The last value that is not nan, formatted for the legend."""
    known = values.dropna()
    return "none yet" if known.empty else format(float(known.iloc[-1]), form.replace("~", ""))


def draw(figures: Mapping[str, go.Figure], *, key: str) -> None:
    """Draw a grid of charts by title, whose legends show the last values. Keeps zoom and pan."""
    _grid(key=key, data=_sent(figures))


# Gives figures by title, from what the browser has of each, and notes what it has then.
Make = Callable[[Reaches, dict[str, Reach]], dict[str, go.Figure]]


def draw_live(make: Make, source: Mapping[str, Any], *, state: str, key: str) -> None:
    """Draw a grid of charts of `make`, for whose news the browser asks the server by `source`.
    While `state` is the same, the page sends the same charts again."""
    if st.session_state.get(name := f"live curves {key}", {}).get("state") != state:
        reach: dict[str, Reach] = {}
        figures = make({}, reach)
        more = {"reach": reach, "shape": shape(figures), "source": source, "address": CURVES}
        st.session_state[name] = {"state": state, **_sent(figures), "live": more}
    _grid(key=key, data=st.session_state[name])


def shape(figures: Mapping[str, go.Figure]) -> str:
    """Equal for figures whose charts and curves have the same names."""
    names = [[title, [trace.name for trace in drawn.data]] for title, drawn in figures.items()]
    return sha256(json.dumps(names).encode()).hexdigest()[:16]


def news(figures: Mapping[str, go.Figure]) -> dict[str, Any]:
    """Points, legends and marks that a browser adds to its charts, by title."""
    return {
        title: {
            "curves": [
                {"x": plain(t.x, 12), "y": plain(t.y), "meta": t.meta, "mode": t.mode}
                for t in drawn.data
            ],
            "shapes": [one.to_plotly_json() for one in drawn.layout.shapes],
            "annotations": [one.to_plotly_json() for one in drawn.layout.annotations],
        }
        for title, drawn in figures.items()
    }


def _sent(figures: Mapping[str, go.Figure]) -> dict[str, Any]:
    texts = {title: shown.to_json() for title, shown in figures.items()}
    return {"plotly": PLOTLY_JS, "figures": texts}


_grid = st.components.v2.component(
    "spelltune.charts",
    html='<div class="charts"></div>',
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,
)
