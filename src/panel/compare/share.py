"""The verdict of a comparison to take away: in Markdown, and as a picture of its intervals."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import wrap

import streamlit as st

from src.analysis.comparison import Comparison
from src.analysis.verdicts import Verdict
from src.format import as_sentence, capital, cut, percent, points
from src.models.metrics import METRICS
from src.panel.compare import verdicts

# Those of the light theme: the picture stands on paper.
INK, QUIET, LINE, GOOD = "#1a1d24", "#5a6170", "#dde0e6", "#17693a"
WIDTH, MARGIN = 760, 24
PLOT = (330, 620)  # where intervals begin and end
ROW, LETTERS = 28, 82  # pixels a pair, letters a line
MAX_PAIRS = 10

_share = st.components.v2.component(
    "spelltune.share",
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def draw(found: Comparison) -> None:
    """Draw buttons that copy the verdict."""
    _share(key="share", data={"markdown": markdown(found), "svg": svg(found)})


def sentences(found: Comparison) -> list[str]:
    """The first sentences of the page: the verdict of two configs, else that of all."""
    told = [v.sentence for v in found.configs] if len(found.configs) == 1 else [found.summary]
    names = [group.name for group in found.groups]
    return [as_sentence(text, names) for text in told if text]


def markdown(found: Comparison) -> str:
    """The verdict and the scores of the configs in Markdown."""
    lines = [f"**{_plain(text)}**" for text in sentences(found)]
    accuracy = capital(METRICS["exact_match"].title)
    head = ("Config", "Differs in", "Seeds scored", accuracy, "SD, points")
    lines += ["", f"| {' | '.join(head)} |", "|---|---|--:|--:|--:|"]
    for group in verdicts.ranked(found):
        score = found.scores[group.name]
        spread = "" if score["sd"] is None else points(score["sd"])
        cells = [group.name, verdicts.differing(found, group), str(score["seeds"]),
                 percent(score["exact_match"]), spread]  # fmt: skip
        lines.append(f"| {' | '.join(map(_plain, cells))} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text without a meaning in Markdown."""
    return re.sub(r"([\\|`*_\[\]<>])", r"\\\1", text)


def svg(found: Comparison) -> str:
    """The verdict as a picture: its sentence over the interval of each pair of the leading config,
    on one axis."""
    told = [line for text in sentences(found) for line in wrap(text, LETTERS)]
    leader = verdicts.ranked(found)[0].name
    tested = [v for v in verdicts.by_evidence(found) if verdicts.lead(v) and leader in (v.a, v.b)]
    pairs = tested[:MAX_PAIRS]
    parts = [_text(MARGIN, 36 + 22 * n, line, size=16) for n, line in enumerate(told)]
    top = 36 + 22 * len(told) + 8
    parts += _intervals(pairs, leader, top)
    height = top + (ROW * len(pairs) + 52 if pairs else 8)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _intervals(pairs: Sequence[Verdict], leader: str, top: int) -> list[str]:
    """SVG of a row for each pair, named by the other config, and of their axis."""
    leads = [found for v in pairs if (found := verdicts.lead(v))]
    if not leads:
        return []
    ends = [0.0, *(end for found in leads for end in found)]
    low, high = min(ends), max(ends)

    def place(value: float) -> float:
        return PLOT[0] + (PLOT[1] - PLOT[0]) * (value - low) / ((high - low) or 1)

    bottom = top + ROW * len(pairs)
    zero = f'x1="{place(0):.1f}" x2="{place(0):.1f}" y1="{top}" y2="{bottom}"'
    parts = [f'<line {zero} stroke="{QUIET}"/>']
    for number, (v, (middle, start, end)) in enumerate(zip(pairs, leads, strict=True)):
        y, tone = top + ROW * number + ROW / 2, GOOD if v.winner else QUIET
        name = f"against {v.a if v.b == leader else v.b}"
        parts += [
            _text(MARGIN, y + 4, cut(name, 45), size=12),
            f'<line x1="{place(start):.1f}" x2="{place(end):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{tone}" stroke-width="3"/>',
            f'<circle cx="{place(middle):.1f}" cy="{y}" r="5" fill="{tone}"/>',
            _text(PLOT[1] + 14, y + 4, f"{points(middle, plus=True)} points", size=12),
        ]
    parts.append(
        f'<line x1="{PLOT[0]}" x2="{PLOT[1]}" y1="{bottom}" y2="{bottom}" stroke="{LINE}"/>'
    )
    for value in dict.fromkeys((low, 0.0, high)):
        if value and abs(value) <= verdicts.NEAR_ZERO * (high - low):
            continue
        told = points(value, plus=True) if value else "0"
        parts.append(_text(place(value), bottom + 16, told, size=11, anchor="middle"))
    note = "points of accuracy, with 95% intervals"
    return [*parts, _text(PLOT[0], bottom + 34, note, size=11, colour=QUIET)]


def _text(
    x: float, y: float, text: str, *, size: int, colour: str = INK, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
