"""Verdicts on suites: a sentence for the study, each config beside its base, and configs beside."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from src.analysis.suite_comparison import SuiteComparison
from src.analysis.suite_verdicts import SuiteVerdict
from src.format import full_stop
from src.panel.ui import html

HOW = (
    "Each suite is asked before the first step, which is the base model, and at the end with the "
    "best adapter. Answers are paired by question, seeds are the outer level, and p-values are "
    "corrected for the number of suites (Holm)."
)


def draw(found: SuiteComparison) -> None:
    """Draw what the runs' suites say; nothing where none was scored."""
    if not found.suites:
        return
    st.html("<h2>Suites</h2>")
    for sentence in found.study:
        st.html(f'<p class="claim"><b>{escape(full_stop(sentence))}</b></p>')
    for verdicts in (found.base, found.configs):
        # The sentences above name those that nobody answered.
        if answered := [v for v in verdicts if not v.is_unanswered]:
            st.html(verdict_table(answered))
    st.html(f'<p class="quiet">{HOW}</p>')


def verdict_table(found: Sequence[SuiteVerdict]) -> str:
    """HTML: a row for each suite, with the scores of both sides and what may be claimed."""
    rows = [
        [
            escape(v.suite),
            escape(full_stop(v.claim)),
            *(_score(v, score) for score in (v.score_a, v.score_b)),
            _p(v.p_holm),
        ]
        for v in found
    ]
    head = {"Suite": "fit", "Verdict": "", "Before": "num", "After": "num", "p, corrected": "num"}
    if found[0].about == "configs":
        head = {"Suite": "fit", "Verdict": "", "First": "num", "Second": "num",
                "p, corrected": "num"}  # fmt: skip
    return html.table(head, rows, name="verdicts")


def _score(v: SuiteVerdict, score: float | None) -> str:
    if score is None:
        return "–"
    return f"{score:.2f} bits" if v.is_text else f"{score:.1%}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.2g}"
