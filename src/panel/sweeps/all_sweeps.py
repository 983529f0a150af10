"""The table of all sweeps"""

from collections.abc import Mapping, Sequence
from html import escape

from src import store
from src.format import duration
from src.models.metrics import in_words, short_label, value_text
from src.panel.sweeps import view
from src.panel.ui import html, navigation
from src.store.tables import Status, Sweep
from src.sweeps import bests
from src.sweeps.bests import Best


def table(session: store.Session, rows: Sequence[Sweep]) -> str:
    """HTML: a row per sweep: its state, how far it is, its best score, and when it was launched."""
    head = {"Sweep": "", "Status": "fit", "Trials done": "num", "Best score": "num",
            "Duration": "num", "Launched": "fit"}  # fmt: skip
    counts, found = store.trial_counts(session), bests.of_each(session, rows)
    body = [
        [
            navigation.link("sweeps", row.name, {"sweep": row.id})
            + f"<small>{escape(in_words(row.reason) if row.reason else row.id)}</small>",
            view.badge(row),
            _trials(counts.get(row.id, {}), found.get(row.id)),
            _best(found.get(row.id)),
            duration(row.spent_seconds),
            html.local_time(row.created_at),
        ]
        for row in rows
    ]
    return html.table(head, body, name="sweeps opens")


def _trials(counts: Mapping[str, int], best: Best | None) -> str:
    """HTML: `20 of 24`, and what became of those that did not complete."""
    done = sum(n for status, n in counts.items() if Status(status).ended)
    of = f" of {best.total:,}" if best and best.total is not None else ""
    others = {status: n for status, n in counts.items() if status != Status.COMPLETED}
    told = ", ".join(f"{n:,} {status.lower()}" for status, n in others.items())
    return f"{done:,}{of}" + (f"<small>{told}</small>" if told else "")


def _best(best: Best | None) -> str:
    """HTML: the score of the best setting, by what it was ranked, and how many settings tie."""
    if best is None or best.score is None:
        return "–"
    tied = f", {best.tied:,} tie" if best.tied > 1 else ""
    told = value_text(best.metric, best.score, best.sd)
    return f"{told}<small>{escape(short_label(best.metric))}{tied}</small>"
