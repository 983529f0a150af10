"""The table of a run's checkpoints, and what can be done with each."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import streamlit as st

from src import store
from src.format import capital, data_size
from src.models.metrics import metric_label, value_text
from src.panel.ui import choices, guarded, html, navigation
from src.panel.ui.charts import read_curves
from src.runs import attempts, launcher
from src.store.tables import RESUMABLE, Checkpoint, Run
from src.training.checkpointing import BrokenCheckpoint, is_kept_for_fork, verify

FORK = "A fork is a new run that goes on from a checkpoint with other settings."
RESUME = "A resumed run goes on from it; later checkpoints move to a folder of their own."


def draw(run: Run, kept: Sequence[Checkpoint]) -> None:
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
    newest = list(reversed(kept))
    broken = {one.step: problem(one.path, _state(Path(one.path))) for one in newest}
    score = metric_label(metric)
    unit, scale = _unit(max(one.size_bytes for one in newest))
    heads = {
        "Step": "num",
        capital(score): "num",
        f"Size ({unit})": "num",
        "State": "",
    }
    rows = [
        [
            f"<b>{one.step:,}</b>",
            value_text(metric, values.get(one.step)),
            f"{one.size_bytes / scale:,.1f}",
            _state_told(one, broken[one.step]),
        ]
        for one in newest
    ]
    st.html(html.table(heads, rows, name="checkpoints"))
    with st.container(horizontal=True, vertical_alignment="bottom", key="checkpoint"):
        steps = [str(one.step) for one in newest]
        step = int(
            choices.one("Act on", steps, lambda s: f"step {int(s):,}", key="step", width=160)
        )
        draw_actions(run, step, usable=broken[step] is None)
    more = f" {RESUME}" if run.status in RESUMABLE else ""
    st.html(f'<p class="quiet">{FORK}{more}</p>')


def _state_told(checkpoint: Checkpoint, broken: str | None) -> str:
    """HTML: that a checkpoint is verified and what it is kept for, or why it cannot be used."""
    if broken:
        return f'<span class="problem">{escape(broken)}</span>'
    words = ["best"] * checkpoint.is_best
    folder = Path(checkpoint.path)
    words += ["kept for a fork"] * is_kept_for_fork(folder.parent, checkpoint.step)
    return " · ".join(["verified", *words])


def _unit(size: int) -> tuple[str, int]:
    """The unit in which `data_size` tells a size, and its bytes."""
    unit = data_size(size).rpartition(" ")[2]
    return unit, 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)


def draw_actions(run: Run, step: int, *, usable: bool) -> None:
    """Draw the actions on one checkpoint."""
    if usable and run.status in RESUMABLE:
        guarded.button(
            "Resume from here", key=f"resume {step}",
            on_click=attempts.resume, args=(run,), kwargs={"step": step},
        )  # fmt: skip
    if usable:
        fork = navigation.link(
            "launch", "Fork from here", {"from": run.id, "fork": step}, style="second"
        )
        st.html(fork, width="content")
        query = {"run": run.id, "view": "Export", "step": step}
        st.html(navigation.link("monitor", "Export", query, style="second"), width="content")
    with st.popover("Delete checkpoint", key=f"ask to delete {step}"):
        st.write("The best one, the last two and those of forks stay.")
        guarded.button(
            "Delete this checkpoint", type="primary", key=f"delete {step}",
            on_click=launcher.delete_checkpoint, args=(run, step),
        )  # fmt: skip


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
