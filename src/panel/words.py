"""The words of an evaluation as a reader wants them: found, sorted, marked, and as files.

What a model answers is untrusted text: it may hold HTML, control characters or a formula.
"""

import csv
import io
from html import escape

import pandas as pd
from rapidfuzz.distance import Levenshtein

COLUMNS = ["question", "expected", "predicted", "correct", "edit_distance"]
LONGEST_SHOWN = 200  # characters of a cell

# Title of an order -> column and whether it ascends.
ORDERS = {
    "most edits": ("edit_distance", False),
    "fewest edits": ("edit_distance", True),
    "question, A to Z": ("question", True),
    "expected, A to Z": ("expected", True),
}
DISTANCES = {"any": (0, None), "1": (1, 1), "2": (2, 2), "3": (3, 3), "4 or more": (4, None)}


def select(
    frame: pd.DataFrame, *, every: bool, text: str, distance: str, order: str
) -> pd.DataFrame:
    """The wrong words, or `every` word, whose question, answer or prediction holds `text`."""
    kept = frame if every else frame[~frame["correct"]]
    low, high = DISTANCES[distance]
    kept = kept[kept["edit_distance"].between(low, high if high is not None else float("inf"))]
    if text.strip():
        wanted = text.strip().casefold()
        columns = [kept[c].str.casefold() for c in ("question", "expected", "predicted")]
        found = [c.str.contains(wanted, regex=False) for c in columns]
        kept = kept[found[0] | found[1] | found[2]]
    column, ascending = ORDERS[order]
    return kept[COLUMNS].sort_values(
        [column, "question"], ascending=[ascending, True], kind="stable", ignore_index=True
    )


def marked(expected: str, predicted: str) -> tuple[str, str]:
    """HTML of both, with the letters that differ marked: underlined, not only coloured."""
    expected, predicted = expected[:LONGEST_SHOWN], predicted[:LONGEST_SHOWN]
    here, there = "", ""
    for step in Levenshtein.opcodes(expected, predicted):
        was = shown(expected[step.src_start : step.src_end])
        now = shown(predicted[step.dest_start : step.dest_end])
        if step.tag == "equal":
            here, there = here + was, there + now
        else:
            here += f'<mark class="missed">{was}</mark>' if was else ""
            there += f'<mark class="wrong">{now}</mark>' if now else '<mark class="gap"></mark>'
    return f"<bdi>{here}</bdi>", f"<bdi>{there}</bdi>" if predicted else "<i>nothing</i>"


def shown(text: str) -> str:
    """HTML of untrusted text in which what cannot be printed is spelled out."""
    return escape("".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text))


def to_csv(frame: pd.DataFrame) -> str:
    """CSV in which no cell is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows([_harmless(cell) for cell in row] for row in frame.itertuples(index=False))
    return out.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    risky = cell.startswith(("\t", "\r", "\n")) or cell.lstrip()[:1] in ("=", "+", "-", "@")
    return f"'{cell}" if risky else cell


def to_json(frame: pd.DataFrame) -> str:
    """The document of `spelltune errors --json`."""
    return frame.to_json(orient="records", indent=2, force_ascii=False)
