"""The choice of a run, in Chromium: what it tells of each, also once that has changed."""

from typing import Any

import pytest

from src.store.tables import Status
from tests.helpers.browser import asked, still
from tests.helpers.store import end, fill_run

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


def opened(page: Any, label: str) -> list[str]:
    """The options of a list of runs, once it is open."""
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option").first.wait_for()
    return [str(text) for text in page.get_by_role("option").all_inner_texts()]


def test_runs_are_told_apart_and_a_choice_outlives_a_change_of_what_is_told(
    page: Any, panel: str
) -> None:
    first = fill_run(name="same", training__seed=1)
    second = fill_run(name="same", training__seed=2, status=Status.FAILED, reason="no memory")
    waits = fill_run(name="waits", status=Status.CANCELLED)
    page.goto(f"{panel}/monitor?run={first}")
    page.locator(".run-head").wait_for()
    still(page)
    options = opened(page, "Run")
    assert options[0] == "waits · seed 42 · cancelled"
    assert options[1].startswith("same · seed 2 · failed · ") and options[1].endswith("%")
    assert options[2].startswith("same · seed 1 · ") and options[2].endswith("%")
    page.keyboard.press("Escape")

    # The page still calls it "cancelled" when it is chosen, and does not when it is drawn.
    end(waits, Status.STOPPED)
    opened(page, "Run")
    page.get_by_role("option", name="waits").click()
    page.wait_for_url(f"**/monitor?run={waits}")
    still(page)
    assert page.get_by_role("combobox", name="Run").input_value() == "waits · seed 42 · stopped"
    # Nor does the browser's old text for the choice undo the next one.
    opened(page, "Run")
    page.get_by_role("option", name="same · seed 2").click()
    page.wait_for_url(f"**/monitor?run={second}")

    page.goto(f"{panel}/compare?run={first}&run={waits}")
    page.get_by_text("waits · seed 42 · stopped").wait_for()
    end(waits, Status.FAILED, "no memory")
    still(page)
    opened(page, "Runs")
    page.get_by_role("option", name="same · seed 2").click()
    page.get_by_text("waits · seed 42 · failed").wait_for()
    still(page)
    assert asked(page) == f"?run={first}&run={waits}&run={second}"
