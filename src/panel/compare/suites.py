"""Verdicts on suites: a sentence for the study, each config beside its base, and configs beside."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from src.analysis import guessing
from src.analysis.comparison import Group
from src.analysis.suite_comparison import SuiteComparison
from src.analysis.suite_verdicts import SuiteVerdict
from src.config import trained_on
from src.format import as_sentence, counted, decimal, percent
from src.panel.compare import colours
from src.panel.compare.verdicts import interval
from src.panel.ui import html

HOW = (
    "Each suite is asked before the first step, which is the base model, and at the end with the "
    "best adapter. Answers are paired by question, seeds are the outer level, and p-values are "
    "corrected for the number of suites (Holm)."
)
MAX_UNTOLD = 3  # pairs of configs that cannot be told apart and are shown, not folded


def draw(found: SuiteComparison, groups: Sequence[Group]) -> None:
    """Draw what the runs' suites say; nothing where none was scored."""
    for part in parts(found, groups):
        st.html(part)


def parts(found: SuiteComparison, groups: Sequence[Group]) -> list[str]:
    """HTML, element by element: what the runs' suites say; none where none was scored."""
    if not found.suites:
        return []
    told = ["<h2>Suites</h2>"]
    for sentence in found.study:
        told.append(f'<p class="claim"><b>{escape(as_sentence(sentence))}</b></p>')
    # The sentences above name those that nobody answered.
    base, configs = (
        [v for v in verdicts if not v.is_unanswered] for verdicts in (found.base, found.configs)
    )
    if base:
        told.append(_base_table(base, groups))
    if configs:
        told.append(_pair_table(configs))
    return [*told, f'<p class="quiet">{HOW}</p>']


def _base_table(found: Sequence[SuiteVerdict], groups: Sequence[Group]) -> str:
    """HTML: a row for each config and suite, from the base model to the config."""
    names = {group.name: _config(group, place) for place, group in enumerate(groups)}
    rows = []
    for place, v in enumerate(found):
        first = place == 0 or found[place - 1].b != v.b
        rows.append([names.get(v.b, escape(v.b)) if first else "", *_cells(v, found)])
    head = {"Config": "fit", "Suite": "fit", "From the base model": "",
            "Change, 95% interval": "fit", "Before": "num", "After": "num"}  # fmt: skip
    return html.table(head, rows, name="verdicts")


def _pair_table(found: Sequence[SuiteVerdict]) -> str:
    """HTML: a row for each pair of configs and suite, those first that can be told apart; many that
    cannot are folded."""
    found = sorted(found, key=lambda v: (v.change is None, v.p_holm is None))
    rows = [_cells(v, found) for v in found]
    head = {"Suite": "fit", "Between configs": "", "Difference, 95% interval": "fit",
            "First": "num", "Second": "num"}  # fmt: skip
    told = sum(v.change is not None for v in found)
    if len(rows) - told <= MAX_UNTOLD:
        return html.table(head, rows, name="verdicts")
    shown = html.table(head, rows[:told], name="verdicts") if told else ""
    title = f"{counted(len(rows) - told, 'pair')} of configs cannot be told apart by a suite"
    rest = html.table(head, rows[told:], name="verdicts")
    return f'{shown}<details class="untested"><summary>{title}</summary>{rest}</details>'


def _config(group: Group, place: int) -> str:
    """HTML: a config with the colour of its curves, and what it was trained on."""
    task = trained_on(group.runs[0].config["data"])
    return f"{colours.swatch(place)}{escape(group.name)}<small>{escape(task)}</small>"


def _cells(v: SuiteVerdict, beside: Sequence[SuiteVerdict]) -> list[str]:
    claim = escape(as_sentence(v.outcome or v.claim, (v.suite, v.a, v.b)))
    told = filter(None, (v.ground, _p_value(v), guessing.sentence(v.constant)))
    ground = "".join(f"<small>{escape(one)}</small>" for one in told)
    return [
        escape(v.suite),
        f'<div class="claim">{claim}</div>{ground}',
        _interval(v, beside),
        *(_score(v, score) for score in (v.score_a, v.score_b)),
    ]


def _p_value(v: SuiteVerdict) -> str:
    if v.p_holm is None:
        return ""
    p = "< 0.001" if v.p_holm < 0.001 else f"= {v.p_holm:.2g}"
    return f"p {p}, corrected for suites"


def _interval(v: SuiteVerdict, beside: Sequence[SuiteVerdict]) -> str:
    """HTML: the difference with its limits, on one scale with the others in its unit."""
    if v.difference is None or v.ci_low is None or v.ci_high is None:
        return ""
    same = [one for one in beside if one.is_text == v.is_text]
    ends = [end for one in same for end in (one.ci_low, one.ci_high) if end is not None]
    tone = {True: "good", False: "bad", None: ""}[v.is_better]
    if v.about == "configs" and tone:
        tone = "good"  # one of the two is better
    of = (v.difference, v.ci_low, v.ci_high)
    factor, digits, unit = (1, 3, "bits per character") if v.is_text else (100, 1, "points")
    size, low, high = (decimal(factor * end, digits, plus=True) for end in of)
    label = f"{size} {unit}, from {low} to {high}"
    return interval(of, min(0.0, *ends), max(0.0, *ends), label, tone)


def _score(v: SuiteVerdict, score: float | None) -> str:
    if score is None:
        return "–"
    return f"{score:.2f} bits" if v.is_text else percent(score)
