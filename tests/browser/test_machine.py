"""The Machine page and what other pages tell of the machine, in a real browser beside a GPU that a
library plays."""

import pytest

from src import store
from src.config import load_machine
from src.panel.monitor import health
from tests.helpers.browser import MAIN, asked, inaccessible, reading, serving, still, wait_for
from tests.helpers.nvml import FULL, FakeNvml
from tests.helpers.store import fill_run, fill_usage

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nvml(tmp_path_factory):
    return FakeNvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def panel(module_home, nvml):
    with serving(module_home, **nvml.environment) as address:
        yield address


def fact(page, name):
    """The value below a label."""
    return page.locator(f"dl.facts div:has(> dt:text-is('{name}')) dd").first


def test_meters_are_live_and_a_price_makes_money_of_time(browser, panel, nvml, page):
    nvml.show(FULL)
    run_id = fill_run(name="paid")
    fill_usage(run_id)
    page.goto(panel)
    line = page.locator("p.meters")
    line.get_by_text("GPU 87% · 30.0 of 150 GiB · 400 W · 61 °C").wait_for()
    assert "USD" not in line.inner_text()
    line.get_by_role("link", name="Machine").click()
    page.get_by_role("heading", name="GPU · NVIDIA Test").wait_for()
    wait_for(lambda: fact(page, "power").inner_text() == "400 W", "the power")
    nvml.show(FULL | {"power": 123_000, "utilization": 4})
    wait_for(lambda: fact(page, "power").inner_text() == "123 W", "the power changes by itself")
    assert fact(page, "utilization").inner_text() == "4%"
    # By the keyboard alone: a price that is none, then a price and a budget.
    price = page.get_by_role("textbox", name="Price per hour")
    price.focus()
    page.keyboard.type("cheap")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("takes a number").wait_for()
    assert load_machine().price_per_hour is None
    price.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("360")
    page.keyboard.press("Tab")
    page.get_by_role("textbox", name="Budget").focus()
    page.keyboard.type("1000000")
    page.keyboard.press("Enter")
    wait_for(lambda: fact(page, "left").count() == 1, "the money is shown")
    assert load_machine().price_per_hour == 360 and load_machine().budget == 1e6
    wait_for(lambda: not page.get_by_role("alert").count(), "the form is drawn after the meters")
    assert fact(page, "left").inner_text().endswith(" USD")
    still(page)
    assert not inaccessible(page)
    # What the run took, and what the machine did meanwhile.
    page.goto(f"{panel}/monitor?run={run_id}")
    with store.reading() as session:
        seconds = store.find(session, run_id).machine_seconds
    assert fact(page, "cost").inner_text() == f"{seconds / 10:.2f} USD"
    assert fact(page, "energy").inner_text().endswith("Wh")
    page.locator('.chart[data-title="GPU power"] .main-svg').first.wait_for()
    meters = [page.locator(f'.chart[data-title="{one.title}"]').count() for one in health.CHARTS]
    assert sum(meters) == 6
    assert asked(page) == f"?run={run_id}"
    still(page)
    assert not inaccessible(page)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser, panel, nvml):
    nvml.show(FULL | {"count": 2})
    for address in ("/machine", "/"):
        with reading(browser, width=420) as page:
            page.goto(panel + address)
            page.wait_for_selector(f"{MAIN} >> :is(table.rows, dl.facts)")
            page.get_by_text("GPU 1").first.wait_for()
            still(page)
            over = page.evaluate(
                "() => { const m = document.querySelector('[data-testid=stMain]');"
                " return m.scrollWidth - m.clientWidth; }"
            )
            assert over <= 1, (address, over)
