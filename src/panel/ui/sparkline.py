"""A curve as small as a word, for a cell of a table."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from urllib.parse import quote

import numpy as np

from src.panel.ui.points import thin

WIDTH, HEIGHT, EDGE = 88, 22, 2.5  # pixels
MAX_POINTS = 44  # one in two pixels

Line = Sequence[tuple[int, float]]  # steps and values


def limits(lines: Iterable[Line], *, is_share: bool) -> tuple[float, float]:
    """The lowest and the highest value of an axis that several lines share; of shares the lowest is
    0 and the highest at least a tenth."""
    values = [value for line in lines for _, value in line]
    if is_share:
        return 0.0, max([0.1, *values])
    return (min(values), max(values)) if values else (0.0, 1.0)


def draw(
    line: Line, last_step: int, ends: tuple[float, float], told: Callable[[float], str]
) -> str:
    """HTML: a line from step 0 to `last_step`, a dot at its end; it is empty before there are two
    points. `told` makes text of a value."""
    if len(line) < 2:
        return ""
    line = [line[place] for place in thin(np.array([value for _, value in line]), MAX_POINTS)]
    low, high = ends
    span = (high - low) or 1.0
    x = [EDGE + (WIDTH - 2 * EDGE) * min(1.0, step / max(last_step, 1)) for step, _ in line]
    y = [HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value - low) / span for _, value in line]
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    # A mask, which takes the colour of its theme: what st.html lets through has no SVG.
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">'
        f'<path d="M{path}" fill="none" stroke="#000" stroke-width="1.5" '
        'stroke-linejoin="round"/>'
        f'<circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="2.2"/></svg>'
    )
    (first, begin), (last, end) = line[0], line[-1]
    said = f"from {told(begin)} at step {first:,} to {told(end)} at step {last:,}"
    return (
        f'<span class="spark" role="img" aria-label="{escape(said)}" title="{escape(said)}" '
        f'style="width:{WIDTH}px;height:{HEIGHT}px;'
        f"--curve-picture:url('data:image/svg+xml,{quote(picture)}')\"></span>"
    )
