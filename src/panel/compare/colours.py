"""The colour of a config beside its name: that of its curves, and dashed where it comes again."""

from src.panel.compare.curves import DASHES
from src.panel.ui.charts import PALETTE


def swatch(place: int) -> str:
    """HTML: the line of the config that stands at this place, from 0."""
    return (
        f'<span class="key" data-dash="{_dash(place)}" '
        f'style="--key:var(--curve-{place % PALETTE + 1})"></span>'
    )


def chip(place: int) -> str:
    """CSS of the chip of a run of the config that stands at this place."""
    edge = {"dash": "dashed", "dot": "dotted"}.get(_dash(place))
    line = f"; outline: 2px {edge} var(--page); outline-offset: -3px" if edge else ""
    return f"background: var(--curve-{place % PALETTE + 1}){line}"


def _dash(place: int) -> str:
    return DASHES[place // PALETTE % len(DASHES)]
