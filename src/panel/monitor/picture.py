"""The picture of a run as its page draws it: the numbers of its head, its charts and its words.

All of it is read at once, and what is new of it travels at once (panel/live_curves.py), so that all
of it shows the same step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from src import store
from src.panel.monitor import curves, head, health, marks, words
from src.panel.ui import charts, failure, run_status
from src.panel.ui.points import Reach, Reaches
from src.runs import time_left
from src.runs.time_left import TimeLeft
from src.store.tables import Evaluation, Run, Status, Sweep, SweepStatus


@dataclass(frozen=True)
class Picture:
    """A run and all that its page draws of it, as of one moment."""

    run: Run
    curves: charts.Curves
    marks: Sequence[marks.Mark]
    samples: Sequence[Mapping[str, float | None]]  # of the machine's meters
    latest: Mapping[str, float | None]
    left: TimeLeft | None
    scored: Sequence[Evaluation]
    paused: bool  # its sweep
    line: Sequence[Run]  # the runs that wait, in their order, if it is one of them
    zone_name: str | None = None  # of the reader, where no script of the page tells it

    @property
    def now(self) -> str:
        """A few words for what the run does."""
        phase = self.run.phase if Status(self.run.status).active else None
        return phase or run_status.meaning(self.run, paused=self.paused) + self._place()

    def _place(self) -> str:
        """Its place among the runs that wait; empty where it does not wait for its turn."""
        place = next((n for n, one in enumerate(self.line) if one.id == self.run.id), None)
        if place is None or self.paused or self.run.held_at:
            return ""
        if not place:
            return ", the next in line"
        return f", number {place + 1:,} in line, behind {self.line[place - 1].label}"

    def figures(self, behind: Reaches, reach: dict[str, Reach]) -> dict[str, go.Figure]:
        """The charts by title, with the points behind those that the browser has of each; `reach`
        gets what it has then."""
        shown = (self.run, self.curves)
        own = curves.figures(*shown, self.marks, behind, reach)
        return own | health.figures(*shown, self.samples, behind, reach)

    def head(self) -> str:
        """HTML of status, progress and numbers."""
        best = marks.best_step(self.run, self.curves)
        # Why a run ended badly stands in the banner below, with what to do next.
        said = self.now if self.run.status in failure.BADLY else self.run.reason or self.now
        zone = self.zone_name
        return head.as_html(self.run, self.latest, self.left, said, best=best, zone_name=zone)

    def words(self) -> str | None:
        """HTML of the words beside the charts; None where there is and will be nothing to show."""
        return words.shown(self.run, self.scored)

    def parts(self) -> dict[str, str]:
        """HTML of what goes on with the charts, by its name in `live`."""
        words = self.words() or ""
        return {"head": self.head(), "silence": head.silence(self.run), "words": words}


def read(session: store.Session, run: Run, *, zone_name: str | None = None) -> Picture:
    """All that the page draws of a run, in the session's state of the store."""
    sweep = session.get(Sweep, run.sweep_id) if run.sweep_id else None
    known = charts.read_curves(session, run)
    return Picture(
        run=run,
        curves=known,
        marks=marks.read(session, run, known),
        samples=health.read(session, run),
        latest=store.latest_metrics(session, [run.id])[run.id],
        left=time_left.of_run(session, run),
        scored=words.read(session, run),
        line=store.queue(session) if run.status == Status.QUEUED else (),
        paused=sweep is not None and sweep.status == SweepStatus.PAUSED,
        zone_name=zone_name,
    )


def live(
    session: store.Session, run: Run, *, key: str, goes_on: bool
) -> tuple[charts.Live | None, Picture | None]:
    """The charts of a run that goes on, None of one that ended or has no points yet; and what was
    read for them: nothing where they stand already, as the browser asks for their news itself."""
    if not goes_on:
        return None, read(session, run)
    state = f"{run.id} {run.attempt}"
    if standing := charts.standing(state, key=key):
        return standing, None
    shown = read(session, run)
    if not shown.curves.frames:
        return None, shown
    # At the end of the run an answer to the charts tells when it was launched, as the page does.
    source = {"page": "monitor", "run": run.id, "zone": st.context.timezone}
    new = charts.live(shown.figures, source, state=state, key=key, parts=shown.parts)
    return new, shown
