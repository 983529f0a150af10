"""Steps of a run that are marked in its charts: its best one, and what happened to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

import plotly.graph_objects as go

from src import store
from src.models.metrics import in_words
from src.panel.ui.charts import Curves
from src.store.outcome import EndReason
from src.store.tables import BEGIN_AN_ATTEMPT, Checkpoint, Event, EventKind, Run, Status

WIDTH, LINES = 60, 4  # of what is shown when a mark is pointed at
MAX_SHOWN = 24  # marks of one kind that are drawn, the last ones
# Of a mark on the axis; its words appear when it is pointed at. The best step has a line.
SIGNS = {"checkpoint": "▲", "resume": "▶", "heal": "✚", "fork": "◆", "stop": "■"}


@dataclass(frozen=True)
class Mark:
    """A step that is marked, and why."""

    kind: str  # best, or one of SIGNS: decides its look
    step: int
    text: str


def read(session: store.Session, run: Run, curves: Curves) -> list[Mark]:
    """The marks of a run, as it is now."""
    checkpoints = store.list_checkpoints(session, run.id)
    return of_run(run, curves, checkpoints, store.list_events(session, run.id))


def best_step(run: Run, curves: Curves) -> int | None:
    """The best step of a run so far; None while all its scores are equal: none is better then, and
    the checkpoint that is kept as the best one is the first."""
    scores = curves.frames.get(run.config["early_stopping"]["metric"])
    if scores is not None and len(scores) > 1 and scores["value"].nunique() == 1:
        return None
    return run.best_step


def of_run(
    run: Run, curves: Curves, checkpoints: Sequence[Checkpoint], events: Iterable[Event]
) -> list[Mark]:
    """The marks of a run: its checkpoints, fork, attempts, early end and best step."""
    found = [Mark("checkpoint", c.step, f"checkpoint at step {c.step:,}") for c in checkpoints]
    if run.parent_id and run.parent_step is not None:
        found.append(Mark("fork", run.parent_step, f"forked at step {run.parent_step:,}"))
    attempts = [e for e in events if e.kind in BEGIN_AN_ATTEMPT and e.step is not None]
    for event in attempts:
        kind = "heal" if event.kind == EventKind.HEALED else "resume"
        text = f"attempt {event.attempt} goes on from step {event.step:,}: {in_words(event.text)}"
        found.append(Mark(kind, event.step or 0, text))
    early = run.end_reason in (EndReason.STOPPED, EndReason.EARLY_STOPPED)
    if (early or run.stop_reason) and run.step:
        words = (
            "pruned" if run.stop_reason else "stopped" if run.status == Status.STOPPED
            else "early stop"
        )  # fmt: skip
        found.append(Mark("stop", run.step, f"{words} at step {run.step:,}"))
    if best := best_step(run, curves):
        found.append(Mark("best", best, "best"))
    return found


def draw(drawn: go.Figure, marks: Iterable[Mark], *, best: bool) -> None:
    """Add the marks to a chart, the best step only where `best`; the page colours them."""
    several = [mark for mark in marks if mark.kind != "best"]
    for kind, sign in SIGNS.items():
        for mark in [mark for mark in several if mark.kind == kind][-MAX_SHOWN:]:
            drawn.add_annotation(
                x=mark.step, y=0, yref="paper", yanchor="middle", text=sign, name=mark.kind,
                hovertext=_hover(mark.text), showarrow=False, font_size=11,
            )  # fmt: skip
    for mark in marks:
        if mark.kind == "best" and best:
            drawn.add_shape(
                type="line", x0=mark.step, x1=mark.step, y0=0, y1=1, yref="paper", name=mark.kind,
                line_dash="dot", line_width=1.5,
            )  # fmt: skip
            # Above the plot, where no curve is.
            drawn.add_annotation(
                x=mark.step, y=1, yref="paper", yanchor="bottom", text=mark.text, name=mark.kind,
                showarrow=False, font_size=11,
            )  # fmt: skip


def _hover(text: str) -> str:
    """A text as Plotly takes it, which reads tags: in lines, a long one cut."""
    lines = wrap(text, WIDTH)
    cut = [*lines[:LINES], "…"] if len(lines) > LINES else lines
    return "<br>".join(escape(line, quote=False) for line in cut)
