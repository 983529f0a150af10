"""The words of an evaluation as rows of a table, with the letters that differ marked.

What a model answers is untrusted text: it may hold HTML or control characters.
"""

from rapidfuzz.distance import Levenshtein

from src.panel.ui.html import printable

MAX_SHOWN = 200  # characters of a cell


def marked(expected: str, predicted: str) -> tuple[str, str]:
    """HTML of both, with the letters that differ marked: underlined, not only coloured."""
    expected, predicted = expected[:MAX_SHOWN], predicted[:MAX_SHOWN]
    here, there = "", ""
    for step in Levenshtein.opcodes(expected, predicted):
        was = printable(expected[step.src_start : step.src_end])
        now = printable(predicted[step.dest_start : step.dest_end])
        if step.tag == "equal":
            here, there = here + was, there + now
        else:
            here += f'<mark class="missed">{was}</mark>' if was else ""
            there += f'<mark class="wrong">{now}</mark>' if now else '<mark class="gap"></mark>'
    return f"<bdi>{here}</bdi>", f"<bdi>{there}</bdi>" if predicted else "<i>nothing</i>"
