"""A drawing of where the time of a sweep goes: how busy the GPU is, and what is recorded when."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP = 960, 110, 20, 44  # px
GPU_HEIGHT, ROW_HEIGHT = 90, 34  # px
INK, GRID, BUSY = "#24292f", "#d0d7de", "#0072b2"
COLOURS = {"steps": "#009e73", "scored": "#cc79a7", "saved": "#d55e00"}  # Okabe and Ito's
LABELS = {"steps": "Steps logged", "scored": "Evaluations", "saved": "Checkpoints"}


def write(
    file: Path,
    title: str,
    launched: float,
    wall: float,
    busy: Mapping[float, float],
    moments: Mapping[str, Sequence[float]],
) -> None:
    """Write FILE.json and FILE.svg: seconds since the launch; `busy` is the GPU's utilization in
    percent at its times, `moments` when each thing of COLOURS was recorded."""
    since = {at - launched: value for at, value in busy.items()}
    recorded = {name: sorted(at - launched for at in times) for name, times in moments.items()}
    told = {"title": title, "wall": wall, "gpu": since, "moments": recorded}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".json").write_text(json.dumps(told))
    file.with_suffix(".svg").write_text(drawing(title, wall, since, recorded))


def drawing(
    title: str, wall: float, busy: Mapping[float, float], moments: Mapping[str, Sequence[float]]
) -> str:
    """The drawing as SVG; its times are seconds since the launch."""

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / wall, 1)

    floor = TOP + GPU_HEIGHT
    height = floor + ROW_HEIGHT * len(moments) + 40
    parts = [
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}: {wall:.1f} s</text>',
        f'<text x="{LEFT - 10}" y="{floor - 38}" text-anchor="end">GPU busy, %</text>',
    ]
    every = next(size for size in (1, 2, 5, 10, 20, 50, 100, 10_000) if wall / size <= 12)
    for second in range(0, int(wall) + 1, every):
        parts += [
            f'<path d="M{x(second)} {TOP}V{height - 30}" stroke="{GRID}"/>',
            f'<text x="{x(second)}" y="{height - 12}" text-anchor="middle">{second} s</text>',
        ]
    if busy:
        line = " ".join(
            f"L{x(at)} {floor - GPU_HEIGHT * share / 100:.1f}" for at, share in sorted(busy.items())
        )
        ends = f"M{x(min(busy))} {floor}", f"L{x(max(busy))} {floor}Z"
        parts.append(f'<path d="{ends[0]} {line} {ends[1]}" fill="{BUSY}"/>')
    else:
        parts.append(f'<text x="{LEFT + 10}" y="{floor - 38}">no GPU</text>')
    parts.append(f'<path d="M{LEFT} {floor}H{WIDTH - RIGHT}" stroke="{INK}"/>')
    for place, (name, times) in enumerate(moments.items()):
        top = floor + ROW_HEIGHT * place
        marks = "".join(f"M{x(at)} {top + 8}v{ROW_HEIGHT - 14}" for at in times)
        parts += [
            f'<text x="{LEFT - 10}" y="{top + 24}" text-anchor="end">{LABELS[name]}</text>',
            f'<path d="{marks or "M0 0"}" stroke="{COLOURS[name]}" stroke-opacity="0.5"/>',
        ]
    style = f'font-family="sans-serif" font-size="12" fill="{INK}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {style}>'
    return "\n".join([opening, *parts, "</svg>\n"])
