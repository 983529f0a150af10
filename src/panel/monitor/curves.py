"""The charts of one run."""

import plotly.graph_objects as go

from src.panel.ui import charts
from src.panel.ui.points import Points, Reach, Reaches
from src.store.tables import Run


def figures(
    run: Run, curves: charts.Curves, behind: Reaches, reach: dict[str, Reach]
) -> dict[str, go.Figure]:
    """The charts of a run by title, with the points behind those that the browser has of each;
    `reach` gets what it has then."""
    found, marks = {}, charts.marks(run)
    for chart in charts.charts(curves.frames):
        points = Points(behind.get(chart.title))
        found[chart.title] = charts.figure(
            chart,
            curves.frames,
            revision=run.id,
            branches=curves.branches,
            marks=marks,
            points=points,
        )
        reach[chart.title] = points.reach
    return found
