"""The verdict of Compare, taken away, and its charts that are pointed at together, in Chromium."""

from typing import Any

import pytest

from tests.helpers.browser import inaccessible, still
from tests.helpers.store import MISSPELLED, fill_run

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


def configs() -> list[str]:
    """Three seeds each of two configs, of which one spells ten words more."""
    right = [(question, expected, expected) for question, expected, _ in MISSPELLED]
    return [
        fill_run(name=f"rank {rank}", lora__r=rank, training__seed=seed, words=words)
        for rank, words in ((4, MISSPELLED), (32, [*MISSPELLED[:2], *right[2:]]))
        for seed in (1, 2, 3)
    ]


def test_a_verdict_is_copied_in_words_and_as_a_picture(
    page: Any, panel: str, module_home: Any
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{panel}/compare?{'&'.join(f'run={run}' for run in configs())}")
    claim = page.locator(".verdict .claim")
    claim.filter(has_text="spells 2.5 points better").wait_for()
    still(page)
    # Each run's chip has the colour of its curves.
    colours = page.evaluate(
        "[...document.querySelectorAll('[data-tag]')].slice(0, 6)"
        ".map((chip) => getComputedStyle(chip).backgroundColor)"
    )
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1 and colours[0] != colours[3]
    for kind in ("Markdown", "SVG", "PNG"):
        page.get_by_role("button", name=f"Copy the verdict as {kind}").click()
        page.get_by_text(f"copied as {kind}").wait_for()
        if kind == "PNG":
            types = page.evaluate("navigator.clipboard.read().then((all) => all[0].types)")
            assert types == ["image/png"]
            continue
        copied = page.evaluate("navigator.clipboard.readText()")
        assert claim.inner_text().rstrip(".") in copied
        assert {"Markdown": "| rank 32 | ", "SVG": "<circle"}[kind] in copied
    # What is pointed at in one chart is told in all.
    plots = page.locator(".plot:has(.main-svg)")
    plots.first.scroll_into_view_if_needed()
    plots.first.hover()
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every((p) => p.querySelector('.hoverlayer text'))"
    )
    page.mouse.move(5, 5)
    page.wait_for_function("!document.querySelector('.plot .hoverlayer text')")
    assert not inaccessible(page, ".stMainBlockContainer")
