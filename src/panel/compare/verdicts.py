"""Verdicts on several configs, their scores, and buttons that launch the seeds still missing."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import streamlit as st

from src import store
from src.analysis import comparison
from src.analysis.comparison import Comparison, Group
from src.analysis.verdicts import Verdict
from src.config import ConfigError, distinguishes, stored_config
from src.format import as_sentence, duration, full_stop, points, settings_text
from src.panel.ui import guarded, html, navigation, query_params
from src.runs import cost, launcher, time_left
from src.store.tables import Run

MAX_DIFFERING = 5  # settings that are named; all are in the view Settings
MAX_PAIRS = 6  # that are shown whichever configs they are of
NEAR_ZERO = 0.18  # of an axis: an end so near is not written beside the 0
MAX_UNTESTED = 3  # untested pairs that are shown, not folded, if no more are tested
SEVERAL_LOOKS = (
    "Seeds that are launched together are one look; launching more once there are scores is "
    "another. Intervals and p-values allow for all looks, and are stricter at each: launch as many "
    "seeds at once as you can. About 5% of equal configs get a winner at any look, or fewer."
)


def verdict_table(found: Sequence[Verdict], order: Sequence[str] = ()) -> str:
    """HTML: each verdict with its lead and the lead's interval on one axis.

    The smallest p-value comes first (Holm-corrected), then the pair that stands first in `order`,
    the names from the best on. Of many pairs those of the first name are shown and the others
    folded, and so are pairs that could not be tested.
    """
    leader = next(iter(order), None)
    places = {name: place for place, name in enumerate(order)}
    found = sorted(
        found, key=lambda v: (_p_value(v), *sorted(places.get(n, 0) for n in (v.a, v.b)))
    )
    tested = [v for v in found if v.p_value is not None]
    untested = [v for v in found if v.p_value is None]
    shown, folded = tested, []
    if leader is not None and len(tested) > MAX_PAIRS:
        shown = [v for v in tested if leader in (v.a, v.b)]
        folded = [v for v in tested if leader not in (v.a, v.b)]
    room = max(0, MAX_UNTESTED - len(tested))
    table = _pairs([*shown, *untested[:room]])
    if folded:
        told = f"<summary>{len(folded):,} more pairs, without {escape(leader or '')}</summary>"
        table += f'<details class="untested">{told}{_pairs(folded)}</details>'
    if not untested[room:]:
        return table
    rest = "".join(f"<li>{_claim(v)}</li>" for v in untested[room:])
    told = f"<summary>{len(untested) - room:,} more pairs cannot be told apart yet</summary>"
    return f'{table}<details class="untested">{told}<ul>{rest}</ul></details>'


def _p_value(v: Verdict) -> float:
    return 2.0 if v.p_value is None else v.p_value


def _pairs(found: Sequence[Verdict]) -> str:
    """HTML: a row for each pair, and the axis of their intervals."""
    leads = [lead(v) for v in found]
    ends = [end for of_pair in leads if of_pair for end in of_pair]
    if found and not ends:
        return html.table({"Verdict": ""}, ([_claim(v)] for v in found), name="verdicts")
    low, high = min([0.0, *ends]), max([0.0, *ends])
    rows = [
        [
            _claim(v),
            interval(of, low, high, _label(of), "good" if v.winner else "") if of else "",
            f"{points(of[0])} points" if of else "–",
        ]
        for v, of in zip(found, leads, strict=True)
    ]
    if ends:
        rows.append(["", _axis(low, high), ""])
    head = {"Verdict": "", "Lead, points, 95% interval": "fit", "Lead": "num"}
    return html.table(head, rows, name="verdicts")


def _claim(v: Verdict) -> str:
    """HTML: what a verdict says, over what it says so by."""
    said, evidence = _parts(v)
    return f'<div class="claim">{escape(said)}</div>' + (
        f"<small>{escape(evidence)}</small>" if evidence else ""
    )


def _parts(v: Verdict) -> tuple[str, str]:
    """A verdict's claim, and the numbers behind it."""
    said, _, numbers = v.sentence.partition(" (95% CI ")
    said = as_sentence(said, (v.a, v.b))
    return said, full_stop(f"95% CI {numbers.replace(')', '', 1)}") if numbers else ""


def headline(found: Comparison) -> str:
    """HTML: the verdict on two configs over its interval, or on all in a sentence; empty while
    there is none."""
    if len(found.configs) != 1:
        if not found.summary:
            return ""
        names = [group.name for group in found.groups]
        claim = f'<p class="claim">{escape(as_sentence(found.summary, names))}</p>'
        return f'<section class="verdict">{claim}</section>'
    (v,) = found.configs
    said, evidence = _parts(v)
    text = f'<p class="claim">{escape(said)}</p>'
    if (of := lead(v)) is None:
        return f'<section class="verdict">{text}</section>'
    low, high = min(0.0, *of), max(0.0, *of)
    drawn = interval(of, low, high, _label(of), "good" if v.winner else "")
    note = f"<small>points of accuracy; {escape(evidence)}</small>"
    return (
        f'<section class="verdict">{text}<div class="on-axis">{drawn}{_axis(low, high)}{note}'
        "</div></section>"
    )


def _axis(low: float, high: float) -> str:
    """HTML: the ends and the zero of the axis of intervals, in points."""

    def at(value: float, text: str) -> str:
        return (
            f'<span style="left:{4 + 92 * (value - low) / ((high - low) or 1):.1f}%">{text}</span>'
        )

    ends = "".join(
        at(value, points(value, plus=True))
        for value in dict.fromkeys((low, high))
        if abs(value) > NEAR_ZERO * (high - low)
    )
    return f'<small class="axis" aria-hidden="true">{ends}{at(0, "0")}</small>'


def renamed(v: Verdict, names: Mapping[str, str]) -> Verdict:
    """The verdict on two runs with their names in the place of their ids."""
    claim = v.claim
    for run_id in sorted({v.a, v.b}, key=len, reverse=True):
        claim = claim.replace(run_id, names.get(run_id, run_id))
    return replace(v, a=names.get(v.a, v.a), b=names.get(v.b, v.b), claim=claim)


def lead(v: Verdict) -> tuple[float, float, float] | None:
    """Lead of the better side and its confidence limits, as fractions; None if untested."""
    if v.difference is None or v.ci_low is None or v.ci_high is None:
        return None
    return (v.difference, v.ci_low, v.ci_high) if v.difference >= 0 else (
        -v.difference, -v.ci_high, -v.ci_low
    )  # fmt: skip


def _label(of: tuple[float, float, float]) -> str:
    return f"{points(of[0])} points, from {points(of[1])} to {points(of[2])}"


def interval(of: tuple[float, float, float], low: float, high: float, label: str, tone: str) -> str:
    """HTML: a difference and its limits as dot and bar on the scale from `low` to `high`, in the
    tone good, bad or that of text.

    `label` is for who cannot see it: whatever else is to be known stands beside it in words.
    """

    def place(value: float) -> float:
        return 4 + 92 * (value - low) / ((high - low) or 1)

    middle, start, end = map(place, of)
    return (
        f'<span class="interval {tone}" role="img" aria-label="{label}" '
        f'style="--zero:{place(0):.1f}%"><i style="left:{start:.1f}%;'
        f'width:{end - start:.1f}%"></i><b style="left:{middle:.1f}%"></b></span>'
    )


def ranked(found: Comparison) -> list[Group]:
    """The configs, the one with the best score first."""
    return sorted(found.groups, key=lambda g: -(found.scores[g.name]["exact_match"] or 0))


def by_evidence(found: Comparison) -> list[Verdict]:
    """The verdicts on configs, the smallest p-value first."""
    return sorted(found.configs, key=_p_value)


def differing(found: Comparison, group: Group) -> str:
    """The settings of a config in which these configs differ: `rank 16, learning rate 0.004`."""
    rows = {name: row for name, row in found.differing.items() if distinguishes(name)}
    values = {name: row[group.runs[0].id] for name, row in rows.items()}
    return settings_text(values, most=MAX_DIFFERING)


def words_link(found: Comparison) -> str:
    """HTML: a link to the words of the best two configs beside each other; empty where fewer were
    scored."""
    scored = [group for group in ranked(found) if found.scores[group.name]["seeds"]]
    if len(scored) < 2:
        return ""
    better, worse = scored[:2]
    query = {"run": worse.runs[0].id, "vs": better.runs[0].id}
    words = f"Words that {better.name} fixes and breaks against {worse.name}"
    return navigation.link("errors", words, query)


def draw_missing(found: Comparison) -> None:
    """Draw a button for each of up to four pairs of configs that more seeds would decide: those of
    the fewest seeds first, then of the best configs."""
    groups = {group.name: group for group in found.groups}
    open_ = [v for v in found.configs if v.more_seeds]
    places = {group.name: place for place, group in enumerate(ranked(found))}
    open_.sort(key=lambda v: (sum(v.more_seeds or ()), places[v.a] + places[v.b]))
    with st.container(horizontal=True):
        for v in open_[:4]:
            totals = {}
            for name, more in zip((v.a, v.b), v.more_seeds or (), strict=True):
                group = groups[name]
                if not _can_be_launched(group.runs[0]):
                    continue
                has = len(group.seeds) + more
                under_way = {run.config["training"]["seed"] for run in group.under_way}
                if len(group.seeds) + len(under_way) < has and group.runs[0].parent_id is None:
                    totals[group.runs[0].id] = (has, has - len(group.seeds) - len(under_way))
            if totals:
                missing = sum(more for _, more in totals.values())
                told = _cost({run_id: more for run_id, (_, more) in totals.items()})
                guarded.button(
                    f"Launch {missing} {'seed' if missing == 1 else 'seeds'}{told}: "
                    f"{html.label_text(v.a, 40)} against {html.label_text(v.b, 40)}",
                    key=f"launch {v.a} {v.b}",
                    on_click=launch_missing,
                    args=({run_id: total for run_id, (total, _) in totals.items()},),
                )


def _can_be_launched(run: Run) -> bool:
    """False for a run with a setting that this version does not know."""
    try:
        stored_config(run.config)
    except ConfigError:
        return False
    return True


def _cost(more: Mapping[str, int]) -> str:
    """` (≈ 6 min, 0.20 EUR)` of so many more runs like each of these, without a price the time
    alone; that it is not known yet where none like them ran here."""
    with store.reading() as session:
        configs = [
            config
            for run in store.runs_of(session, list(more))
            for config in [stored_config(run.config)] * more[run.id]
        ]
        needed = time_left.Earlier(session).of_all(configs)
    if needed is None:
        return " (time not known yet)"
    prices = [price for _, price in cost.taken(needed.machine_seconds, None)]
    return f" (≈ {', '.join([duration(needed.seconds), *prices])})"


_launching = threading.Lock()


def launch_missing(totals: Mapping[str, int]) -> None:
    """Launch seeds until each run's config has its total, and add them to the address.

    `totals` is {run id: seeds}. A second press finds the runs of the first and launches none.
    """
    shown, missing = list(st.query_params.get_all("run")), []
    with _launching:  # that of another tab too
        with store.reading() as session:
            known = store.list_runs(session)
            for run_id, total in totals.items():
                (group,) = comparison.grouped([store.find(session, run_id)])
                there, new = comparison.up_to(group, known, total)
                shown += there
                missing += new
        shown += launcher.launch_all(missing)
    query_params.write("run", list(dict.fromkeys(shown)))
