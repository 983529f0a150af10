"""A run that ended badly: why, what may be behind it, and what to do next, in one banner"""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import streamlit as st

from src.config import ConfigError, stored_config
from src.format import as_sentence, counted, setting_value
from src.models.metrics import in_words
from src.panel.ui import folds, guarded, html, navigation, run_status
from src.runs import remedies
from src.runs.result_file import read_result
from src.store.outcome import EndReason, Remedy
from src.store.tables import Run, Status

BADLY = (Status.FAILED, Status.INTERRUPTED)
# By the first setting that a remedy changes: what it is called beside its value, and why it helps.
MENDS = {
    "training.learning_rate": ("learning rate", "A lower learning rate may mend it."),
    "training.per_device_train_batch_size": (
        "batches of",
        "Smaller batches take less memory, and with more of them a step learns as much.",
    ),
    "evaluation.batch_size": (
        "scoring batches of",
        "The memory ran out while it scored: smaller batches there take less.",
    ),
    "engine": (
        "engine",
        "The packed engine takes all examples of a step at once, the other one a batch at a time.",
    ),
}
KILLED = (EndReason.KILLED, EndReason.OOM_KILLED)


@dataclass(frozen=True)
class Launch:
    """The launch that may succeed where a run failed."""

    text: str = "Launch again with edits"
    changed: dict[str, str] = field(default_factory=dict)
    why: str = ""  # a sentence; empty where nothing is changed


def draw(
    run: Run, last: int | None, *, resume: Callable[..., object], args: tuple[Any, ...],
    archive: Callable[..., None] | None = None,
) -> None:  # fmt: skip
    """Draw why a run ended, and what can be done next; `last` is the step of its last checkpoint,
    and `resume` the callback that goes on from there.

    With `archive` it is one line that names the run, else the banner of the run's own page.
    """
    told, launch = escape(" ".join(sentences(run, last))), next_launch(run)
    is_line, is_mend = archive is not None, bool(launch.changed)
    with st.container(horizontal=True, vertical_alignment="center", key=f"failed-{run.id}"):
        if is_line:
            name = navigation.link("monitor", run.label, {"run": run.id})
            at = f"<small>{html.local_time(run.ended_at, '%d %b, %H:%M')}</small>"
            head = f"{run_status.badge(run)} <b>{name}</b> {at}"
            st.html(f'<div class="failed-run">{head}{folds.folded("line", told)}</div>')
        else:
            st.html(f'<p class="failed-run" role="status">{told}</p>')
        is_first = not is_line and (is_mend or last is None)
        style = "button" if is_first else "second"
        query = {"from": run.id} | launch.changed
        st.html(navigation.link("launch", launch.text, query, style=style), width="content")
        if last is not None:
            kind = "secondary" if is_line or is_mend else "primary"
            guarded.button("Resume", key=f"resume {run.id}", type=kind, on_click=resume, args=args)
        if archive:
            guarded.button("Archive", key=f"archive {run.id}", on_click=archive, args=([run.id],))


def sentences(run: Run, last: int | None) -> list[str]:
    """Why a run ended, what may be behind it, and what resuming it would do."""
    found = [as_sentence(in_words(run.reason or run_status.meaning(run)))]
    if run.end_reason in KILLED:
        found.append("Something outside Spelltune ended its processes, often for lack of memory.")
    if run.end_reason == EndReason.DISK_FULL:
        found.append("Make room on the disk first.")
    if why := next_launch(run).why:
        found.append(why)
    if last is not None:
        lost = max((run.step or 0) - last, 0)
        again = f"{counted(lost, 'step')} are trained again" if lost else "no step is lost"
        found.append(f"Resume goes on from step {last:,}; {again}.")
    elif run.end_reason in KILLED:
        found.append("It had saved no checkpoint: launch it again.")
    return found


def next_launch(run: Run) -> Launch:
    """The launch that may succeed where this run failed: with what `supervision.self_heal` would
    change."""
    try:
        config = stored_config(run.config)
        remedy = EndReason(run.end_reason).heals_by if run.end_reason else None
    except (ConfigError, ValueError):
        return Launch()
    outcome = read_result(run.id, run.attempt) if remedy is Remedy.SMALLER_BATCH else None
    changes = remedies.changes(
        remedy,
        config,
        engine=run.used.get("engine"),
        scoring=outcome is not None and outcome.scoring,
    )
    if not changes:
        return Launch()
    first, value = next(iter(changes.items()))
    what, why = MENDS[first]
    changed = {name: str(new) for name, new in changes.items()}
    return Launch(f"Launch with {what} {setting_value(value, '.3g')}", changed, why)
