"""Answers charts that ask what is new of the runs they show: points, legends and marks, and the
parts of the page that go on with them.

A page sends the curves of a running run once. Its charts (charts.js) ask here, every two seconds,
for the points behind those that they have.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from src import store
from src.analysis.comparison import grouped
from src.errors import UserError
from src.panel.compare import curves as compared
from src.panel.monitor import picture
from src.panel.ui import charts
from src.panel.ui.points import Reach
from src.store.tables import Status


def live_curves(request: Request) -> Response:
    """The news for the charts of the question `asked`, as JSON; 400 for what is no question."""
    try:
        return JSONResponse(_answer(json.loads(request.query_params["asked"])))
    except (UserError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return PlainTextResponse("there are no such curves\n", status_code=400)


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """News for charts of the same shape as those that ask, else all charts anew."""
    make, live, parts = _source(asked["source"])
    reach: dict[str, Reach] = {}
    figures = make(asked["reach"], reach)
    shape = charts.shape(figures)
    if shape == asked["shape"]:
        return {"live": live, "parts": parts(), "reach": reach, "news": charts.news(figures)}
    figures = make({}, reach)
    texts = {title: shown.to_json() for title, shown in figures.items()}
    told = {"live": live, "parts": parts(), "reach": reach}
    return told | {"shape": shape, "figures": texts}


def _source(source: Mapping[str, Any]) -> tuple[charts.Make, bool, Callable[[], dict[str, str]]]:
    """The function that makes the charts of a page, True while any of their runs goes on, and what
    makes the HTML of the other parts."""
    with store.reading() as session:
        if source["page"] == "monitor":
            run = store.find(session, source["run"])
            read = picture.read(session, run, zone_name=source.get("zone"))
            return read.figures, not Status(run.status).ended, read.parts
        shown = compared.Shown(**source["shown"])
        runs = store.runs_of(session, source["runs"])
        frames = compared.read(session, runs, shown.metrics, axis=shown.axis)
        groups = grouped(runs, lambda run: run.label)
        live = any(not Status(run.status).ended for run in runs)
        return partial(compared.figures, groups, frames, shown), live, dict
