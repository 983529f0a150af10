"""A sweep as a page shows it: what its trials became, and how they score."""

import math
import textwrap
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from src import store
from src.config import DEFAULT_PRESET, ConfigError, get, with_absolute_paths, with_overrides
from src.format import duration, number, percent, setting_value
from src.panel import charts, compare, parts
from src.panel import form as run_form
from src.store.tables import Status, Sweep, SweepStatus
from src.sweeps import control, results
from src.sweeps.file import Categorical, Parameter, base_config
from src.sweeps.results import SweepResults

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
REFUSED = (ConfigError, store.CannotSteer, store.TakesNoWrites)  # with a sentence for the reader
RERUN = f"Rerun the top {results.TOP_COUNT} with {results.CONFIRMATION_SEEDS} more seeds"
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


# --- one sweep ------------------------------------------------------------------------------------


def draw_buttons(found: SweepResults) -> None:
    """What can be done to the sweep now."""
    row, status = found.row, SweepStatus(found.row.status)
    with st.container(horizontal=True, vertical_alignment="center"):
        if status in control.OPEN:
            what = "pause" if status == SweepStatus.ACTIVE else "resume"
            st.button(what.capitalize(), key=f"{what} sweep", on_click=steer, args=(what, row.id))
            ending(row.id, "Cancel", "Cancel this sweep", "It is final: trials that wait never "
                   "start, those that train stop at their next step.")  # fmt: skip
        if len(found.settings) > 1 and not results.is_confirming(found):
            many = results.CONFIRMATION_SEEDS * confirmed_settings(found)
            st.button(
                f"{RERUN} ({many} runs)",
                key="confirm sweep",
                on_click=confirm,
                args=(row.id,),
                help="And the default, so that it is known how much the search gained.",
            )
        elif status == SweepStatus.COMPLETED and results.is_confirming(found):
            ending(row.id, "Stop the confirming runs", "Stop these runs", "Those that wait never "
                   "start, those that train stop at their next step. The trials stay as they "
                   "are.")  # fmt: skip
        # A grid without a budget ends with its last cell.
        if status != SweepStatus.CANCELLED and (row.most_trials or row.seconds):
            shown = "20 trials" if row.most_trials else "30 minutes"
            with st.container(horizontal=True, width=220):
                st.text_input(
                    "Add to the budget", placeholder=shown, key="more", width=130,
                    label_visibility="collapsed",
                )  # fmt: skip
                st.button(
                    "Add", key="add to sweep", on_click=add, args=(row.id,),
                    help="Raises the budget; a sweep that has ended goes on.",
                )  # fmt: skip


def ending(sweep_id: str, label: str, action: str, what: str) -> None:
    """A button that asks before it ends what cannot be begun again."""
    with st.popover(label, key=f"ask {label}"):
        st.write(what)
        st.button(action, type="primary", on_click=steer, args=("cancel", sweep_id))


def steer(what: str, sweep_id: str) -> None:
    """Pause, resume or cancel; a second press finds that it is done."""
    try:
        getattr(control, what)(sweep_id)
    except REFUSED as error:
        st.toast(str(error), duration="long")


def add(sweep_id: str) -> None:
    """Raise the budget by what was typed, which stays where it cannot be used."""
    try:
        control.add(sweep_id, st.session_state["more"])
    except REFUSED as error:
        st.toast(str(error), duration="long")
        return
    st.toast(f"Added {st.session_state['more']}.")
    st.session_state["more"] = ""


def confirmed_settings(found: SweepResults) -> int:
    """Settings that `results.confirm` trains anew: the best, and the default where it is not one
    of them."""
    base, best = base_config(found.sweep), results.top(found)
    default = any(all(get(base, name) == v for name, v in values.items()) for values in best)
    return len(best) + (not default)


def confirmed(found: SweepResults) -> str:
    """`2 of 20 confirming runs are done, 18 were stopped`."""
    statuses = [Status(run.status) for run in found.confirming]
    stopped = sum(status in (Status.STOPPED, Status.CANCELLED) for status in statuses)
    failed = sum(status in (Status.FAILED, Status.INTERRUPTED) for status in statuses)
    said = f"{statuses.count(Status.COMPLETED)} of {len(statuses)} confirming runs are done"
    for many, what in ((stopped, "stopped"), (failed, "lost to an error")):
        said += f", {many} {'was' if many == 1 else 'were'} {what}" if many else ""
    return said


def launch_query(found: SweepResults, values: dict[str, Any]) -> dict[str, str]:
    """The address of the Launch page with these settings of the sweep."""
    own = {"name": f"{found.row.name} best"}
    config = with_overrides(base_config(found.sweep).model_dump(), values | own)
    config = with_absolute_paths(config, Path(found.row.folder))
    return run_form.query(config, found.sweep.base.preset or DEFAULT_PRESET)


def confirm(sweep_id: str) -> None:
    with store.reading() as session:
        found = results.read(session, store.find_sweep(session, sweep_id))
    if not results.is_confirming(found):
        results.confirm(found)


def facts(found: SweepResults) -> str:
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


def score(found: SweepResults, value: float) -> str:
    share = charts.is_share(found.sweep.metric)
    return percent(value) if share else number(value)


def values_text(values: dict[str, Any]) -> str:
    """`r 8, learning_rate 0.001`."""
    return ", ".join(
        f"{label(name)} {setting_value(value, '.3g')}" for name, value in values.items()
    )


def label(setting: str) -> str:
    """What is told apart in a few letters: `learning rate`, and `scheduler` for its name."""
    section, _, leaf = setting.rpartition(".")
    return SHORT.get(setting, (section if leaf == "name" else leaf).replace("_", " "))


def _lines(value: Any) -> str:
    """A value in lines that are short enough to stand beside others below an axis."""
    text = escape(setting_value(value, ".3g")).replace("_", " ")
    return "<br>".join(textwrap.wrap(text, 12)) or " "


# --- figures --------------------------------------------------------------------------------------


def _layout(x: str, y: str, revision: str, **axes: Any) -> dict[str, Any]:
    return {
        "template": "none",
        "uirevision": revision,
        "xaxis": {"title": {"text": x}, "tickformat": ",.3~g"} | axes.get("xaxis", {}),
        # As many digits as neighbouring ticks need to differ.
        "yaxis": {"title": {"text": y}, "rangemode": "nonnegative"}
        | ({"tickformat": "~%"} if charts.is_share(y) else {}),
        "separators": ".,",
    }


def best_so_far(found: SweepResults) -> dict[str, go.Figure]:
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
            [trace], _layout(title, found.sweep.metric, axis, xaxis={"rangemode": "tozero"})
        )
    return figures


def slices(found: SweepResults) -> dict[str, go.Figure]:
    """Each searched setting against the score: a mark is a trial."""
    figures = {}
    for name, parameter in found.sweep.space.items():
        traces = []
        numbers = all(isinstance(v, int | float) for v in found.trials[name].dropna())
        for place, (became, symbol) in enumerate(SYMBOLS.items()):
            rows = found.trials[found.trials["became"] == became]
            rows = rows[rows[name].notna() & rows["score"].notna()]
            if rows.empty:
                continue
            values = rows[name]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": became,
                    "meta": [became, f"{len(rows):,}"],
                    "marker": {"symbol": symbol, "size": 7},
                    "legendrank": (1, 2, 8)[place],
                    "x": values.to_numpy("float64") if numbers else list(map(_lines, values)),
                    "y": rows["score"].to_numpy("float64"),
                }
            )
        kind = {"type": "log"} if getattr(parameter, "log", False) else {}
        layout = _layout(label(name), found.sweep.metric, name, xaxis=kind)
        figures[name] = go.Figure(traces, layout | ({} if numbers else {"margin": {"b": 58}}))
    return figures


def parallel(found: SweepResults) -> go.Figure:
    """Parallel coordinates: an axis for each setting and the score; the best tenth stands out."""
    rows, best = found.settings, lines_that_stand_out(found)
    axes = [_axis(name, parameter, rows[name]) for name, parameter in found.sweep.space.items()]
    shares = {"tickformat": ".1%"} if charts.is_share(found.sweep.metric) else {}
    axes.append(compare.dimension(found.sweep.metric, list(rows["score"])) | shares)
    # The last lines are drawn on top.
    order = range(len(rows) - 1, -1, -1)
    for axis in axes:
        axis["values"] = [axis["values"][place] for place in order]
    colours = [1 if place < best else 0 for place in order]
    return go.Figure(
        [{"type": "parcoords", "line": {"color": colours}, "dimensions": axes}],
        {
            "template": "none",
            "uirevision": "parallel",
            "height": 340,
            "margin": {"l": 70, "r": 70, "t": 50, "b": 24},
        },
    )


def lines_that_stand_out(found: SweepResults) -> int:
    """How many: the best tenth, without those that are no better than the next one."""
    scores = list(found.settings["score"])
    if len(scores) <= 2 * FEWEST_LINES:
        return 1
    best = max(FEWEST_LINES, len(scores) // 10)
    return sum(score != scores[best] for score in scores[:best]) or 1


def _axis(name: str, parameter: Parameter, column: pd.Series) -> dict[str, Any]:
    """An axis of parallel coordinates: listed values at equal distances, a range by its kind."""
    values = [None if v != v else v for v in column]
    if isinstance(parameter, Categorical):
        listed = parameter.values
        if all(isinstance(value, int | float) for value in listed):
            listed = sorted(listed)
        return {
            "label": label(name),
            "values": [listed.index(v) if v in listed else math.nan for v in values],
            "range": [0, max(len(listed) - 1, 1)],
            "tickvals": list(range(len(listed))),
            "ticktext": [escape(setting_value(value, ".3g")[:24]) for value in listed],
        }
    axis = compare.dimension(label(name), values)
    if not parameter.log:
        return axis
    ticks = log_ticks(parameter.low, parameter.high)
    return axis | {
        "values": [math.nan if v is None else math.log10(v) for v in values],
        "range": [math.log10(parameter.low), math.log10(parameter.high)],
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [setting_value(tick, ".3g") for tick in ticks],
    }


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between both; over more than two powers, these alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    found = [tick for tick in ticks if low <= tick <= high]
    return found if len(found) > 1 else [low, high]


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


def packs_table(packs: list[dict[str, Any]]) -> str:
    """HTML: a row a process, predictions beside what it was."""
    head = {"Process": "fit", "Trials": "num", "At once": "num", "Steps": "num"}
    head |= {"Predicted": "num", "Took": "num", "GiB predicted": "num", "GiB taken": "num"}
    rows = [
        [
            str(place),
            *(f"{one[name]:,}" for name in ("trials", "at_once", "steps")),
            *(duration(one[name]) for name in ("predicted_seconds", "seconds")),
            *(number(one[name], ".1f") for name in ("predicted_gib", "gib")),
        ]
        for place, one in enumerate(packs, start=1)
    ]
    return parts.table(head, rows)


# --- the table ------------------------------------------------------------------------------------


def matching(trials: pd.DataFrame, find: str) -> pd.DataFrame:
    """The trials whose text holds all words of `find` and that fulfil its conditions, such as
    `score > 0.5` or `lora.r >= 16`."""
    conditions = compare.CONDITION.findall(find)
    words = compare.CONDITION.sub(" ", find).casefold().split()
    text = trials[["run", "became", "reason"]].fillna("").agg(" ".join, axis=1)
    text = (text + " " + trials["tags"].map(" ".join)).str.casefold()
    kept = pd.Series(True, index=trials.index)
    for word in words:
        kept &= text.str.contains(word, regex=False)
    for asked, sign, limit in conditions:
        name = _column(trials, asked)
        if name is None:
            return trials.iloc[:0]
        numbers = pd.to_numeric(trials[name], errors="coerce")
        held = [compare.holds(None if v != v else v, sign, limit) for v in numbers]
        kept &= pd.Series(held, index=trials.index)
    return trials[kept]


TEXTS = ("run", "became", "reason", "tags", "setting", "ended_at")  # or not shown


def _column(trials: pd.DataFrame, asked: str) -> str | None:
    """The column of that name, or the only one whose last part it is: `learning_rate`."""
    names = list(map(str, trials.columns))
    if asked in names:
        return asked
    ends = [name for name in names if name.rpartition(".")[2] == asked]
    return ends[0] if len(ends) == 1 else None


def unknown(trials: pd.DataFrame, find: str) -> str | None:
    """A sentence where a condition in `find` names no column."""
    asked = [name for name, _, _ in compare.CONDITION.findall(find)]
    missing = [name for name in asked if _column(trials, name) is None]
    if not missing:
        return None
    there = ", ".join(str(name) for name in trials.columns if name not in TEXTS)
    return f"There is no column {missing[0]}; conditions may be on {there}."
