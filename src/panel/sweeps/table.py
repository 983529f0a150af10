"""Tables of a sweep: importance of its settings, its processes, and the search in its trials."""

from html import escape
from typing import Any

import pandas as pd

from src import setting_labels
from src.format import duration, number
from src.models.metrics import in_words
from src.panel.ui import find_box, html
from src.text import caseless

# Columns that conditions cannot be on: texts, and those that are not shown.
NOT_NUMBERS = (
    "run",
    "became",
    "reason",
    "tags",
    "setting",
    "started_at",
    "ended_at",
    "data_fingerprint",
)
IMPORTANCE_METHOD = (
    "by PED-ANOVA (Watanabe et al. 2023), from how the best tenth of the settings differ from the "
    "others. Exploratory: it shows where to look next and proves nothing"
)


def importance_table(shares: dict[str, float]) -> str:
    """HTML: each setting with its share of importance as a bar."""
    rows = [
        [
            escape(setting_labels.label(name)),
            f'<span class="bar active" role="img" aria-label="{share:.0%}"><i '
            f'style="width:{share * 100:.1f}%"></i></span>',
            f"{share:.0%}",
        ]
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    head = {"Setting": "fit", "Share of importance": "fit", " ": "num"}
    return html.table(head, rows, name="narrow")


def packs_table(packs: list[dict[str, Any]]) -> str:
    """HTML: a row per trainer process, with predicted and measured time and memory."""
    head = {"Process": "fit", "Trials": "num", "At once": "num", "Steps": "num"}
    head |= {"Duration predicted": "num", "Duration": "num"}
    head |= {"Memory predicted (GiB)": "num", "Memory (GiB)": "num"}
    rows = [
        [
            str(place),
            *(f"{one[name]:,}" for name in ("trials", "at_once", "steps")),
            *(duration(one[name]) for name in ("predicted_seconds", "seconds")),
            *(number(one[name], ".1f") for name in ("predicted_gib", "gib")),
        ]
        for place, one in enumerate(packs, start=1)
    ]
    return html.table(head, rows)


def matching(trials: pd.DataFrame, find: str) -> pd.DataFrame:
    """The trials that match `find` (see ui/find_box.py); conditions may name a setting by its last
    part, such as `learning_rate > 0.003`."""
    words, conditions = find_box.parse(find)
    shown = trials[["run", "became"]].assign(reason=trials["reason"].fillna("").map(in_words))
    text = shown.agg(" ".join, axis=1)
    text = (text + " " + trials["tags"].map(" ".join)).map(caseless)
    kept = pd.Series(True, index=trials.index)
    for word in words:
        kept &= text.str.contains(word, regex=False)
    for condition in conditions:
        name = _column(trials, condition.column)
        if name is None:
            return trials.iloc[:0]
        numbers = (v if isinstance(v, int | float) else None for v in trials[name].tolist())
        held = [condition.holds(v) for v in numbers]
        kept &= pd.Series(held, index=trials.index)
    return trials[kept]


def _column(trials: pd.DataFrame, asked: str) -> str | None:
    """The column of that name, or the only one whose last part it is; None if there is none."""
    names = list(map(str, trials.columns))
    if asked in names:
        return asked
    ends = [name for name in names if name.rpartition(".")[2] == asked]
    return ends[0] if len(ends) == 1 else None


def unknown(trials: pd.DataFrame, find: str) -> str | None:
    """A sentence if a condition in `find` names no column, else None."""
    _, conditions = find_box.parse(find)
    missing = [c.column for c in conditions if _column(trials, c.column) is None]
    if not missing:
        return None
    there = ", ".join(str(name) for name in trials.columns if name not in NOT_NUMBERS)
    return f"There is no column {missing[0]}; conditions may be on {there}."
