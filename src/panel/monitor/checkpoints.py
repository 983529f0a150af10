"""The list of a run's checkpoints, with the actions on each."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import streamlit as st

from src import store
from src.format import data_size, number, percent
from src.models.metrics import metric_label
from src.panel.monitor.actions import draw_told, problems_told
from src.panel.ui import guarded, html, navigation
from src.panel.ui.charts import is_share, read_curves
from src.runs import attempts, launcher
from src.store.tables import RESUMABLE, Checkpoint, Run
from src.training.checkpointing import BrokenCheckpoint, is_kept_for_fork, verify

COLUMNS = (1, 1.6, 1, 2.4, 1.2)


def draw(run: Run, kept: Sequence[Checkpoint]) -> None:
    draw_told()
    if not kept:
        every = run.config["checkpointing"]["save_steps"]
        html.draw_empty(
            "No checkpoint yet", f"One is written every {every:,} steps, and on a stop."
        )
        return
    metric = run.config["early_stopping"]["metric"]
    with store.reading() as session:
        known = read_curves(session, run, [metric]).frames.get(metric)
    values = {} if known is None else dict(zip(known["step"], known["value"], strict=True))
    with st.container(key="checkpoints", gap="xxsmall"):
        title = metric_label(metric)
        heads = ("Step", title[0].upper() + title[1:], "Size", "State", "")
        for column, text in zip(st.columns(COLUMNS), heads, strict=True):
            column.html(f'<span class="quiet">{escape(text)}</span>')
        for checkpoint in reversed(kept):
            draw_row(run, checkpoint, values.get(checkpoint.step), is_share(metric))


def draw_row(run: Run, checkpoint: Checkpoint, value: float | None, share: bool) -> None:
    step, folder = checkpoint.step, Path(checkpoint.path)
    broken = problem(str(folder), _state(folder))
    cells = st.columns(COLUMNS, vertical_alignment="center")
    cells[0].html(f"<b>{step:,}</b>")
    cells[1].html(percent(value) if share else number(value))
    cells[2].html(data_size(checkpoint.size_bytes))
    words = ["best"] * checkpoint.is_best
    words += ["kept for a fork"] * is_kept_for_fork(folder.parent, step)
    state = " · ".join(["verified", *words])
    cells[3].html(f'<span class="problem">{escape(broken)}</span>' if broken else state)
    with cells[4].popover("Actions", key=f"actions {step}", width="stretch"):
        draw_actions(run, step, usable=broken is None)


def draw_actions(run: Run, step: int, *, usable: bool) -> None:
    """Draw the actions on one checkpoint, each with what it does."""
    if usable and run.status in RESUMABLE:
        guarded.button("Resume from here", key=f"resume {step}", on_click=_resume, args=(run, step))
        later = "Later checkpoints move to a folder of their own."
        st.html(f'<p class="quiet">The run goes on from step {step:,}. {later}</p>')
    if usable:
        st.html(navigation.link("launch", "Fork from here", {"from": run.id, "fork": step}))
        st.html('<p class="quiet">A new run goes on from it with other settings.</p>')
        query = {"run": run.id, "view": "Export", "step": step}
        st.html(navigation.link("monitor", "Export", query))
        st.html('<p class="quiet">To use it without Spelltune.</p>')
    guarded.button("Delete", key=f"delete {step}", on_click=_delete, args=(run, step))
    st.html('<p class="quiet">The best one, the last two and those of forks stay.</p>')


def _resume(run: Run, step: int) -> None:
    with problems_told():
        attempts.resume(run, step=step)


def _delete(run: Run, step: int) -> None:
    with problems_told():
        launcher.delete_checkpoint(run, step)


@st.cache_data(max_entries=256, show_spinner=False)
def problem(folder: str, state: tuple[tuple[str, int, int], ...]) -> str | None:
    """Why a checkpoint is broken, or None; verified again only when one of its files changed."""
    try:
        verify(Path(folder))
    except BrokenCheckpoint as error:
        return str(error)
    return None


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((file.name, file.stat()) for file in sorted(folder.glob("*")))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)
