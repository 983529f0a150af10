"""A report as one HTML page: it needs no server, no network and no script."""

import time
from collections.abc import Iterator, Mapping
from html import escape
from importlib.metadata import version
from pathlib import Path

from src import store
from src.format import as_sentence, full_stop
from src.models.metrics import in_words
from src.panel.compare import curves, scores, suites, table, verdicts
from src.panel.monitor import head, marks
from src.panel.monitor.curves import figures
from src.panel.report import reproduce, svg, sweep, words
from src.panel.report.content import Content
from src.panel.ui import charts, html, run_status
from src.panel.ui.charts import PALETTE
from src.store.tables import EventKind, Run

MAX_CURVES = PALETTE  # configs whose curves are drawn
STYLES = (Path(charts.__file__).parents[1] / "panel.css", Path(__file__).with_name("report.css"))
# Names of runs and answers of models are escaped; this holds where one were not.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Spelltune</title>
<style>{style}</style>
</head>
<body class="stApp">
<main>
{body}
<footer>Written by Spelltune {version} on {date} (UTC). Nothing here comes from a network.</footer>
</main>
</body>
</html>
"""


def page(content: Content) -> str:
    """The whole page, as HTML."""
    style = "\n".join(file.read_text(encoding="utf-8") for file in STYLES)
    return PAGE.format(
        policy=POLICY,
        title=escape(content.title),
        style=style,
        body="\n".join(_body(content)),
        version=version("spelltune"),
        date=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    )


def _body(content: Content) -> Iterator[str]:
    if content.sweep:
        yield from sweep.parts(content.sweep)
        if not content.runs:
            yield f"<h2>How to reproduce</h2>{reproduce.section(content)}"
            return
        if content.sweep.found.confirming:
            yield f"<h2>Confirming runs</h2>{scores.score_table(content.found)}"
    else:
        yield f"<h1>{escape(content.title)}</h1>"
        told = _run(content, content.runs[0]) if content.is_one_run else _comparison(content)
        yield from told
    yield from suites.parts(content.on_suites, content.found.groups)
    yield from _curves(content)
    if content.answers:
        yield f"<h2>Kinds of error</h2>{words.kinds(content)}"
        yield f"<h2>Misspelled words</h2>{words.words(content)}"
    else:
        yield "<h2>Misspelled words</h2>" + '<p class="quiet">No words have been scored yet.</p>'
    yield f"<h2>How to reproduce</h2>{reproduce.section(content)}"


# --- one run --------------------------------------------------------------------------------------


def _run(content: Content, run: Run) -> Iterator[str]:
    """HTML: how a run went."""
    with store.reading() as session:
        drawn = charts.read_curves(session, run)
    said = run.reason or run.phase or run_status.meaning(run)
    score = content.latest[run.id].get("val/exact_match")
    yield head.status_line(run, said, marks.best_step(run, drawn), score=score)
    yield html.facts(
        [*head.facts(run, content.latest[run.id]), ("seed", str(run.config["training"]["seed"]))]
    )
    warnings = [e for e in content.events[run.id] if e.kind == EventKind.WARNING]
    for event in warnings:
        yield f'<p class="banner">{escape(in_words(event.text))}</p>'
    if found := head.diagnosed(run, drawn):
        yield f'<p class="banner">{escape(full_stop(found.text))}</p>'
    yield "<h2>Settings</h2>"
    yield reproduce.changed_settings(run)


# --- several runs ---------------------------------------------------------------------------------


def _comparison(content: Content) -> Iterator[str]:
    """HTML: verdicts, scores and the settings that differ."""
    found = content.found
    if found.summary:
        names = [group.name for group in found.groups]
        yield f'<p class="claim"><b>{escape(as_sentence(found.summary, names))}</b></p>'
    for note in found.notes:
        yield f'<p class="note">{escape(full_stop(note))}</p>'
    yield scores.score_table(found)
    if found.configs:
        yield verdicts.verdict_table(found.configs)
        yield f'<p class="quiet">{verdicts.SEVERAL_LOOKS}</p>'
    if problems := _unfinished(content):
        yield f"<h2>Runs without a result</h2>{problems}"
    if len(found.groups) > 1:
        yield f"<h2>Settings that differ</h2>{table.settings_table(found)}"


def _unfinished(content: Content) -> str:
    """HTML: the runs that ended without a result, and why."""
    rows = [
        [escape(run.id), run_status.badge(run), escape(in_words(_why(run)))]
        for group in content.found.groups
        for run in group.lost
    ]
    return html.table({"Run": "", "Status": "fit", "Reason": ""}, rows) if rows else ""


def _why(run: Run) -> str:
    return run.reason or run_status.meaning(run)


# --- curves ---------------------------------------------------------------------------------------


def _curves(content: Content) -> Iterator[str]:
    """HTML: the curves of the runs, as Monitor draws those of one and Compare those of several."""
    figures = _of_one(content.runs[0]) if content.is_one_run else _of_several(content)
    if not figures:
        yield "<h2>Curves</h2>" + '<p class="quiet">No run has reported a point yet.</p>'
        return
    drawn = "".join(svg.card(title, figure) for title, figure in figures.items())
    yield f'<h2>Curves</h2><div class="charts">{drawn}</div>'
    if not content.is_one_run:
        told = (
            "A line is the mean of a config's seeds, its band goes from the lowest to the highest."
        )
        more = len(content.found.groups) - MAX_CURVES
        told += f" Drawn are the first {MAX_CURVES} configs." if more > 0 else ""
        yield f'<p class="quiet">{told}</p>'


def _of_one(run: Run) -> Mapping[str, charts.go.Figure]:
    with store.reading() as session:
        found = charts.read_curves(session, run)
        steps = marks.read(session, run, found)
    return figures(run, found, steps, {}, {})


def _of_several(content: Content) -> Mapping[str, charts.go.Figure]:
    groups = content.found.groups[:MAX_CURVES]
    names = [n for n in curves.FIRST_CURVES if any(n in own for own in content.latest.values())]
    runs = [run for group in groups for run in group.runs]
    with store.reading() as session:
        frames = curves.read(session, runs, names, axis="step")
    return curves.figures(groups, frames, curves.Shown(tuple(names), "step", 1, band=True), {}, {})
