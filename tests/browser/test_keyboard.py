"""All pages by keyboard alone: where the Tab key leads, what has the focus, and what keys do."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from src import paths
from src.store.tables import Status
from tests.helpers.browser import MAIN, still
from tests.helpers.store import fill_run, fill_sweep

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

MENU = ("Overview", "Launch", "Monitor", "Compare", "Errors", "Try", "Sweeps", "Machine")
MOST_STOPS = 90  # of a page, from its first link to its last field

# What has the focus: its name, whether it is in view, and whether what had the focus before looks
# otherwise now.
STOP = """() => {
  for (const animation of document.getAnimations()) animation.finish();
  const before = window.left, one = document.activeElement;
  // A list of several has one frame around its field and its buttons.
  const isSame = before?.one.closest('[data-testid="stMultiSelect"]')?.contains(one);
  const shown = !before || isSame || before.look() !== before.focused;
  if (!one || one === document.body) return { shown };
  const around = [one];  // a field's frame is drawn by what is around it
  for (let e = one; around.length < 7 && (e = e.parentElement); ) around.push(e);
  const look = () => around.map((e) => {
    const style = getComputedStyle(e);
    return [style.outline, style.boxShadow, style.borderColor, style.backgroundColor].join();
  }).join();
  window.left = { one, look, focused: look() };
  const { top, bottom, left, right } = one.getBoundingClientRect();
  const header = document.querySelector('[data-testid="stHeader"]').getBoundingClientRect().bottom;
  const isBelow = Boolean(one.closest('[data-testid="stMain"]')) && one.tagName !== "MAIN";
  const name = one.ariaLabel || one.labels?.[0]?.innerText || one.innerText || one.title;
  return {
    shown, name: (name || "").trim().split("\\n")[0], html: one.outerHTML.slice(0, 120),
    seen: bottom > 0 && top < innerHeight && right > 0 && left < innerWidth
          && (!isBelow || top >= header - 1 || bottom - top > 200),
  };
}"""


@pytest.fixture(scope="module")
def places(module_home: Path) -> dict[str, str]:
    """Addresses by what they show: runs of two configs, one that failed, a sweep."""
    runs = [
        fill_run(name=name, lora__r=rank, training__seed=seed)
        for name, rank in (("low", 4), ("high", 16))
        for seed in (1, 2)
    ]
    failed = fill_run(name="broken", status=Status.FAILED, steps=100, reason="out of memory")
    sweep = fill_sweep(paths.CONFIGS / "sweeps" / "tiny.yaml", trials=4)
    chosen = "&".join(f"run={run}" for run in runs)
    return {
        "Overview": f"/?pick={runs[0]}&pick={runs[2]}",
        "Launch": "/launch?training.learning_rate=0.5",
        "Monitor": f"/monitor?run={runs[0]}",
        "Monitor of a failed run": f"/monitor?run={failed}&view=Checkpoints",
        "Compare": f"/compare?{chosen}",
        "Errors": f"/errors?run={runs[0]}&vs={runs[2]}",
        "Try": f"/try?run={runs[0]}",
        "Sweeps": "/sweeps",
        "A sweep": f"/sweeps?sweep={sweep}",
        "Machine": "/machine",
    }


def stops(page: Any) -> Iterator[dict[str, Any]]:
    """Each place that the Tab key leads to; without a name once it has left the page."""
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        yield (stop := page.evaluate(STOP))
        if "name" not in stop:
            return
    raise AssertionError(f"more than {MOST_STOPS} stops of the Tab key")


def test_the_tab_key_leads_through_every_page_and_what_has_the_focus_is_seen(
    page: Any, panel: str, places: dict[str, str]
) -> None:
    wrong = []
    for called, address in places.items():
        page.goto(panel + address)
        page.wait_for_selector(f"{MAIN} :is(table.rows, .run-head, .facts, input):visible")
        still(page)
        names = []
        for stop in stops(page):
            if not stop["shown"]:
                wrong.append((called, "the focus is not seen", names[-1]))
            if "name" in stop and not (stop["seen"] and stop["name"]):
                wrong.append((called, "out of view or without a name", stop))
            names.append(stop.get("name", ""))
        assert names[0].startswith("Skip to main"), called
        missed = set(MENU) - set(names)
        assert not missed, (called, missed)
    assert not wrong, "\n".join(map(str, wrong))


def focus(page: Any, name: str) -> None:
    """Press Tab until what is called so has the focus; behind the end of the page it begins
    anew."""
    still(page)
    passed = []
    for stop in chain(stops(page), stops(page)):
        if stop.get("name", "").startswith(name):
            return
        passed.append(stop.get("name", ""))
    raise AssertionError(f"the Tab key never came to {name}, only to {passed}")


def test_a_walk_by_keys_alone(page: Any, panel: str, places: dict[str, str]) -> None:
    page.goto(panel)
    page.wait_for_selector("table.runs")
    # Two runs are chosen by Space, in the order of the table, and compared by Enter.
    for name in ("Choose low · seed 1", "Choose high · seed 1"):
        page.get_by_role("checkbox", name=name).focus()
        page.keyboard.press("Space")
        page.get_by_text("chosen").first.wait_for()
        still(page)
    page.get_by_text("2 runs chosen").wait_for()
    page.get_by_role("link", name="Compare 2 runs").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?**")
    page.locator(".verdict").wait_for()

    # The menu, a list that opens by an arrow key and closes by Escape, a tab by an arrow key.
    focus(page, "Monitor")
    page.keyboard.press("Enter")
    page.wait_for_selector(".run-head")
    focus(page, "Run")
    page.keyboard.press("ArrowDown")
    page.get_by_role("option", name="broken").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("option", name="broken").wait_for(state="detached")
    page.get_by_role("radio", name="Log").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.get_by_role("radio", name="Checkpoints", checked=True).wait_for()
    page.wait_for_url("**view=Checkpoints**")

    # A popover by Enter; Escape closes it, and the focus is at its button again.
    delete = page.get_by_role("button", name="Delete").first
    delete.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Delete this run").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete this run").wait_for(state="detached")
    assert delete.evaluate("one => one === document.activeElement")
