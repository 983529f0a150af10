"""A sweep as a page shows it: what its trials became, how they score, and the form that launches
one."""

from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from src.config import ConfigError
from src.panel import compare, parts
from src.paths import CONFIGS
from src.runs import store
from src.runs.table import Sweep, SweepStatus
from src.sweeps import ledger, results
from src.sweeps.results import Found
from src.training.data_loaders import DataError
from src.units import duration

FOLDER = CONFIGS / "sweeps"
FEWEST_LINES = 10  # of the parallel coordinates stand out, or a tenth
MEANING = {
    SweepStatus.ACTIVE: "queues trials",
    SweepStatus.PAUSED: "starts no further trial",
    SweepStatus.CANCELLED: "was ended by a person",
    SweepStatus.COMPLETED: "has ended",
}
# How trials that end early are drawn; they are found by their words in the table.
SYMBOLS = {"completed": "circle", "early stopped": "circle-open", "pruned": "x-thin-open"}
SHORT = {
    "training.per_device_train_batch_size": "batch size",
    "training.gradient_accumulation_steps": "accumulation",
}
METHOD = (
    "by PED-ANOVA (Watanabe et al. 2023), from how the best tenth of the settings differ from the "
    "others. Exploratory: it shows where to look next and proves nothing"
)


def badge(row: Sweep) -> str:
    meaning = MEANING[SweepStatus(row.status)]
    return f'<span class="badge {row.status.lower()}" title="{meaning}">{row.status.lower()}</span>'


# --- the list -------------------------------------------------------------------------------------


def list_table(rows: list[Sweep]) -> str:
    """HTML: each sweep with what became of its trials."""
    head = {"Sweep": "", "Status": "fit", "Trials": "", "Took": "num", "Launched": "fit"}
    with store.reading() as session:
        counts = store.trial_counts(session)
    body = []
    for row in rows:
        found = counts.get(row.id, {})
        told = ", ".join(f"{n:,} {status.lower()}" for status, n in found.items()) or "none yet"
        body.append(
            [
                parts.link("sweeps", row.name, {"sweep": row.id})
                + f"<small>{escape(row.reason or row.id)}</small>",
                badge(row),
                escape(told),
                duration(row.spent_seconds),
                parts.local_time(row.created_at),
            ]
        )
    return parts.table(head, body)


# --- launch ---------------------------------------------------------------------------------------


def form() -> None:
    """Launch a sweep from a file: what it comes to, and the button."""
    files = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"), reverse=True)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Sweep file", list(files), key="file", bind="query-params", width=260,
            help=f"The files in `{FOLDER.relative_to(FOLDER.parents[1])}`.",
        )  # fmt: skip
        budget = st.text_input(
            "Budget", placeholder="that of the file", key="budget", bind="query-params", width=200,
            help="`40 trials` or `45 minutes`.",
        )  # fmt: skip
        if not chosen:
            return
        file = files[chosen]
        try:
            text, _, plan = ledger.prepare(file, budget=budget.strip() or None)
        except ConfigError as error:
            st.button("Launch the sweep", type="primary", disabled=True)
            problem(str(error))
            return
        pressed = st.button("Launch the sweep", type="primary")
    st.html(f'<p class="quiet">{escape(". ".join(_sentence(line) for line in plan.lines()))}.</p>')
    with st.expander(f"{file.name}", expanded=False):
        st.code(text, language="yaml")
    if pressed:
        launch(file, budget.strip() or None)


def launch(file: Path, budget: str | None) -> None:
    """Launch and show the sweep, or say why not."""
    try:
        with st.spinner("Reading the data first"):
            sweep_id = ledger.launch(file, budget=budget)
    except (ConfigError, DataError) as error:
        problem(str(error))
        return
    parts.go("sweeps", {"sweep": sweep_id})


def problem(text: str) -> None:
    st.html(f'<p class="problem" role="alert">{escape(text)}</p>')


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- one sweep ------------------------------------------------------------------------------------


def draw_buttons(found: Found) -> None:
    """What can be done to the sweep now."""
    row, status = found.row, SweepStatus(found.row.status)
    steps = {
        SweepStatus.ACTIVE: ["pause", "cancel"],
        SweepStatus.PAUSED: ["resume", "cancel"],
    }.get(status, [])
    with st.container(horizontal=True):
        for what in steps:
            st.button(what.capitalize(), key=f"{what} sweep", on_click=steer, args=(what, row.id))
        if len(found.settings) > 1 and not results.confirming(found):
            st.button(
                f"Rerun the top {results.TOP} with {results.MORE_SEEDS} more seeds",
                key="confirm sweep",
                on_click=confirm,
                args=(row.id,),
                help="And the default, so that it is known how much the search gained.",
            )


def steer(what: str, sweep_id: str) -> None:
    """Pause, resume or cancel; a second press finds that it is done."""
    try:
        getattr(ledger, what)(sweep_id)
    except store.CannotSteer as error:
        st.toast(str(error))


def confirm(sweep_id: str) -> None:
    with store.reading() as session:
        found = results.read(session, store.find_sweep(session, sweep_id))
    if not results.confirming(found):
        results.confirm(found)


def facts(found: Found) -> str:
    """HTML: what became of the trials, the time, and the best score."""
    row, counts = found.row, found.counts
    total = results.total(found)
    of = "" if total is None else f" of {total:,}"
    pairs = [("trials", f"{len(found.trials):,}{of}")]
    pairs += [(what, f"{count:,}") for what, count in counts.items()]
    limit = f" of {duration(row.seconds)}" if row.seconds else ""
    pairs.append(("time", duration(row.spent_seconds) + limit))
    if len(found.settings):
        pairs.append((f"best {found.sweep.metric}", score(found, found.settings["score"].iloc[0])))
    return parts.facts(pairs)


def score(found: Found, value: float) -> str:
    share = found.sweep.metric.endswith(("exact_match", "token_accuracy", "cer"))
    return parts.percent(value) if share else parts.number(value)


def values_text(values: dict[str, Any]) -> str:
    """`r 8, learning_rate 0.001`."""
    return ", ".join(f"{label(name)} {_plain(value)}" for name, value in values.items())


def label(setting: str) -> str:
    """What is told apart in a few letters: `learning rate`, and `scheduler` for its name."""
    section, _, leaf = setting.rpartition(".")
    return SHORT.get(setting, (section if leaf == "name" else leaf).replace("_", " "))


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# --- figures --------------------------------------------------------------------------------------


def _layout(x: str, y: str, revision: str, **axes: Any) -> dict[str, Any]:
    return {
        "template": "none",
        "uirevision": revision,
        "xaxis": {"title": {"text": x}, "tickformat": ",.3~g"} | axes.get("xaxis", {}),
        "yaxis": {"title": {"text": y}, "tickformat": ",.3~g"},
        "separators": ".,",
    }


def best_so_far(found: Found) -> dict[str, go.Figure]:
    """The best score against trials and against the minutes that they took."""
    points = results.best_so_far(found)
    figures = {}
    for axis, title in {"trials": "scored trials", "minutes": "minutes of training"}.items():
        trace = {
            "type": "scatter",
            "mode": "lines+markers",
            "line": {"shape": "hv"},
            "legendrank": 1,
            "name": "best",
            "meta": score(found, points["best"].iloc[-1]) if len(points) else "none yet",
            "x": points[axis].to_numpy("float64"),
            "y": points["best"].to_numpy("float64"),
        }
        figures[f"Best so far, by {axis}"] = go.Figure(
            [trace], _layout(title, found.sweep.metric, axis)
        )
    return figures


def slices(found: Found) -> dict[str, go.Figure]:
    """Each searched setting against the score: a mark is a trial."""
    figures = {}
    for name, parameter in found.sweep.space.items():
        traces = []
        for place, (became, symbol) in enumerate(SYMBOLS.items()):
            rows = found.trials[found.trials["became"] == became]
            rows = rows[rows[name].notna() & rows["score"].notna()]
            if rows.empty:
                continue
            numbers = all(isinstance(v, int | float) for v in rows[name])
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": became,
                    "meta": [became, f"{len(rows):,}"],
                    "marker": {"symbol": symbol, "size": 7},
                    "legendrank": (1, 2, 8)[place],
                    "x": rows[name].to_numpy("float64")
                    if numbers
                    else list(map(_plain, rows[name])),
                    "y": rows["score"].to_numpy("float64"),
                }
            )
        kind = {"type": "log"} if getattr(parameter, "log", False) else {}
        figures[name] = go.Figure(
            traces, _layout(label(name), found.sweep.metric, name, xaxis=kind)
        )
    return figures


def parallel(found: Found) -> go.Figure:
    """Parallel coordinates: an axis for each setting and the score; the best tenth stands out."""
    rows = found.settings
    best = max(FEWEST_LINES, len(rows) // 10) if len(rows) > 2 * FEWEST_LINES else 1
    axes = [
        compare.dimension(label(name), [None if v != v else v for v in rows[name]])
        for name in found.sweep.space
    ]
    axes.append(compare.dimension(found.sweep.metric, list(rows["score"])))
    # The last lines are drawn on top.
    order = range(len(rows) - 1, -1, -1)
    for axis in axes:
        axis["values"] = [axis["values"][place] for place in order]
    colours = [1 if place < best else 8 for place in order]
    return go.Figure(
        [{"type": "parcoords", "line": {"color": colours}, "dimensions": axes}],
        {
            "template": "none",
            "uirevision": "parallel",
            "height": 340,
            "margin": {"l": 70, "r": 70, "t": 50, "b": 24},
        },
    )


def importance_table(shares: dict[str, float]) -> str:
    """HTML: each setting with its share as a bar."""
    rows = [
        [
            f"<code>{escape(name)}</code>",
            f'<span class="bar active" role="img" aria-label="{share:.0%}"><i '
            f'style="width:{share * 100:.1f}%"></i></span>',
            f"{share:.0%}",
        ]
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    return parts.table({"Setting": "fit", "Share of importance": "", " ": "num"}, rows)


# --- the table ------------------------------------------------------------------------------------


def matching(trials: pd.DataFrame, find: str) -> pd.DataFrame:
    """The trials whose text holds all words of `find` and that fulfil its conditions, such as
    `score > 0.5` or `lora.r >= 16`."""
    conditions = compare.CONDITION.findall(find)
    words = compare.CONDITION.sub(" ", find).casefold().split()
    text = trials[["run", "became", "reason"]].fillna("").agg(" ".join, axis=1).str.casefold()
    kept = pd.Series(True, index=trials.index)
    for word in words:
        kept &= text.str.contains(word, regex=False)
    for name, sign, limit in conditions:
        if name not in trials:
            return trials.iloc[:0]
        numbers = pd.to_numeric(trials[name], errors="coerce")
        held = [compare.holds(None if v != v else v, sign, limit) for v in numbers]
        kept &= pd.Series(held, index=trials.index)
    return trials[kept]
