"""The tabs below a run's curves: its log, checkpoints, history and settings."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from src.models.metrics import in_words
from src.panel.monitor import checkpoints, export, log, settings_tab
from src.panel.ui import html, navigation
from src.store.tables import Checkpoint, Event, Run


def draw(
    run: Run, known: Sequence[Checkpoint], events: Sequence[Event], forks: Sequence[Run]
) -> None:
    """Draw the choice of a tab, and the chosen one."""
    views = ["Log", "Checkpoints", "Export", "Lineage", "Settings"]
    shown = navigation.segments("Below the curves", views, key="view")
    if shown == "Log":
        log.draw(run)
    elif shown == "Settings":
        settings_tab.draw(run)
    elif shown == "Checkpoints":
        checkpoints.draw(run, known)
    elif shown == "Export":
        export.draw(run, known)
    else:
        st.html(_history(run, events, forks))


def _history(run: Run, events: Sequence[Event], forks: Sequence[Run]) -> str:
    """HTML: what happened to a run since its launch, its parent and its forks."""
    lines = [(run.created_at, "launched", "launched")]
    lines += [(e.at, e.kind, f"attempt {e.attempt}: {e.text}") for e in events]
    if run.ended_at:
        reason = f": {run.reason}" if run.reason else ""
        lines.append((run.ended_at, "ended", f"{run.status.lower()}{reason}"))
    items = [
        f'<li class="{kind}"><time>{html.local_time(at, "%d %b, %H:%M:%S")}</time>'
        f"<span>{escape(in_words(text))}</span></li>"
        for at, kind, text in sorted(lines)
    ]
    if run.parent_id:
        link = navigation.link("monitor", run.parent_id, {"run": run.parent_id})
        items.insert(0, f'<li class="forked"><span>parent {link}</span></li>')
    for fork in forks:
        link = navigation.link("monitor", fork.id, {"run": fork.id})
        items.append(
            f'<li class="forked"><span>fork at step {fork.parent_step:,} {link}</span></li>'
        )
    return f'<ol class="lineage">{"".join(items)}</ol>'
