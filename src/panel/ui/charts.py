"""A run's curves: which metrics share a chart, how new points are read, and how they are drawn.

`st.plotly_chart` loses the reader's zoom whenever its figure changes, so the figures go to a small
component that calls `Plotly.react` and keeps it.
"""

import json
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from src import store
from src.format import capital
from src.models.metrics import METRICS, SUITE, TOKENS, metric_info, suite_of
from src.panel.ui.assets import CURVES, PLOTLY_JS
from src.panel.ui.points import Reach, Reaches, plain
from src.store.tables import Run, Status
from src.tasks import TASKS

PALETTE = 8  # curve colours in panel.css


@dataclass(frozen=True)
class Chart:
    """Metrics that share one pair of axes."""

    title: str
    unit: str  # title of the y axis
    curves: Mapping[str, str]  # metric name -> what the legend calls it
    format: str = ",.3~g"  # of a value, in d3's and (without ~) Python's notation
    noisy: bool = False  # many points get the mean of the last ones drawn over them
    from_zero: bool = True  # a difference says little beside the value itself
    falls: bool = False  # its first values may be out of all proportion to the others
    group: str = ""  # heading above the small charts that it stands among; empty: a large one


def _by_task(metric: str) -> dict[str, str]:
    """{metric of one task: its name in the legend}, for runs of several tasks."""
    names = {name: name.replace("_", " ") for name in TASKS}
    # Of own data and older runs, whose task is told from the answer.
    names |= {"spell_out": "spelled out", "word": "whole words"}
    return {f"{metric}/{name}": title for name, title in names.items()}


def _of(metric: str, curves: Mapping[str, str], **more: Any) -> Chart:
    """A chart with the title, unit and format of a recorded metric, where they are known."""
    info = metric_info(metric)
    if info is None:
        return Chart(metric, "", curves, from_zero=False, **more)
    return Chart(capital(info.title), info.unit, curves, info.format, **more)


SCORES, HEALTH = "Other scores", "Diagnostics"
CHARTS = (
    Chart(
        "Accuracy",
        "share of validation",
        {"val/exact_match": "accuracy"} | _by_task("val/exact_match"),
        METRICS["exact_match"].format,
    ),
    _of(
        "train/loss",
        {"train/loss": "train", "val/loss": "validation"},
        noisy=True,
        from_zero=False,
        falls=True,
    ),
    _of("val/token_accuracy", {"val/token_accuracy": "validation"}, group=SCORES),
    Chart(
        "Corrections",
        "share of validation",
        {"val/mends": "mended", "val/leaves_alone": "kept"},
        METRICS["mends"].format,
        group=SCORES,
    ),
    _of("val/cer", {"val/cer": "validation"} | _by_task("val/cer"), falls=True, group=SCORES),
    _of(
        "val/edit_distance",
        {"val/edit_distance": "validation mean"} | _by_task("val/edit_distance"),
        falls=True,
        group=SCORES,
    ),
    _of("lr", {"lr": "rate"}, group=HEALTH),
    _of("grad_norm", {"grad_norm": "norm"}, noisy=True, falls=True, group=HEALTH),
    _of("tokens_per_second", {"tokens_per_second": "tokens"}, noisy=True, group=HEALTH),
    Chart(
        "Memory",
        "GiB",
        {"gpu/memory_gib": "GPU", "cpu/memory_gib": "process"},
        ".2f",
        group=HEALTH,
    ),
)


def charts(names: Iterable[str]) -> list[Chart]:
    """The charts for these metrics; each suite has one, and one that is in none of CHARTS gets a
    chart of its own."""
    # The test set is scored once: a number, no curve. Tokens are an axis of Compare.
    names = [name for name in names if not name.startswith("test/") and name != TOKENS]
    known = {name for chart in CHARTS for name in chart.curves}
    found = [chart for chart in CHARTS if chart.curves.keys() & set(names)]
    suites = dict.fromkeys(suite for name in names if (suite := suite_of(name)))
    # The scores stand together, before what tells of the training itself.
    place = sum(chart.group != HEALTH for chart in found)
    found[place:place] = [_of_suite(suite, names) for suite in suites]
    alone = [name for name in names if name not in known and suite_of(name) is None]
    return found + [_of(name, {name: name}, group=HEALTH) for name in alone]


def _of_suite(suite: str, names: Collection[str]) -> Chart:
    """The chart of a suite: its share of right answers or, of running text, its bits."""
    prefix = f"{SUITE}{suite}/"
    if f"{prefix}bits_per_character" in names:
        info = METRICS["bits_per_character"]
        curves = {prefix + info.name: info.title}
        return Chart(f"Suite {suite}", info.unit, curves, info.format, group=SCORES)
    curves = {f"{prefix}exact_match": "accuracy", f"{prefix}token_accuracy": "tokens"}
    curves |= {f"{prefix}mends": "mended"}
    curves |= {f"{prefix}leaves_alone": "kept"}
    form = METRICS["exact_match"].format
    return Chart(f"Suite {suite}", "share of questions", curves, form, group=SCORES)


# --- reading --------------------------------------------------------------------------------------


@dataclass
class _Known:
    """Points of one run that this process has already read."""

    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(max_entries=128, show_spinner=False)
def _known(run_id: str, created_at: float, attempt: int, ended: bool) -> _Known:
    # Keyed by attempt and end: a resume rewrites steps of the attempt before it, and the end
    # reports the restored best step again. Both must start from an empty cache, as must a run that
    # has the id of a deleted one.
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
    known = _known(run.id, run.created_at, run.attempt, Status(run.status).ended)
    with known.lock:
        wanted = [n for n in store.metric_names(session, run.id) if names is None or n in names]
        for name in wanted:
            have = known.frames.get(name)
            after = -1 if have is None or have.empty else int(have["step"].iloc[-1])
            new = store.curve(session, run.id, name, after_step=after)
            known.frames[name] = new if have is None else pd.concat([have, new], ignore_index=True)
        return {name: known.frames[name] for name in wanted}


# --- drawing --------------------------------------------------------------------------------------


def last_value(values: pd.Series, form: str) -> str:
    """The last value that is not nan, formatted for the legend."""
    known = values.dropna()
    return "none yet" if known.empty else format(float(known.iloc[-1]), form.replace("~", ""))


# The names of what several charts compare: name, config (the `legendgroup` of its traces), colour
# from 1 to PALETTE, dash.
Legend = Sequence[Mapping[str, Any]]


def draw(figures: Mapping[str, go.Figure], *, key: str, legend: Legend = ()) -> None:
    """Draw a grid of charts by title, whose legends show the last values, below a legend of all.
    Keeps zoom and pan."""
    _grid(key=key, data={**_sent(figures), "legend": list(legend)})


# Gives figures by title, from what the browser has of each, and notes what it has then.
Make = Callable[[Reaches, dict[str, Reach]], dict[str, go.Figure]]


@dataclass(frozen=True)
class Live:
    """Charts for whose news the browser asks the server, and HTML of what goes on with them: the
    element whose `data-live` is its name."""

    state: str
    data: Mapping[str, Any]
    parts: Mapping[str, str]

    def draw(self, *, key: str, legend: Legend = ()) -> None:
        """Draw the grid of charts, below a legend of all."""
        _grid(key=key, data={**self.data, "legend": list(legend)})

    def part(self, name: str) -> str:
        """HTML of a part that the browser keeps up to date."""
        return f'<div data-live="{name}">{self.parts[name]}</div>'


def live(
    make: Make,
    source: Mapping[str, Any],
    *,
    state: str,
    key: str,
    parts: Callable[[], Mapping[str, str]] = dict,
) -> Live:
    """Charts of `make` that go on, with their `parts`. While `state` is the same, those of the
    first time: the browser has what came since, asked for by `source`."""
    if known := standing(state, key=key):
        return known
    reach: dict[str, Reach] = {}
    figures = make({}, reach)
    more = {"reach": reach, "shape": shape(figures), "source": source, "address": CURVES}
    new = Live(state, {**_sent(figures), "live": more}, parts())
    st.session_state[f"live {key}"] = new
    return new


def standing(state: str, *, key: str) -> Live | None:
    """The charts that `live` has begun and that go on in the browser, if they are of that state."""
    known: Live | None = st.session_state.get(f"live {key}")
    return known if known is not None and known.state == state else None


def forget(key: str) -> None:
    """Have `live` begin anew: the page is drawn as a whole."""
    st.session_state.pop(f"live {key}", None)


def shape(figures: Mapping[str, go.Figure]) -> str:
    """Equal for figures whose charts and curves have the same names and kinds of line."""
    names = [
        [title, [[trace.name, trace.line.dash] for trace in drawn.data]]
        for title, drawn in figures.items()
    ]
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
            "ends": drawn.layout.yaxis.autorangeoptions.to_plotly_json(),
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
