"""Several runs beside each other: which ones, their curves, settings, numbers and verdicts."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from src import store
from src.analysis import comparison
from src.analysis.comparison import Comparison, Group
from src.analysis.verdicts import Verdict
from src.format import percent, setting_value
from src.panel import charts, parts
from src.runs import launcher, snapshots
from src.store.tables import Run, Status

PALETTE = 8  # curve colours in panel.css
DASHES = ("solid", "dash", "dot")
GRID_POINTS = 300  # of a band
MOST_UNTESTED = 3  # pairs that are shown though there is nothing to show of them yet
SMOOTHING = {"none": 1, "mean of 5 points": 5, "mean of 20 points": 20, "mean of 100 points": 100}
AXES = {
    "step": ("step", ",.9~r"),
    "tokens": ("tokens, about", ".3~s"),
    "time": ("minutes since the first point", ",.4~g"),
}
FIRST_CURVES = ["val/exact_match", "val/loss", "train/loss"]
FIRST_COLUMNS = ["test/exact_match", "val/exact_match", "val/loss"]


# --- which runs -----------------------------------------------------------------------------------


def choose() -> list[Run]:
    """The runs of the address, in its order; the list above them writes it."""
    with store.reading() as session:
        recent = store.runs(session, limit=parts.MOST_CHOICES)
        found, problems = [], []
        for name in dict.fromkeys(st.query_params.get_all("run")):
            try:
                found.append(store.find(session, name))
            except store.UnknownRun as error:
                problems.append(str(error))
    known = {run.id: run for run in (*recent, *found)}
    chosen = list(dict.fromkeys(run.id for run in found))
    if st.session_state.get("compared") != chosen:
        st.session_state["compared"] = chosen
    st.multiselect(
        "Runs", list(known), chosen, key="compared", placeholder="Choose runs to compare",
        label_visibility="collapsed",
        on_change=lambda: st.query_params.update(run=st.session_state["compared"]),
    )  # fmt: skip
    for problem in problems:
        st.html(f'<p class="problem" role="alert">{escape(problem)}</p>')
    runs = [known[run_id] for run_id in chosen]
    if more := _other_seeds(runs, recent):
        text = f"Add {len(more)} more {'seed' if len(more) == 1 else 'seeds'} of these configs"
        st.html(parts.link("compare", text, {"run": [*chosen, *more]}))
    return runs


def _other_seeds(runs: Iterable[Run], known: Iterable[Run]) -> list[str]:
    """Completed runs of the same configs that are not shown."""
    shown = {run.id for run in runs}
    keys = {comparison.config_key(run) for run in runs}
    return [
        run.id
        for run in known
        if run.status == Status.COMPLETED
        and run.id not in shown
        and comparison.config_key(run) in keys
    ] if keys else []  # fmt: skip


# --- verdicts -------------------------------------------------------------------------------------


def verdict_table(found: Sequence[Verdict]) -> str:
    """HTML: each claim, the lead and its interval on a scale that all share, and the corrected
    p-value; the clearest first, and those that could not be tested folded."""
    found = sorted(found, key=lambda v: 2.0 if v.p_value is None else v.p_value)
    leads = [_lead(v) for v in found]
    ends = [end for lead in leads if lead for end in lead]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    rows = [
        [
            f'<div class="claim">{escape(v.claim)}.</div>',
            _interval(lead, low, high, won=v.winner is not None) if lead else "",
            f"{lead[0] * 100:.1f} points" if lead else "–",
            "–" if v.p_holm is None else "< 0.001" if v.p_holm < 0.001 else f"{v.p_holm:.2g}",
        ]
        for v, lead in zip(found, leads, strict=True)
    ]
    head = {"What may be claimed": "", "Lead, 95% interval": "fit", "Lead": "num",
            "p, corrected": "num"}  # fmt: skip
    shown = max(MOST_UNTESTED, sum(v.p_value is not None for v in found))
    table = parts.table(head, rows[:shown], name="verdicts")
    if len(rows) <= shown:
        return table
    rest = "".join(f"<li>{row[0]}</li>" for row in rows[shown:])
    folded = f"<summary>{len(rows) - shown} more pairs cannot be told apart yet</summary>"
    return f'{table}<details class="untested">{folded}<ul>{rest}</ul></details>'


def _lead(v: Verdict) -> tuple[float, float, float] | None:
    """How far the better one is ahead, and the ends of the interval of that."""
    if v.difference is None or v.ci_low is None or v.ci_high is None:
        return None
    return (v.difference, v.ci_low, v.ci_high) if v.difference >= 0 else (
        -v.difference, -v.ci_high, -v.ci_low
    )  # fmt: skip


def _interval(lead: tuple[float, float, float], low: float, high: float, *, won: bool) -> str:
    def place(value: float) -> float:
        return 4 + 92 * (value - low) / ((high - low) or 1)

    middle, start, end = map(place, lead)
    label = f"{lead[0] * 100:.1f} points, from {lead[1] * 100:.1f} to {lead[2] * 100:.1f}"
    return (
        f'<span class="interval {"won" if won else ""}" role="img" aria-label="{label}" '
        f'title="{label}" style="--zero:{place(0):.1f}%"><i style="left:{start:.1f}%;'
        f'width:{end - start:.1f}%"></i><b style="left:{middle:.1f}%"></b></span>'
    )


def score_table(found: Comparison) -> str:
    """HTML: each config with its colour, its scored seeds and its mean exact match."""
    rows = []
    for number, group in enumerate(found.groups):
        score = found.scores[group.name]
        key = f'<span class="key" style="--key:var(--curve-{number % PALETTE + 1})"></span>'
        waiting = sum(not Status(run.status).ended for run in group.runs)
        spread = "" if score["sd"] is None else f"{score['sd'] * 100:.1f} points"
        rows.append(
            [
                f"{key}{escape(group.name)}",
                ", ".join(
                    [f"{score['seeds']}"] * bool(score["seeds"] or not waiting)
                    + [f"{waiting} under way"] * bool(waiting)
                ),
                percent(score["exact_match"]),
                spread,
                score["split"] if score["seeds"] else "",
            ]
        )
    head = {"Config": "", "Scored seeds": "num", "Exact match": "num", "SD over seeds": "num",
            "Split": "fit"}  # fmt: skip
    return parts.table(head, rows, name="configs")


def draw_missing(found: Comparison) -> None:
    """A button for each pair that more seeds would decide."""
    groups = {group.name: group for group in found.groups}
    open_ = [v for v in found.configs if v.more_seeds]
    with st.container(horizontal=True):
        for v in sorted(open_, key=lambda v: sum(v.more_seeds or ()))[:4]:
            totals = {}
            for name, more in zip((v.a, v.b), v.more_seeds or (), strict=True):
                group = groups[name]
                has = len(group.seeds) + more
                under_way = {r.config["training"]["seed"] for r in group.runs
                             if not Status(r.status).ended}  # fmt: skip
                if len(group.seeds) + len(under_way) < has and group.runs[0].parent_id is None:
                    totals[group.runs[0].id] = (has, has - len(group.seeds) - len(under_way))
            if totals:
                missing = sum(more for _, more in totals.values())
                st.button(
                    f"Launch {missing} {'seed' if missing == 1 else 'seeds'}: "
                    f"{parts.label_text(v.a, 40)} against {parts.label_text(v.b, 40)}",
                    key=f"launch {v.a} {v.b}",
                    on_click=launch_missing,
                    args=({run_id: total for run_id, (total, _) in totals.items()},),
                )


def launch_missing(totals: Mapping[str, int]) -> None:
    """Bring the configs of these runs to so many seeds, and show them all.

    A second press finds the runs of the first, so it launches nothing.
    """
    shown, missing = list(st.query_params.get_all("run")), []
    with store.reading() as session:
        known = store.runs(session)
        for run_id, total in totals.items():
            (group,) = comparison.grouped([store.find(session, run_id)])
            there, new = comparison.up_to(group, known, total)
            shown += there
            missing += new
    shown += launcher.launch_all(missing)
    st.query_params["run"] = list(dict.fromkeys(shown))


# --- curves ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How curves are drawn."""

    axis: str  # step, tokens or time
    window: int  # points of the running mean; 1 is none
    band: bool  # one line and band a config instead of a line a run


def about(metric: str) -> tuple[str, str, str]:
    """Title, unit and d3 format of a metric."""
    for chart in charts.CHARTS:
        if metric in chart.curves:
            only = len(chart.curves) == 1
            title = chart.title if only else f"{chart.title}, {chart.curves[metric]}"
            return title, chart.unit, chart.format
    return metric, metric, ",.3~g"


def read(
    session: store.Session, runs: Iterable[Run], metrics: Collection[str], *, axis: str
) -> dict[str, dict[str, pd.DataFrame]]:
    """{run id: {metric: its frame with a column x}}; without x where the axis is not known."""
    needed = {*metrics, "tokens_per_second"} if axis == "tokens" else set(metrics)
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
    if axis == "time":
        begin = min((frame["at"].min() for frame in frames.values() if len(frame)), default=0.0)
        return lambda frame: (frame["at"] - begin) / 60
    if axis == "tokens":
        rate = tokens_a_step(frames.get("tokens_per_second"))
        return None if rate is None else lambda frame: frame["step"] * rate
    return lambda frame: frame["step"]


def tokens_a_step(speed: pd.DataFrame | None) -> float | None:
    """Tokens that a run reads in one step, from its speed between two reports; None before the
    second one. Each step has as many rows, so the median stands for all."""
    if speed is None or len(speed) < 2:
        return None
    tokens = speed["value"].iloc[1:].to_numpy() * np.diff(speed["at"]) / np.diff(speed["step"])
    return float(np.nanmedian(tokens)) if np.isfinite(tokens).any() else None


def figure(
    metric: str,
    groups: Sequence[Group],
    curves: Mapping[str, Mapping[str, pd.DataFrame]],
    way: Way,
) -> go.Figure:
    """One metric of all runs over each other, a colour for each config."""
    _, unit, form = about(metric)
    traces = []
    for number, group in enumerate(groups):
        runs = [run for run in group.runs if metric in curves[run.id]]
        if not runs:
            continue
        frames = [curves[run.id][metric] for run in runs]
        lines = [_smooth(frame, way.window) for frame in frames]
        last = [frame["value"].dropna().iloc[-1:] for frame in frames]
        mean = charts._last(pd.Series([pd.concat(last).mean()]), form)
        style = {
            "type": "scatter",
            "mode": "lines",
            "legendrank": number % PALETTE + 1,
            "hovertemplate": f"%{{y:{form}}}",
            "line": {"dash": DASHES[number // PALETTE % len(DASHES)], "width": 1.75},
        }
        if way.band and len(lines) > 1:
            traces += _band(style, group.name, lines, mean)
            continue
        for place, (run, line) in enumerate(zip(runs, lines, strict=True)):
            name = f"{group.name}, seed {run.config['training']['seed']}"
            points = charts.thin(line)
            marks = {"mode": "lines+markers"} if len(points) <= charts.FEW_POINTS else {}
            # The legend names each config once.
            called = [group.name, mean] if len(runs) > 1 else mean
            legend = {"meta": called} if place == 0 else {}
            traces.append(style | marks | legend | {"name": name} | _arrays(points))
    axis, ticks = AXES[way.axis]
    smoothing = f", mean of {way.window} points" if way.window > 1 else ""
    return go.Figure(
        traces,
        {
            "template": "none",
            "uirevision": way.axis,
            "xaxis": {"title": {"text": axis}, "tickformat": ticks},
            "yaxis": {
                "title": {"text": unit + smoothing},
                "tickformat": ".0%" if form.endswith("%") else None,
                "exponentformat": "e",
                "minexponent": 5,
                "separatethousands": True,
            },
            "separators": ".,",
        },
    )


def _smooth(frame: pd.DataFrame, window: int) -> pd.DataFrame:
    if window <= 1:
        return frame
    return frame.assign(value=frame["value"].rolling(window, min_periods=1).mean())


def _band(
    style: Mapping[str, Any], name: str, lines: Sequence[pd.DataFrame], last: str
) -> list[dict[str, Any]]:
    """The mean of some curves, and an area from the lowest to the highest where there are two."""
    x = np.unique(np.concatenate([line["x"].to_numpy(float) for line in lines]))
    if len(x) > GRID_POINTS:
        x = x[np.linspace(0, len(x) - 1, GRID_POINTS).astype(int)]
    known = [line.dropna(subset="value") for line in lines]
    y = np.stack(
        [np.interp(x, k["x"], k["value"], left=np.nan, right=np.nan) for k in known if len(k)]
        or [np.full(len(x), np.nan)]
    )
    there = np.isfinite(y).sum(axis=0)
    x, y, there = x[there > 0], y[:, there > 0], there[there > 0]
    middle = {"x": x, "y": np.nanmean(y, axis=0).astype("float32"), "meta": last} if len(x) else {}
    several = there > 1
    edge = x[several]
    low, high = (
        (f(y[:, several], axis=0) for f in (np.nanmin, np.nanmax)) if len(edge) else ((), ())
    )
    area = {
        "x": np.concatenate([edge, edge[::-1]]),
        "y": np.concatenate([high, low[::-1]]).astype("float32"),
        "fill": "toself",
        "hoverinfo": "skip",
        "line": {"width": 0},
    }
    hidden = {k: v for k, v in style.items() if k != "hovertemplate"}
    return [hidden | area, {**style, "name": f"{name}, mean of {len(lines)} seeds", **middle}]


def _arrays(points: pd.DataFrame) -> dict[str, np.ndarray]:
    return {"x": points["x"].to_numpy("float64"), "y": points["value"].to_numpy("float32")}


# --- settings and numbers -------------------------------------------------------------------------


def settings_that_differ(found: Comparison) -> dict[str, dict[str, Any]]:
    """{setting: {run id: value}} without how runs are called, watched and seeded."""
    return {
        name: row for name, row in found.differing.items() if not name.startswith(comparison.ASIDE)
    }


def settings_table(found: Comparison) -> str:
    """HTML: the settings that differ, a column for each config."""
    rows = (
        [
            f"<code>{escape(name)}</code>",
            *(escape(setting_value(row[g.runs[0].id])) for g in found.groups),
        ]
        for name, row in settings_that_differ(found).items()
    )
    return parts.table({"Setting": "fit"} | {g.name: "" for g in found.groups}, rows)


def parallel(
    found: Comparison, latest: Mapping[str, Mapping[str, float | None]], metrics: Sequence[str]
) -> go.Figure | None:
    """Parallel coordinates: an axis for each setting that differs and each metric, a line for each
    run. None where no setting differs."""
    runs = [run for group in found.groups for run in group.runs]
    colour = [i % PALETTE + 1 for i, group in enumerate(found.groups) for _ in group.runs]
    differ = settings_that_differ(found)
    axes = [dimension(n.rpartition(".")[2], [row[r.id] for r in runs]) for n, row in differ.items()]
    for name in metrics:
        values = [latest[run.id].get(name) for run in runs]
        if any(value is not None for value in values):
            axes.append(dimension(name, values))
    if not differ:
        return None
    line = {"type": "parcoords", "line": {"color": colour}, "dimensions": axes}
    return go.Figure(
        [line],
        {
            "template": "none",
            "uirevision": "parallel",
            "height": 340,
            "margin": {"l": 70, "r": 70, "t": 50, "b": 24},
        },
    )


def dimension(label: str, values: Sequence[Any]) -> dict[str, Any]:
    """An axis of numbers, or of the texts that there are."""
    if all(v is None or isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return {"label": label, "values": [np.nan if v is None else v for v in values]}
    texts = sorted({setting_value(v) for v in values})
    return {
        "label": label,
        "values": [texts.index(setting_value(v)) for v in values],
        "tickvals": list(range(len(texts))),
        "ticktext": [escape(text[:24]) for text in texts],
    }


CONDITION = re.compile(r"([\w/.]+)\s*(<=|>=|<|>)\s*(-?[\d.]+(?:e-?\d+)?%?)")


def run_table(
    runs: Sequence[Run], latest: Mapping[str, Mapping[str, float | None]], *,
    columns: Sequence[str], find: str, order: str, ascending: bool,
) -> pd.DataFrame:  # fmt: skip
    """A row a run, indexed by id, with the metrics in `columns`: those that hold all words of
    `find` and fulfil its conditions, such as `val/loss < 0.5`."""
    conditions = CONDITION.findall(find)
    words = CONDITION.sub(" ", find).casefold().split()
    kept = []
    for run in runs:
        text = " ".join([run.name, run.id, *(run.tags or []), run.notes or ""]).casefold()
        numbers = [(latest[run.id].get(name), sign, limit) for name, sign, limit in conditions]
        if all(w in text for w in words) and all(holds(*number) for number in numbers):
            kept.append(run)
    frame = pd.DataFrame(
        {
            "run": [run.name for run in kept],
            "seed": [run.config["training"]["seed"] for run in kept],
            "status": [run.status.lower() for run in kept],
            **{name: [latest[run.id].get(name) for run in kept] for name in columns},
            "tags": [list(run.tags or []) for run in kept],
            "notes": [run.notes or "" for run in kept],
        },
        index=pd.Index([run.id for run in kept], name="id"),
    )
    frame[list(columns)] = frame[list(columns)].astype("float64")
    if order in frame:
        frame = frame.sort_values(order, ascending=ascending, kind="stable", na_position="last")
    return frame


def holds(value: float | None, sign: str, limit: str) -> bool:
    if value is None:
        return False
    try:
        bound = float(limit.rstrip("%")) / (100 if limit.endswith("%") else 1)
    except ValueError:
        return False
    return {"<": value < bound, ">": value > bound, "<=": value <= bound, ">=": value >= bound}[
        sign
    ]


def edit_runs(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """The table, whose tags and notes are written when a cell is left."""
    # Edits are kept by row number: another order is another table.
    key = f"edited {hash(tuple(frame.index))}"
    shape = {
        name: st.column_config.NumberColumn(
            name, format="percent" if charts.is_share(name) else "%.4g"
        )
        for name in columns
    }
    st.data_editor(
        frame,
        key=key,
        hide_index=True,
        disabled=["run", "seed", "status", *columns],
        column_config=shape
        | {
            "run": st.column_config.TextColumn("run", pinned=True),
            "tags": st.column_config.ListColumn("tags ✎", width="medium"),
            "notes": st.column_config.TextColumn("notes ✎", width="large", max_chars=2000),
        },
        on_change=partial(save_edits, key, list(frame.index)),
    )


def save_edits(key: str, ids: Sequence[str]) -> None:
    """Write the tags and notes that were edited in the table of these runs."""
    for row, values in st.session_state[key]["edited_rows"].items():
        run_id = ids[int(row)]
        with store.writing() as session:
            run = store.find(session, run_id)
            tags = values.get("tags", run.tags) or []
            tags = list(dict.fromkeys(str(tag).strip() for tag in tags if str(tag).strip()))
            store.remark(session, run_id, tags=tags, notes=values.get("notes", run.notes))
        snapshots.remember(run_id)
