"""The trials of a sweep in Chromium: a table that is sorted, cards on a phone, and small curves."""

from typing import Any

import pytest

from src import paths, store
from src.runs.locks import FileLock
from src.store.tables import Status, SweepStatus
from tests.helpers.browser import asked, inaccessible, reading, still
from tests.helpers.store import end, fill_sweep, hold

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

TINY = paths.CONFIGS / "sweeps" / "tiny.yaml"
SCROLLS = (
    "[...document.querySelectorAll('.stMain, .wide')].map((e) => e.scrollWidth - e.clientWidth)"
)


@pytest.fixture(scope="module")
def sweep(module_home: Any) -> str:
    return fill_sweep(TINY, states={3: (Status.FAILED, "cuda_oom: out of memory")})


def test_trials_are_cards_on_a_phone(browser: Any, panel: str, sweep: str) -> None:
    with reading(browser, width=420) as page:
        page.goto(f"{panel}/sweeps?sweep={sweep}&view=Trials")
        table = page.locator("table.trials")
        table.wait_for()
        still(page)
        assert page.locator("canvas").count() == 0
        assert max(page.evaluate(SCROLLS)) <= 0
        card = table.locator("tbody tr").first
        label, value = card.locator('td[data-label="Rank"]').evaluate(
            "cell => [getComputedStyle(cell, '::before').content, cell.innerText]"
        )
        assert label == '"Rank"' and value.strip().isdecimal()
        # The heads are not seen, so no keyboard stops at them.
        assert not table.locator("thead a").first.is_visible()
        page.get_by_role("combobox", name="Order by").click()
        # The list draws what is in its view; typing narrows it.
        page.keyboard.type("Rank, highest")
        page.keyboard.press("Enter")
        page.wait_for_url("**sort=-lora.r*")
        page.locator('td[data-label="Rank"]').filter(has_text="32").first.wait_for()
        still(page)
        assert card.locator('td[data-label="Rank"]').inner_text().strip() == "32"
        assert not inaccessible(page, ".stMainBlockContainer")
        # A card is pressed anywhere.
        card.locator('td[data-label="Duration"]').click()
        page.wait_for_url("**/monitor?run=tiny-*")


def test_the_list_of_sweeps_follows_them_and_the_form_keeps_what_is_typed(
    browser: Any, panel: str
) -> None:
    # Nobody drives one that is paused.
    sweep = fill_sweep(TINY, trials=2, status=SweepStatus.PAUSED)
    with reading(browser) as page:
        page.goto(f"{panel}/sweeps")
        row = page.locator("table.sweeps tbody tr", has=page.locator(f'a[href*="{sweep}"]'))
        row.get_by_text("paused").wait_for()
        field = page.locator(".stMain .stTextInput input").first
        field.fill("half typed")
        with store.writing() as session:
            found = store.find_sweep(session, sweep)
            found.status = SweepStatus.CANCELLED
            session.add(found)
        row.get_by_text("cancelled").wait_for()
        still(page)
        assert field.input_value() == "half typed"


@pytest.mark.parametrize("width", [640, 1280])
def test_trials_are_found_sorted_and_opened_by_keyboard(
    browser: Any, panel: str, sweep: str, width: int
) -> None:
    with reading(browser, width=width) as page:
        page.set_viewport_size({"width": width, "height": 500})
        page.goto(f"{panel}/sweeps?sweep={sweep}&view=Trials")
        rows = page.locator("table.trials tbody tr")
        rows.first.wait_for()
        still(page)
        assert max(page.evaluate(SCROLLS)) <= 0
        if width > 640:
            head = page.locator("table.trials thead")
            rate = head.get_by_role("link", name="Learning rate", exact=True)
            right = rows.first.locator("td.num").first
            assert right.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
            rate.focus()
            page.keyboard.press("Enter")
            page.wait_for_url("**sort=training.learning_rate*")
            head.locator('[aria-sort="ascending"]', has_text="Learning rate").wait_for()
            still(page)
            rows.last.evaluate("row => row.scrollIntoView()")
            page.wait_for_function(
                "document.querySelector('table.trials tbody tr').getBoundingClientRect().top < 0"
            )
            assert 40 <= head.locator("th").first.bounding_box()["y"] < 120  # stays in view
        find = page.get_by_role("textbox", name="Find")
        find.fill("cuda_oom")
        find.press("Enter")
        page.get_by_text("1 of 24 trials").wait_for()
        still(page)
        assert rows.count() == 1
        page.keyboard.press("Tab")
        while not rows.first.evaluate("row => row.contains(document.activeElement)"):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/monitor?run=tiny-3*")
        page.go_back()
        page.get_by_text("1 of 24 trials").wait_for()
        assert "find=cuda_oom" in asked(page)


def test_each_trial_of_a_running_sweep_has_a_small_curve_that_goes_on(
    browser: Any, panel: str, module_home: Any
) -> None:
    states = {2: (Status.RUNNING, None), 3: (Status.RUNNING, None)}
    live = fill_sweep(TINY, trials=4, status=SweepStatus.ACTIVE, states=states)
    driver = FileLock(paths.driver_lock(live))
    assert driver.acquire()
    with store.reading() as session:
        runs = [r.id for r in store.list_trials(session, live) if r.status == Status.RUNNING]
    locks = [driver, *(hold(run) for run in runs)]

    def report(run: str, step: int, score: float) -> None:
        with store.writing() as session:
            store.record_metrics(session, run, 1, [(step, "val/exact_match", score, 1.0)])

    for step in (0, 50):
        for run in runs:
            report(run, step, step / 200)
    try:
        with reading(browser) as page:
            page.goto(f"{panel}/sweeps?sweep={live}")
            curves = page.locator("table.under-way .spark")
            curves.first.wait_for()
            assert curves.count() == 2
            # It has ink of the theme's colour: a mask that was not understood would be all of it.
            drawn = curves.first.evaluate(
                "(e) => [getComputedStyle(e).maskImage.slice(0, 24), e.offsetWidth, e.offsetHeight]"
            )
            assert drawn == ['url("data:image/svg+xml,', 88, 22]
            before = curves.first.get_attribute("style")
            report(runs[0], 100, 0.4)
            page.wait_for_function(
                "before => document.querySelector('table.under-way .spark')"
                ".getAttribute('style') !== before",
                arg=before,
            )
            assert not inaccessible(page, "table.under-way")
            # The table of all trials goes on by itself too.
            page.goto(f"{panel}/sweeps?sweep={live}&view=Trials")
            badges = page.locator("table.trials .badge.running")
            badges.first.wait_for()
            assert badges.count() == 2
            end(runs[1], Status.FAILED, "out of memory")
            page.locator("table.trials .badge.failed").wait_for()
    finally:
        for run in runs:
            end(run, Status.STOPPED)
        with store.writing() as session:  # else the panel drives it on
            store.find_sweep(session, live).status = SweepStatus.CANCELLED
        for lock in locks:
            lock.release()
