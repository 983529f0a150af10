"""Verdicts on several configs, their scores, and buttons that launch the seeds still missing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import streamlit as st

from src import setting_labels, store
from src.analysis import comparison
from src.analysis.comparison import Comparison
from src.analysis.verdicts import Verdict
from src.config import distinguishes
from src.format import duration, full_stop, percent, setting_value
from src.panel.ui import guarded, html, navigation, query_params
from src.panel.ui.charts import PALETTE
from src.runs import launcher, time_left
from src.runs.machine import slot_count

MAX_DIFFERING = 5  # settings that are named; all are in the view Settings
MAX_UNTESTED = 3  # untested pairs that are shown, not folded, if no more are tested
SEVERAL_LOOKS = (
    "Seeds that are launched together are one look; launching more once there are scores is "
    "another. Intervals and p-values allow for all looks, and are stricter at each: launch as many "
    "seeds at once as you can. About 5% of equal configs get a winner at any look, or fewer."
)


def verdict_table(found: Sequence[Verdict]) -> str:
    """HTML: each verdict with its lead, the lead's interval on a common scale, and its p-value.

    The smallest p-value comes first (Holm-corrected where shown); pairs that could not be tested
    are folded.
    """
    found = sorted(found, key=lambda v: 2.0 if v.p_value is None else v.p_value)
    leads = [_lead(v) for v in found]
    ends = [end for lead in leads if lead for end in lead]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    rows = [
        [
            f'<div class="claim">{escape(full_stop(v.sentence))}</div>',
            interval(lead, low, high, _label(lead), "good" if v.winner else "") if lead else "",
            f"{lead[0] * 100:.1f} points" if lead else "–",
            "–" if v.p_holm is None else "< 0.001" if v.p_holm < 0.001 else f"{v.p_holm:.2g}",
        ]
        for v, lead in zip(found, leads, strict=True)
    ]
    head = {"Verdict": "", "Lead, 95% interval": "fit", "Lead": "num",
            "p, corrected": "num"}  # fmt: skip
    shown = max(MAX_UNTESTED, sum(v.p_value is not None for v in found))
    table = html.table(head, rows[:shown], name="verdicts")
    if len(rows) <= shown:
        return table
    rest = "".join(f"<li>{row[0]}</li>" for row in rows[shown:])
    folded = f"<summary>{len(rows) - shown} more pairs cannot be told apart yet</summary>"
    return f'{table}<details class="untested">{folded}<ul>{rest}</ul></details>'


def headline(v: Verdict) -> str:
    """HTML: the one verdict on two configs as a sentence over its interval, whose axis has its
    ends and zero."""
    text = f'<p class="claim">{escape(full_stop(v.sentence))}</p>'
    if (lead := _lead(v)) is None:
        return f'<section class="verdict">{text}</section>'
    low, high = min(0.0, *lead), max(0.0, *lead)
    drawn = interval(lead, low, high, _label(lead), "good" if v.winner else "")
    ends = "".join(
        f'<span style="left:{4 + 92 * (value - low) / ((high - low) or 1):.1f}%">'
        f"{value * 100:+.1f}</span>"
        for value in dict.fromkeys((low, high))
        if abs(value) > 0.02 * (high - low)
    )
    zero = f'<span style="left:{4 + 92 * -low / ((high - low) or 1):.1f}%">0</span>'
    axis = f'<small class="axis" aria-hidden="true">{ends}{zero}</small>'
    p = "" if v.p_holm is None else f"p {'< 0.001' if v.p_holm < 0.001 else f'= {v.p_holm:.2g}'}"
    note = (
        f'<small title="corrected for the looks">points of exact match, 95% interval, {p}</small>'
    )
    return (
        f'<section class="verdict">{text}<div class="on-axis">{drawn}{axis}{note}</div></section>'
    )


def renamed(v: Verdict, names: Mapping[str, str]) -> Verdict:
    """The verdict on two runs with their names in the place of their ids."""
    claim = v.claim
    for run_id in sorted({v.a, v.b}, key=len, reverse=True):
        claim = claim.replace(run_id, names.get(run_id, run_id))
    return replace(v, a=names.get(v.a, v.a), b=names.get(v.b, v.b), claim=claim)


def _lead(v: Verdict) -> tuple[float, float, float] | None:
    """Lead of the better side and its confidence limits, as fractions; None if untested."""
    if v.difference is None or v.ci_low is None or v.ci_high is None:
        return None
    return (v.difference, v.ci_low, v.ci_high) if v.difference >= 0 else (
        -v.difference, -v.ci_high, -v.ci_low
    )  # fmt: skip


def _label(lead: tuple[float, float, float]) -> str:
    return f"{lead[0] * 100:.1f} points, from {lead[1] * 100:.1f} to {lead[2] * 100:.1f}"


def interval(of: tuple[float, float, float], low: float, high: float, label: str, tone: str) -> str:
    """HTML: a difference and its limits as dot and bar on the scale from `low` to `high`, in the
    tone good, bad or that of text."""

    def place(value: float) -> float:
        return 4 + 92 * (value - low) / ((high - low) or 1)

    middle, start, end = map(place, of)
    return (
        f'<span class="interval {tone}" role="img" aria-label="{label}" '
        f'title="{label}" style="--zero:{place(0):.1f}%"><i style="left:{start:.1f}%;'
        f'width:{end - start:.1f}%"></i><b style="left:{middle:.1f}%"></b></span>'
    )


def score_table(found: Comparison) -> str:
    """HTML: each config with its colour, number of scored seeds and mean exact match."""
    rows = []
    # The best first; the colour of each is that of its curves.
    numbered = list(enumerate(found.groups))
    numbered.sort(key=lambda one: -(found.scores[one[1].name]["exact_match"] or 0))
    for number, group in numbered:
        score = found.scores[group.name]
        key = f'<span class="key" style="--key:var(--curve-{number % PALETTE + 1})"></span>'
        waiting = len(group.under_way)
        scored = f"{score['seeds']}"
        scored += f" of {score['seeds'] + len(group.lost)}" if group.lost else ""
        spread = "" if score["sd"] is None else f"{score['sd'] * 100:.1f} points"
        rows.append(
            [
                f"{key}{escape(group.name)}",
                ", ".join(
                    [scored] * bool(score["seeds"] or not waiting)
                    + [f"{waiting} under way"] * bool(waiting)
                ),
                percent(score["exact_match"]),
                spread,
                score["split"] if score["seeds"] else "",
            ]
        )
    head = {"Config": "", "Seeds scored": "num", "Exact match": "num", "SD over seeds": "num",
            "Split": "fit"}  # fmt: skip
    return html.table(head, rows, name="configs") + _constant(found)


def _constant(found: Comparison) -> str:
    """HTML: what exact match has to beat where few answers differ; empty where all do."""
    shares = {score["constant"] for score in found.scores.values() if score["seeds"]} - {None}
    if not shares:
        return ""
    told = ", ".join(percent(share) for share in sorted(shares))
    return f'<p class="quiet">Who always gives the most frequent answer has {told}.</p>'


def draw_next(found: Comparison) -> None:
    """Draw in what the configs differ, and a link to the words of the best two."""
    parts = []
    differing = [item for item in found.differing.items() if distinguishes(item[0])]
    for name, values in differing[:MAX_DIFFERING]:
        told = dict.fromkeys(setting_value(value, ".3g") for value in values.values())
        parts.append(f"{setting_labels.inline(name)} {' / '.join(told)}")
    text = f"They differ in {', '.join(parts)}." if parts else ""
    scored = [group for group in found.groups if found.scores[group.name]["seeds"]]
    scored.sort(key=lambda group: -(found.scores[group.name]["exact_match"] or 0))
    link = ""
    if len(scored) > 1:
        better, worse = scored[:2]
        query = {"run": worse.runs[0].id, "vs": better.runs[0].id}
        words = f"Words that {better.name} fixes and breaks against {worse.name}"
        link = navigation.link("errors", words, query)
    if text or link:
        st.html(f'<p class="quiet">{escape(text)} {link}</p>')


def draw_missing(found: Comparison) -> None:
    """Draw a button for each of up to four pairs of configs that more seeds would decide."""
    groups = {group.name: group for group in found.groups}
    open_ = [v for v in found.configs if v.more_seeds]
    with st.container(horizontal=True):
        for v in sorted(open_, key=lambda v: sum(v.more_seeds or ()))[:4]:
            totals = {}
            for name, more in zip((v.a, v.b), v.more_seeds or (), strict=True):
                group = groups[name]
                has = len(group.seeds) + more
                under_way = {run.config["training"]["seed"] for run in group.under_way}
                if len(group.seeds) + len(under_way) < has and group.runs[0].parent_id is None:
                    totals[group.runs[0].id] = (has, has - len(group.seeds) - len(under_way))
            if totals:
                missing = sum(more for _, more in totals.values())
                cost = _cost({run_id: more for run_id, (_, more) in totals.items()})
                guarded.button(
                    f"Launch {missing} {'seed' if missing == 1 else 'seeds'}{cost}: "
                    f"{html.label_text(v.a, 40)} against {html.label_text(v.b, 40)}",
                    key=f"launch {v.a} {v.b}",
                    on_click=launch_missing,
                    args=({run_id: total for run_id, (total, _) in totals.items()},),
                )


def _cost(more: Mapping[str, int]) -> str:
    """` (≈ 6 min)` of so many more runs like each of these; empty where it is not known."""
    with store.reading() as session:
        earlier = time_left.Earlier(session)
        took = {run.id: earlier.seconds(run) for run in store.runs_of(session, list(more))}
    known = [seconds * more[run_id] for run_id, seconds in took.items() if seconds is not None]
    return f" (≈ {duration(sum(known) / slot_count())})" if len(known) == len(more) else ""


def launch_missing(totals: Mapping[str, int]) -> None:
    """Launch seeds until each run's config has its total, and add them to the address.

    `totals` is {run id: seeds}. A second press finds the runs of the first and launches none.
    """
    shown, missing = list(st.query_params.get_all("run")), []
    with store.reading() as session:
        known = store.list_runs(session)
        for run_id, total in totals.items():
            (group,) = comparison.grouped([store.find(session, run_id)])
            there, new = comparison.up_to(group, known, total)
            shown += there
            missing += new
    shown += launcher.launch_all(missing)
    query_params.write("run", list(dict.fromkeys(shown)))
