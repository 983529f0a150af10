"""The scores of several configs as a table."""

from html import escape

from src.analysis.comparison import Comparison, Group
from src.format import capital, percent, spread
from src.models.metrics import METRICS
from src.panel.compare import colours, verdicts
from src.panel.ui import html, navigation

MAX_CONFIGS = 10  # whose scores are in view on a page; the others are folded


def score_table(found: Comparison, *, on_page: bool = False) -> str:
    """HTML: each config with its colour, number of scored seeds and mean exact match, the best one
    first. On a page of the panel names lead to runs, and of many configs the others are folded."""
    order = verdicts.ranked(found)
    has_spread = any(found.scores[group.name]["sd"] is not None for group in order)
    head = {"Config": "", "Seeds scored": "num", capital(METRICS["exact_match"].title): "num"}
    head |= {"SD over seeds (points)": "num"} if has_spread else {}
    head |= {"Split": "fit"}
    places = {group.name: place for place, group in enumerate(found.groups)}
    names = {group.name: _linked(group) if on_page else escape(group.name) for group in order}
    rows = [
        _row(found, group, names[group.name], places[group.name], has_spread) for group in order
    ]
    if not on_page or len(rows) <= MAX_CONFIGS + 2:
        return html.table(head, rows, name="configs") + _constant(found)
    shown, rest = rows[:MAX_CONFIGS], rows[MAX_CONFIGS:]
    told = f"<summary>{len(rest):,} more configs</summary>"
    folded = f'<details class="untested">{told}{html.table(head, rest, name="configs")}</details>'
    return html.table(head, shown, name="configs") + folded + _constant(found)


def _row(found: Comparison, group: Group, name: str, place: int, has_spread: bool) -> list[str]:
    """Cells of a config; `name` is HTML."""
    score = found.scores[group.name]
    settings = verdicts.differing(found, group)
    told = f"<small>{escape(settings)}</small>" if settings else ""
    waiting = len(group.under_way)
    scored = f"{score['seeds']}"
    scored += f" of {score['seeds'] + len(group.lost)}" if group.lost else ""
    seeds = [scored] * bool(score["seeds"] or not waiting)
    seeds += [f"{waiting} under way"] * bool(waiting)
    sd = [] if not has_spread else [spread(score["sd"], is_share=True)]
    return [
        f"{colours.swatch(place)}{name}{told}",
        ", ".join(seeds),
        percent(score["exact_match"]),
        *sd,
        score["split"] if score["seeds"] else "",
    ]


def _linked(group: Group) -> str:
    """HTML: the name of a config, which leads to its run or, of several seeds, to each of them."""
    if len(group.runs) == 1:
        return navigation.link("monitor", group.name, {"run": group.runs[0].id})
    seeds = " ".join(
        navigation.link("monitor", str(seed), {"run": run.id}, label=f"{group.name}, seed {seed}")
        for run in group.runs
        for seed in [run.config["training"]["seed"]]
    )
    return f'{escape(group.name)}<span class="seeds">seeds {seeds}</span>'


def _constant(found: Comparison) -> str:
    """HTML: what exact match has to beat where few answers differ; empty where all do."""
    shares = {score["constant"] for score in found.scores.values() if score["seeds"]} - {None}
    if not shares:
        return ""
    told = ", ".join(percent(share) for share in sorted(shares))
    return f'<p class="quiet">Always giving the most frequent answer scores {told}.</p>'
