"""Contrast, names and narrow windows of every page, in a real browser."""

from pathlib import Path

import pytest

from src import paths
from tests.helpers.browser import MAIN, inaccessible, reading, still, wait_for
from tests.helpers.store import fill_run, fill_sweep

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


def test_faint_words_would_be_found(page, panel):
    import axe_core_python

    page.goto(panel)
    page.wait_for_selector(f"{MAIN} >> :is(table.rows, .empty)")
    faint = '<p style="color:#bbb">faint words</p>'
    page.evaluate(f"document.querySelector('{MAIN}').insertAdjacentHTML('beforeend', '{faint}')")
    page.evaluate((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate(
        "axe.run(document, {runOnly: {type: 'rule', values: ['color-contrast']}})"
    )
    assert [n["html"] for v in found["violations"] for n in v["nodes"]] == [faint]


def test_contrast_and_names_hold_on_every_page_in_both_themes(browser, panel, ended, watched):
    broken = []
    other = fill_run(name="other", words=[("recieve", "receive", "receve")])
    sweep = fill_sweep(paths.CONFIGS / "sweeps" / "tiny.yaml")
    for address in (
        "/",
        f"/monitor?run={ended}",
        f"/monitor?run={watched}&view=Settings",
        f"/errors?run={ended}",
        f"/errors?run={ended}&map=Letters+and+lengths&word=recieve&kind=omission",
        f"/errors?run={ended}&vs={other}",
        f"/compare?run={ended}&run={other}",
        "/launch?lora.r=0",
        "/launch?lora.r=8",
        "/sweeps?space.lora.r=0",
        f"/sweeps?sweep={sweep}",
    ):
        with reading(browser, scheme="light") as page:
            page.goto(panel + address)
            page.wait_for_selector(f"{MAIN} >> :is(table.rows, .run-head, .stNumberInput, p.next)")
            still(page)
            broken += [(address, *wrong) for wrong in inaccessible(page)]
    assert not broken, "\n".join(map(str, broken))


@pytest.mark.parametrize("width", [800, 400])
def test_a_narrow_window_is_usable(browser, panel, ended, width):
    compared = f"/compare?run={ended}&run={fill_run(name='other', lora__r=8)}"
    pages = ("/", f"/monitor?run={ended}", f"/errors?run={ended}", "/launch", "/sweeps", compared)
    for address in pages:
        with reading(browser, width=width) as page:
            page.goto(panel + address)
            page.wait_for_selector(f"{MAIN} >> :is(table.rows, .run-head, .stNumberInput)")
            still(page)
            over = page.evaluate(
                "() => { const m = document.querySelector('[data-testid=stMain]');"
                " return m.scrollWidth - m.clientWidth; }"
            )
            assert over <= 1, (address, over)
            # A column of names holds words, not single letters: the table scrolls in its own box.
            narrowest = page.evaluate(
                "() => Math.min(160, ...[...document.querySelectorAll("
                "'table.rows td:not(.num, .fit)')].map(cell => cell.offsetWidth))"
            )
            assert narrowest >= 135, (address, narrowest)


# The element with the focus, where the bar of the Launch page lies over it.
COVERED = """() => {
  const one = document.activeElement, bar = document.querySelector('.st-key-launch-bar');
  const beside = !one.contains(bar) && !bar.contains(one);
  const {bottom} = one.getBoundingClientRect(), {top} = bar.getBoundingClientRect();
  return beside && bottom > top + 1 && bottom <= innerHeight ? [one.outerHTML.slice(0, 200)] : [];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_launch_is_at_hand_on_a_narrow_window_and_covers_nothing(browser, panel, scheme):
    with reading(browser, width=420, scheme=scheme) as page:
        page.goto(f"{panel}/launch")
        button = page.get_by_role("button", name="Launch", exact=True)
        wait_for(button.is_enabled, "the form can be launched")
        still(page)
        bar = page.locator(".st-key-launch-bar")
        box = bar.bounding_box()
        assert (box["x"], box["width"], box["y"] + box["height"]) == (0, 420, 900)
        assert box["height"] <= 100
        # Nothing that has the focus lies below the bar, on the way down to the button.
        hidden, presses = [], 0
        while not button.evaluate("b => b === document.activeElement"):
            page.keyboard.press("Tab")
            presses += 1
            assert presses < 200, "the keyboard does not come to the button"
            hidden += page.evaluate(COVERED)
        assert not hidden
        page.locator(".stMain").evaluate("m => m.scrollTo(0, m.scrollHeight)")
        last = page.get_by_role("button", name="As YAML")
        wait_for(
            lambda: last.bounding_box()["y"] + last.bounding_box()["height"] < box["y"],
            "the end of the page is above the bar",
        )
        page.goto(f"{panel}/launch?lora.r=0&training.max_steps=x")
        page.get_by_text("2 problems: Rank, Steps").wait_for()
        assert button.is_disabled()
    with reading(browser, scheme=scheme) as page:
        page.goto(f"{panel}/launch?lora.r=0")
        page.get_by_text("Before the launch:").wait_for()
        count, button = page.locator(".at-button"), page.locator("button[kind=primary]")
        assert count.inner_text() == "1 problem: Rank"
        end = button.bounding_box()["y"] + button.bounding_box()["height"]
        assert end < count.bounding_box()["y"] < end + 20


def test_the_menu_of_a_narrow_window_closes_behind_a_choice(browser, panel, ended):
    with reading(browser, width=420) as page:
        page.goto(panel)
        page.wait_for_selector("table.rows")
        page.get_by_test_id("stExpandSidebarButton").click()
        choice = page.get_by_test_id("stSidebarNavLink").filter(has_text="Compare")
        choice.click()
        page.get_by_text("Nothing chosen yet").wait_for()
        # It moves out of the window.
        wait_for(lambda: choice.bounding_box()["x"] < 0, "the menu closes")


def test_no_buttons_lie_on_a_chart_where_nothing_hovers(browser, panel, ended):
    context = browser.new_context(has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{panel}/monitor?run={ended}")
    page.wait_for_selector(".plot .main-svg")
    page.wait_for_timeout(500)
    assert page.locator(".modebar-btn").count() == 0
    context.close()
