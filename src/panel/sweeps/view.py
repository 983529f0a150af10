"""A sweep's head, facts and winner, and the list of all sweeps."""

from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from src import store
from src.config import DEFAULT_PRESET, with_absolute_paths, with_overrides
from src.format import duration, number, percent, settings_text
from src.models.metrics import metric_label
from src.panel.launch import form as run_form
from src.panel.ui import charts, html, navigation
from src.runs import cost
from src.store.tables import Status, Sweep, SweepStatus
from src.sweeps import control, ranking, results
from src.sweeps.file import base_config
from src.sweeps.results import SweepResults

MEANING: dict[str, str] = {  # tooltip of a status
    SweepStatus.ACTIVE: "queues trials",
    SweepStatus.PAUSED: "starts no further trial",
    SweepStatus.CANCELLED: "was ended by a person",
    SweepStatus.COMPLETED: "has ended",
    Status.FAILED: "starts no further trial, as its driver failed, until it is resumed",
}


def badge(row: Sweep) -> str:
    """HTML: the status as a coloured word, its meaning as a tooltip."""
    status = row.told_status
    meaning = MEANING[status]
    return f'<span class="badge {status.lower()}" title="{meaning}">{status.lower()}</span>'


def list_table(rows: list[Sweep]) -> str:
    """HTML: a row per sweep, with its trials by status."""
    head = {"Sweep": "", "Status": "fit", "Trials": "", "Duration": "num", "Launched": "fit"}
    with store.reading() as session:
        counts = store.trial_counts(session)
    body = []
    for row in rows:
        found = counts.get(row.id, {})
        told = ", ".join(f"{n:,} {status.lower()}" for status, n in found.items()) or "none yet"
        body.append(
            [
                navigation.link("sweeps", row.name, {"sweep": row.id})
                + f"<small>{escape(row.reason or row.id)}</small>",
                badge(row),
                escape(told),
                duration(row.spent_seconds),
                html.local_time(row.created_at),
            ]
        )
    return html.table(head, body)


def head(found: SweepResults) -> str:
    """HTML: name, status and method of a sweep."""
    sweep, many = found.sweep, len(found.sweep.space)
    pruned = "" if sweep.pruner == "none" else f", pruned by {sweep.pruner}"
    about = f"{sweep.method} over {many} {'setting' if many == 1 else 'settings'}{pruned}"
    return f"<h1>{escape(found.row.name)}</h1>{badge(found.row)}<span>{escape(about)}</span>"


def facts(found: SweepResults) -> str:
    """HTML: trials by outcome, time spent and the best score."""
    row, counts = found.row, found.counts
    total = results.total(found)
    of = "" if total is None else f" of {total:,}"
    pairs = [("trials launched", f"{len(found.trials):,}{of}")]
    pairs += [(what, f"{count:,}") for what, count in counts.items()]
    limit = f" of {duration(row.seconds)}" if row.seconds else ""
    pairs.append(("time", duration(row.spent_seconds) + limit))
    pairs += cost.taken(*found.usage)
    if len(found.settings):
        pairs.append(
            (
                f"best {metric_label(found.sweep.metric)}",
                score(found, found.settings["score"].iloc[0]),
            )
        )
    return html.facts(pairs)


def draw_no_trials(found: SweepResults) -> None:
    """Draw why there are no trials, and what to do."""
    if found.row.status in control.OPEN:
        html.draw_empty("No trials yet", "The first ones are queued within seconds.")
        return
    again = navigation.link("sweeps", "Launch another sweep", style="button")
    html.draw_empty("No trials", f"This sweep ended before it had queued one.<br><br>{again}")


def draw_no_score(found: SweepResults) -> None:
    """Draw why no trial has a score, and where to look."""
    if found.row.status in control.OPEN:
        html.draw_empty("No score yet", "It is there when the first trial has ended.")
        return
    why = "None of its trials ended with a score. The view Trials says how each of them ended."
    html.draw_empty("No score", why)


def draw_winner(found: SweepResults) -> None:
    """Draw the best settings, and how far the runs are that confirm them."""
    if found.settings.empty:
        return
    if (tied := results.tied(found)) > 1:
        st.html(f'<p class="claim">{tie_claim(found, tied)}</p>')
    else:
        draw_best(found)
    if found.confirming:
        runs = [run.id for run in found.confirming]
        link = navigation.link("compare", "compare them", {"run": runs})
        st.html(f'<p class="quiet">{confirmed(found)}; {link}.</p>')


def draw_best(found: SweepResults) -> None:
    """Draw the best settings, with links to their run and to a launch of them."""
    values, row = results.top(found, 1)[0], found.settings.iloc[0]
    link = navigation.link("monitor", f"trial {row['trial']}", {"run": row["run"]})
    again = navigation.link("launch", "launch these settings", launch_query(found, values))
    st.html(f'<p class="claim">{best_claim(found)} ({link}); {again}.</p>')


def best_claim(found: SweepResults) -> str:
    """HTML: the best settings with their score."""
    values, row = results.top(found, 1)[0], found.settings.iloc[0]
    seeds = ranking.seeds_text(int(row["seeds"]), found.sweep)
    told = f"{score(found, row['score'])}{f' by {seeds}' if seeds else ''}"
    best = "Best so far" if found.row.status in control.OPEN else "Best"
    return (
        f"<b>{best}: {escape(settings_text(values))}</b>, with "
        f"{escape(metric_label(found.sweep.metric))} {told}"
    )


def tie_claim(found: SweepResults, tied: int) -> str:
    """HTML: that several settings share the best score, and what would tell them apart."""
    best, metric = found.settings["score"].iloc[0], found.sweep.metric
    steps = base_config(found.sweep).training.max_steps
    advice = "Score more validation rows, or rank them by <code>metric: val/loss</code>."
    if charts.is_share(metric) and best == 0:
        advice = (
            f"{steps:,} steps may be too few for a right answer: launch the sweep with more, or "
            "rank its trials by <code>metric: val/loss</code>."
        )
    return (
        f"<b>No best: {tied:,} of {len(found.settings):,} settings tie</b> at "
        f"{escape(metric_label(metric))} {score(found, best)}. {advice}"
    )


def score(found: SweepResults, value: float) -> str:
    """A score of the sweep's metric as text."""
    share = charts.is_share(found.sweep.metric)
    return percent(value) if share else number(value)


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
