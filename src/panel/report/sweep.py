"""The part of a report that tells of a sweep: its winner, its trials and its search."""

from collections.abc import Iterator
from html import escape

from src import setting_labels
from src.format import as_sentence, counted, setting_value
from src.models.metrics import in_words, value_text
from src.panel.compare import verdicts
from src.panel.report import svg
from src.panel.report.content import SweepContent
from src.panel.sweeps import figures, table, view
from src.panel.ui import html
from src.sweeps import ranking, results

MAX_SETTINGS = 10  # of the ranked ones


def parts(told: SweepContent) -> Iterator[str]:
    """HTML, element by element."""
    found = told.found
    yield f'<div class="top">{view.head(found)}</div>'
    for note in (found.row.reason, *found.notes):
        if note:
            yield f'<p class="note">{escape(as_sentence(in_words(note)))}</p>'
    if found.settings.empty:
        yield view.facts(found)
        yield '<p class="quiet">No trial has a score.</p>'
        yield _failures(told)
        return
    tied = results.tied(found.settings)
    claim = view.tie_claim(found, tied) if tied > 1 else f"{view.best_claim(found)}."
    yield f'<p class="claim">{claim}</p>'
    yield view.facts(found)
    if told.judged:
        yield verdicts.verdict_table(told.judged)
    if told.how:
        yield f'<p class="quiet">Judged {escape(told.how)}.</p>'
    if found.confirming:
        yield f'<p class="quiet">{escape(view.confirmed(found))}.</p>'
    yield f"<h2>Ranked settings</h2>{_ranked(told)}"
    drawn = {**figures.best_so_far(found), **figures.slices(found)}
    cards = "".join(
        svg.card(setting_labels.label(name) if name in found.sweep.space else name, figure)
        for name, figure in drawn.items()
    )
    yield f'<h2>Search</h2><div class="charts">{cards}</div>'
    yield '<p class="quiet">A mark is a trial; hollow and crossed ones ended early.</p>'
    if shares := results.importance(found):
        yield f"<h2>Importance of the settings</h2>{table.importance_table(shares)}"
        yield f'<p class="quiet">Importance {table.IMPORTANCE_METHOD}.</p>'
    yield _failures(told)


def _ranked(told: SweepContent) -> str:
    """HTML: the best settings with their scores."""
    found = told.found
    rows = [
        [
            str(place),
            *(
                escape(setting_value(row[name], ".3g")) if ranking.is_searched(row[name]) else ""
                for name in found.sweep.space
            ),
            value_text(found.sweep.metric, row["score"]),
            f"{int(row['seeds'])} of {found.sweep.seeds}",
            f"{int(row['trial'])}",
        ]
        for place, (_, row) in enumerate(found.settings.head(MAX_SETTINGS).iterrows(), start=1)
    ]
    head = {"Place": "num"} | {setting_labels.label(name): "fit" for name in found.sweep.space}
    head |= {"Score": "num", "Seeds": "num", "Trial": "num"}
    more = len(found.settings) - len(rows)
    rest = f'<p class="quiet">{counted(more, "more setting")} scored less.</p>' if more > 0 else ""
    return html.table(head, rows) + rest


def _failures(told: SweepContent) -> str:
    """HTML: the trials that failed, and why."""
    trials = told.found.trials
    failed = trials[trials["became"] == "failed"]
    if failed.empty:
        return ""
    rows = [
        [str(one["trial"]), escape(in_words(str(one["reason"] or "")))]
        for one in failed.head(MAX_SETTINGS).to_dict("records")
    ]
    listed = html.table({"Trial": "num", "Reason": ""}, rows)
    return f"<h2>{counted(len(failed), 'failed trial').capitalize()}</h2>{listed}"
