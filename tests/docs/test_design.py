"""The panel's design as docs/design.md tells it is that of its style sheet."""

import re

from src.paths import ROOT

CSS = (ROOT / "src" / "panel" / "panel.css").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
SCALES = dict(re.findall(r"^  (--(?:text|space)-\w+|--radius): ([^;]+);", CSS, re.MULTILINE))


def test_the_page_names_each_step_of_the_scales_with_its_value() -> None:
    told = dict(
        re.findall(r"`(--(?:text|space)-\w+|--radius)`(?: \||,? is)? ([\d.]+(?:rem|px))", PAGE)
    )
    assert told == SCALES and len(SCALES) > 10


def test_the_page_names_each_colour() -> None:
    colours = set(re.findall(r"^  --([a-z]+): light-dark", CSS, re.MULTILINE))
    assert len(colours) > 8
    assert colours <= set(re.findall(r"`--([a-z]+)`", PAGE))


def test_each_size_and_each_gap_of_the_style_sheet_is_a_step_of_its_scale() -> None:
    sizes = set(re.findall(r"font-size: ([^;}]+)", CSS))
    assert {size.strip() for size in sizes} <= {f"var({name})" for name in SCALES if "text" in name}
    gaps = re.findall(r"[ {;]((?:padding|margin|gap)[a-z-]*): ([^;}]+)", CSS)
    # Room below a page for a bar over it is no gap.
    gaps = [
        gap for gap in gaps if gap not in (("padding-bottom", "8rem"), ("padding-bottom", "11rem"))
    ]
    assert len(gaps) > 100
    assert not [gap for gap in gaps if re.search(r"(?<![\w.-])-?[\d.]+(?:rem|px)", gap[1])]


def test_the_page_shows_each_file_of_the_shared_parts() -> None:
    for file in re.findall(r"`(src/panel/ui/\w+\.py)`", PAGE):
        assert (ROOT / file).is_file(), file
    assert len(set(re.findall(r"`src/panel/ui/(\w+)\.py`", PAGE))) > 10
