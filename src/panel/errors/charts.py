"""Charts of misspellings in plain HTML, in which each bar and cell is a link that sets a filter.

So they work by keyboard, need no script, and the filter stands in the address.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, cast

import pandas as pd

from src.analysis import misspellings, paired
from src.analysis.kinds import KINDS
from src.panel.errors.links import FilterLinks
from src.panel.ui import html
from src.tasks import TASKS

# Of misspellings, and of the errors that a task tells by itself.
MEANINGS = {kind: text for task in TASKS.values() for kind, text in task.kinds.items()} | KINDS
SHADES = 5  # of heat map cells, in panel.css
NOTHING = '<i style="visibility:hidden"></i>'  # a bar of the length 0
FEW_WORDS = 5  # of one length; fewer of them are shaded less
MAX_LETTERS = 16  # of words in the map of places, which a phone has room for
MAX_WRITTEN = 12  # columns of the map of letters, which a phone has room for


def card(title: str, body: str, note: str = "", *, below: str = "") -> str:
    """HTML of a chart's frame: title, note (both plain text), body and what stands below (HTML)."""
    quiet = f'<span class="last quiet">{escape(note)}</span>' if note else ""
    head = f"<header><h3>{escape(title)}</h3>{quiet}</header>"
    return f'<section class="chart map">{head}<div class="wide">{body}</div>{below}</section>'


def grid(cards: Iterable[str]) -> str:
    """HTML: cards beside each other."""
    return f'<div class="charts">{"".join(cards)}</div>'


# --- kinds of error -------------------------------------------------------------------------------


def kinds(links: FilterLinks, counts: Mapping[str, int]) -> str:
    """HTML: a bar per kind of error, the most frequent first."""
    most = max(counts.values(), default=1)
    rows = []
    for kind, count in sorted(counts.items(), key=lambda item: -item[1]):
        bar = f'<i style="width:{count / most:.1%}"></i>'
        text = f"<span>{escape(kind)}</span><b>{bar}</b><em>{count:,}</em>"
        rows.append(links.link(text, f"{kind}: {count:,}{_meaning(kind)}", {"kind": kind}, "row"))
    return card("Kinds of error", "".join(rows), f"{sum(counts.values()):,} errors")


def kinds_beside(links: FilterLinks, before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """HTML: two bars per kind of error, the kind that grew most first."""
    most = max([*before.values(), *after.values(), 1])
    rows = []

    def order(kind: str) -> tuple[int, int, str]:
        a, b = before.get(kind, 0), after.get(kind, 0)
        return a - b, -a - b, kind

    for kind in sorted({*before, *after}, key=order):
        a, b = before.get(kind, 0), after.get(kind, 0)
        bars = f'<i class="before" style="width:{a / most:.1%}"></i>' if a else NOTHING
        bars += f'<i style="width:{b / most:.1%}"></i>' if b else NOTHING
        text = f"<span>{escape(kind)}</span><b>{bars}</b><em>{a:,} → {b:,} ({_signed(b - a)})</em>"
        title = f"{kind}: {a:,} in A, {b:,} in B{_meaning(kind)}"
        rows.append(links.link(text, title, {"kind": kind}, "row two"))
    legend = '<p class="hint legend"><i class="before"></i> A <i></i> B</p>'
    return card("Kinds of error, A and B", legend + "".join(rows))


def _meaning(kind: str) -> str:
    """The meaning of a kind of error in parentheses, where one is written down."""
    return f" ({MEANINGS[kind]})" if kind in MEANINGS else ""


def _signed(count: int) -> str:
    """`+3`, `−3` with a minus sign, `±0`."""
    return f"{count:+,}".replace("-", "−") if count else "±0"


def outcomes(links: FilterLinks, both: pd.DataFrame) -> str:
    """HTML: a bar per outcome of a word: fixed, broken and so on."""
    counts = {name: int((both["outcome"] == name).sum()) for name in paired.OUTCOMES}
    # Words that both have right are so many that the other bars would vanish beside theirs.
    *compared, right = counts
    most = max(1, *(counts[name] for name in compared))
    rows = []
    for name, count in counts.items():
        tone = {"fixed": "good", "broken": "bad"}.get(name, "")
        has_bar = count and name != right
        bar = f'<i class="{tone}" style="width:{count / most:.1%}"></i>' if has_bar else NOTHING
        text = f"<span>{escape(name)}</span><b>{bar}</b><em>{count:,}</em>"
        rows.append(links.link(text, f"{name}: {count:,} words", {"outcome": name}, "row"))
    return card("Outcome of the words", "".join(rows), f"{len(both):,} questions in both")


# --- letters --------------------------------------------------------------------------------------


def positions(links: FilterLinks, frame: pd.DataFrame, changes: pd.DataFrame) -> str:
    """HTML: a heat map of word length by place: the share of words whose letter there is wrong."""
    known = frame[frame["length"] <= MAX_LETTERS]
    longer = len(frame) - len(known)
    found = misspellings.position_map(known, changes)
    many = known["length"].value_counts()
    places = range(1, int(max(found.columns, default=0)) + 1)
    most = found.to_numpy().max(initial=0)
    rows = []
    for length, shares in cast("dict[int, dict[int, float]]", found.to_dict("index")).items():
        cells = []
        for place in places:
            share = float(shares.get(place, 0))
            if not share:
                cells.append("<td></td>" if place <= length else '<td class="out"></td>')
                continue
            title = f"{length} letters, place {place}: wrong in {share:.1%} of the words"
            if place > length:
                title = f"{length} letters, after the end: letters added in {share:.1%}"
            text = f"{share * 100:.0f}" if share >= 0.005 else "&lt;1"
            sets = {"length": length, "at": place}
            # A share of a handful of words is no pattern yet, and does not look like one.
            weight = min(1, int(many[length]) / FEW_WORDS)
            cells.append(_cell(links.link(text, title, sets, "cell"), weight * share / most))
        count = f"<small>× {int(many[length]):,}</small>"
        rows.append(f'<tr><th scope="row">{length} {count}</th>{"".join(cells)}</tr>')
    matrix = _matrix("letters ╲ place", places, rows)
    said = [_read_as(found, many)] if most > 0 else []
    said += [f"Not here: {longer:,} of more than {MAX_LETTERS} letters."] if longer else []
    told = f'<p class="hint">{" ".join(said)}</p>' if said else ""
    return card(
        "Place of the error, by word length", matrix, "% of the words of that length", below=told
    )


def _read_as(shares: pd.DataFrame, many: "pd.Series[int]") -> str:
    """A sentence that explains the map of places by the cell of the most words."""
    counts = shares.fillna(0).mul(many.reindex(shares.index), axis=0)
    length, place = cast("tuple[int, int]", counts.stack().idxmax())
    words = f"Of the {int(many[length]):,} words" if many[length] > 1 else "Of the only word"
    share = f"{shares.loc[length, place]:.0%} have" if many[length] > 1 else "it has"
    where = f"a wrong letter at place {place}"
    if place > length:
        where = "letters added at the end"
    text = f"{words} of {length} letters, {share} {where}."
    if (shares.columns > length).any() and place <= length:
        text += " A place behind the last letter is that of letters added."
    return text


def confusions(links: FilterLinks, changes: pd.DataFrame) -> str:
    """HTML: a heat map of expected letters (rows) by the letters written instead (columns)."""
    found = misspellings.confusions(changes)
    often = found.columns[found.sum().argsort(kind="stable")][::-1][:MAX_WRITTEN]
    rarer = len(found.columns) - len(often)
    found = found[[now for now in found.columns if now in often]]
    found = found[found.any(axis=1)]
    most = max(found.to_numpy().max(initial=0), 1)
    rows = []
    for was, counts in found.to_dict("index").items():
        cells = []
        for now, count in counts.items():
            if not count:
                cells.append("<td></td>")
                continue
            title = _change(str(was), str(now), int(count))
            pair = f"{was}>{now}"
            cell = links.link(str(count), title, {"letters": pair}, "cell")
            cells.append(_cell(cell, count / most))
        name = html.printable(str(was)) or '<span title="put in">+</span>'
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    heads = [html.printable(str(now)) or '<span title="left out">–</span>' for now in found.columns]
    return card(
        "Letters confused",
        _matrix("expected ╲ written", heads, rows),
        "– left out, + put in",
        below=f'<p class="hint">{_rarer(rarer)}</p>' if rarer else "",
    )


def _rarer(count: int) -> str:
    """A sentence that tells how many letters the map leaves out."""
    letters = "One letter is" if count == 1 else f"{count} letters are"
    return f"{letters} written less often, and left out here."


def _cell(link: str, share: float) -> str:
    """HTML: a cell of a heat map, shaded by its share of the highest value."""
    return f'<td class="shade-{min(int(share * SHADES) + 1, SHADES)}">{link}</td>'


def _change(was: str, now: str, count: int) -> str:
    """`a became e: 3`, `r left out: 2`, `s put in: 1`."""
    if not was:
        return f"{now} put in: {count:,}"
    return f"{was} became {now}: {count:,}" if now else f"{was} left out: {count:,}"


def _matrix(corner: str, heads: Iterable[Any], rows: Iterable[str]) -> str:
    """HTML of a heat map; `corner` is plain text, `heads` and `rows` are HTML."""
    titles = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(rows)
    if not body:
        return '<p class="quiet">No letters to compare.</p>'
    return (
        f'<table class="heat" style="--columns:{titles.count("<th")}">'
        f'<thead><tr><th class="corner">{escape(corner)}</th>{titles}</tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


# --- accuracy -------------------------------------------------------------------------------------


# Filter -> what one value of it means.
UNITS = {"length": "{} letters", "tokens": "{} tokens", "letter": "with {}", "task": "task {}"}


def accuracy(links: FilterLinks, title: str, name: str, table: pd.DataFrame) -> str:
    """HTML: a column per value of the filter `name`, as high as the share of right words."""
    columns = []
    for value, row in table.to_dict("index").items():
        share, count = float(row["right"]), int(row["words"])
        what = UNITS[name].format(value)
        if "share" in row:
            what += f" ({row['share']:.1%} of all letters)"
        text = f'<b><i style="height:{share:.1%}"></i></b>{html.printable(str(value))}'
        told = f"{what}: {share:.1%} of {count:,} right"
        columns.append(links.link(text, told, {name: value}, "column"))
    scale = '<span class="scale"><em>100%</em><em>50</em><em>0</em></span>'
    return card(title, f'<div class="columns">{scale}{"".join(columns)}</div>')
