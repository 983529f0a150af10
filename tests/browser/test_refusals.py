"""Forms that are refused, in Chromium: each problem at its field, and the list that leads there."""

from typing import Any

import pytest

from tests.helpers.browser import inaccessible, reading, still
from tests.helpers.store import fill_run, fill_usage

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


def told(field: Any) -> str:
    """What a screen reader reads after the name of the field; empty where nothing is refused."""
    return str(
        field.evaluate(
            """(input) => input.ariaInvalid === "true"
              ? document.getElementById(input.getAttribute("aria-describedby")).textContent : "" """
        )
    )


FRAME = '[data-testid="stTextInputRootElement"], [data-testid="stNumberInputContainer"]'


def border(field: Any) -> str:
    script = "(input, frame) => getComputedStyle(input.closest(frame)).borderColor"
    return str(field.evaluate(script, FRAME))


def tops(page: Any) -> tuple[float, float]:
    """Where a row below the first one begins, and the list below the data."""
    rank = page.get_by_role("spinbutton", name="Rank").bounding_box()
    return rank["y"], page.get_by_text("Find among").bounding_box()["y"]


def test_a_problem_is_tied_to_its_field_and_the_list_leads_there(page: Any, panel: str) -> None:
    page.goto(f"{panel}/launch")
    name = page.get_by_role("textbox", name="Name of the run")
    rate = page.get_by_role("textbox", name="Learning rate")
    page.get_by_text("tokens per row").wait_for()
    still(page)
    calm = border(name)
    below, last = tops(page)
    name.fill("")
    name.press("Tab")
    page.get_by_text("Is empty; give it a name.").first.wait_for()
    still(page)
    assert told(name) == "Is empty; give it a name." and border(name) != calm
    assert told(rate) == "" and border(rate) == calm
    assert page.get_by_text("is empty; give it a name").count() == 2  # at the field, in the list
    entry = page.get_by_role("link", name="Name of the run")
    assert entry.count() == 1 and entry.evaluate("a => a.closest('[role=alert]') !== null")
    # Neither the rows below nor what stands below the data has moved.
    assert tops(page) == pytest.approx((below, last), abs=1)
    assert inaccessible(page) == []

    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    entry.focus()
    entry.press("Enter")
    assert name.evaluate("input => input === document.activeElement")
    name.fill("mended")
    name.press("Tab")
    page.wait_for_function("!document.querySelector('.problem')")
    still(page)
    assert told(name) == "" and name.get_attribute("aria-describedby") is None


# From the top of the summary, as a field that is filled may scroll the page.
SUMMARY = """() => [...document.querySelectorAll(
    ".st-key-summary :is(button, label, p:is(.claim, .unknown), dl, dt, h3)"
  )].filter((one) => !/^(Undo|As |Check)/.test(one.innerText))
    .map((one) => [one.innerText.split("\\n")[0], one.getBoundingClientRect().top
      - document.querySelector(".st-key-summary").getBoundingClientRect().top])"""


@pytest.mark.parametrize("width", [1280, 900])
def test_a_list_of_problems_moves_nothing_of_what_will_be_launched(
    browser: Any, panel: str, module_home: Any, width: int
) -> None:
    fill_usage(fill_run(name="earlier"))  # tells what another run of the config takes
    with reading(browser, width=width) as page:
        page.goto(f"{panel}/launch?training.seed=7")
        page.get_by_text("341", exact=True).wait_for()  # steps per epoch: the data is read
        page.get_by_text("≈ 1 min 36 s here").last.wait_for()
        still(page)
        before = dict(page.evaluate(SUMMARY))
        assert {"Runs with different seeds", "epochs", "Changed from tiny-spell"} <= before.keys()
        rank, steps = (
            page.get_by_role("spinbutton", name=name, exact=True) for name in ("Rank", "Steps")
        )
        rank.fill("0")
        rank.press("Tab")
        page.get_by_text("1 problem: Rank").wait_for()
        steps.fill("0")
        steps.press("Tab")
        page.get_by_text("2 problems: Rank, Steps").wait_for()
        still(page)
        after = dict(page.evaluate(SUMMARY))
        moved = {name: (before[name], top) for name, top in after.items() if name in before}
        assert {"Measure what it takes", "epochs", "Changed from tiny-spell"} <= moved.keys()
        assert all(abs(was - now) <= 1 for was, now in moved.values()), moved
        # All of it is in view, with the list.
        entry = page.locator(".st-key-summary").get_by_role("link", name="Steps")
        page.locator(".stMain").evaluate("main => main.scrollTo(0, 0)")
        assert 0 < entry.bounding_box()["y"] < 880


def test_each_kind_of_field_of_either_form_is_led_to(page: Any, panel: str) -> None:
    wrong = "training.max_steps=0&scheduler.name=cosin&evaluation.batch_size=0"
    page.goto(f"{panel}/launch?{wrong}")
    page.locator(".problem").first.wait_for()
    still(page)
    for label, says in {
        "Steps": "Must be at least 1; got 0.",
        "Learning rate schedule": "did you mean 'cosine'?",
        "Batch size when scoring": "Must be at least 1; got 0.",
    }.items():
        page.get_by_role("link", name=label, exact=True).click()
        field = page.locator(":focus")
        assert says in told(field), label
    page.goto(f"{panel}/sweeps?space.lora.r=0, 8")
    page.locator(".problem").first.wait_for()
    still(page)
    page.get_by_role("link", name="Rank").click()
    assert "Must be at least 1; got 0." in told(page.locator(":focus"))
    assert page.locator(":focus").input_value() == "0, 8"
    page.goto(f"{panel}/sweeps?budget=a while")
    page.locator(".problem").first.wait_for()
    still(page)
    page.get_by_role("link", name="Budget").click()
    assert page.locator(":focus").input_value() == "a while"
    still(page)
    assert inaccessible(page) == []


FIELDS = """() => {
    const place = (one) => one.getBoundingClientRect().top;
    const page = place(document.querySelector(".stMainBlockContainer"));
    const labels = document.querySelectorAll('[class*="st-key-fields-"] label');
    return [...labels].map((label) => place(label) - page);
}"""


@pytest.mark.parametrize("width", [1280, 420])
def test_a_long_note_moves_no_row_and_is_read_whole_by_keyboard(
    browser: Any, panel: str, width: int
) -> None:
    with reading(browser, width=width) as page:
        page.goto(f"{panel}/launch")
        page.get_by_text("tokens per row").wait_for()
        still(page)
        before = page.evaluate(FIELDS)
        rate = page.get_by_role("textbox", name="Learning rate")
        rate.fill("0.5")
        rate.press("Tab")
        note = page.locator(".fold.note > summary")
        note.wait_for()
        still(page)
        assert page.evaluate(FIELDS) == pytest.approx(before, abs=1)
        # Of what fits in its two lines there is nothing to open, and nothing says that there is.
        assert page.locator("div.fold.hint").count() > 10
        cut = "folds => folds.filter(one => one.scrollHeight > one.clientHeight + 2).length"
        assert page.locator("div.fold > span").evaluate_all(cut) == 0
        page.locator("div.fold.hint").first.click()
        assert page.locator(".fold[open]").count() == 0

        short = note.bounding_box()["height"]
        note.focus()
        note.press("Enter")
        page.locator(".fold.note[open]").wait_for()
        whole = note.bounding_box()
        assert whole["height"] > short + 10 and whole["x"] + whole["width"] <= width
        assert note.evaluate("one => one.scrollHeight <= one.clientHeight + 2")
        assert "learns nothing" in note.inner_text()
        assert page.evaluate(FIELDS) == pytest.approx(before, abs=1)
        assert inaccessible(page) == []
        page.keyboard.press("Escape")
        assert page.locator(".fold[open]").count() == 0
        note.click()
        page.get_by_text("Training", exact=True).first.click()
        assert page.locator(".fold[open]").count() == 0


@pytest.mark.parametrize("width", [1280, 420])
def test_warnings_stand_at_the_button_and_lead_to_their_fields(
    browser: Any, panel: str, module_home: Any, width: int
) -> None:
    fill_usage(fill_run(name="earlier"))
    with reading(browser, width=width) as page:
        page.goto(f"{panel}/launch?training.seed=7")
        page.get_by_text("341", exact=True).wait_for()
        page.get_by_text("≈ 1 min 36 s here").last.wait_for()
        still(page)
        told, before = page.locator(".at-button"), dict(page.evaluate(SUMMARY))
        assert told.inner_text() == ""
        warmup = page.get_by_role("spinbutton", name="Warm-up")
        warmup.fill("9999")
        warmup.press("Tab")
        page.get_by_text("1 warning: Warm-up").wait_for()
        still(page)
        after = dict(page.evaluate(SUMMARY))
        moved = {name: (before[name], after[name]) for name in before if name in after}
        if width > 640:  # on a phone two changed settings are listed above
            assert all(abs(was - now) <= 1 for was, now in moved.values()), moved
        launch = page.get_by_role("button", name="Launch", exact=False).last
        page.locator(".stMain").evaluate("main => main.scrollTo(0, 0)")
        box, button = told.bounding_box(), page.locator("button[kind=primary]").bounding_box()
        assert launch.is_enabled() and abs(box["y"] - button["y"]) < 80 and 0 < box["y"] < 880
        told.get_by_role("link").click()
        assert warmup.evaluate("input => input === document.activeElement")
        assert inaccessible(page) == []
        # What is refused comes first.
        rank = page.get_by_role("spinbutton", name="Rank", exact=True)
        rank.fill("0")
        rank.press("Tab")
        page.get_by_text("1 problem: Rank").wait_for()
        assert "warning" not in told.inner_text()
