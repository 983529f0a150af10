"""Answers letter by letter and texts token by token, as HTML.

What a model answers is untrusted text: it may hold HTML or control characters.
"""

from collections.abc import Iterable

from rapidfuzz.distance import Levenshtein

from src.panel.ui.html import printable

MAX_SHOWN = 200  # characters of a cell


def marked(expected: str, predicted: str) -> tuple[str, str]:
    """HTML of both, with the letters that differ marked: underlined, not only coloured."""
    expected, predicted = expected[:MAX_SHOWN], predicted[:MAX_SHOWN]
    left, right = "", ""
    for step in Levenshtein.opcodes(expected, predicted):
        was = printable(expected[step.src_start : step.src_end])
        now = printable(predicted[step.dest_start : step.dest_end])
        if step.tag == "equal":
            left, right = left + was, right + now
        else:
            left += f'<mark class="missed">{was}</mark>' if was else ""
            right += f'<mark class="wrong">{now}</mark>' if now else '<mark class="gap"></mark>'
    return f"<bdi>{left}</bdi>", f"<bdi>{right}</bdi>" if predicted else "<i>nothing</i>"


def pieces(tokens: Iterable[str]) -> str:
    """HTML: each token in its own box, its spaces and line ends to be seen."""
    boxes = "".join(f"<span>{printable(token).replace(' ', '·')}</span>" for token in tokens)
    return f'<div class="pieces">{boxes}</div>'
