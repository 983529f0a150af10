"""The list of a thousand runs in a real browser: found, folded, chosen, and dealt with together."""

import pytest
from sqlalchemy import update

from src import store
from src.config import load_config
from src.runs import views
from src.store.tables import Run, Status
from tests.helpers.browser import MAIN, asked, inaccessible, reading, still, wait_for
from tests.helpers.store import end, fill_run, hold

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

RUNS, SEEDS = 1000, 4


@pytest.fixture(scope="module")
def thousand(module_home) -> list[str]:
    """Ids of 250 configs of four seeds each, every tenth run failed, the newest first."""
    base = load_config(preset="tiny-spell")
    ids, points = [], {}
    with store.writing() as session:
        for number in range(RUNS):
            group, seed = divmod(number, SEEDS)
            training = base.training.model_copy(update={"seed": seed})
            lora = base.lora.model_copy(update={"r": 1 + group})
            own = {"name": f"config {group}", "training": training, "lora": lora}
            run = store.enqueue(session, base.model_copy(update=own), now=1.7e9 + number)
            status = Status.FAILED if number % 10 == 0 else Status.COMPLETED
            times = {"started_at": run.created_at, "ended_at": run.created_at + 60}
            values = times | {"status": status, "step": 600, "reason": "ended by the test"}
            session.execute(update(Run).where(Run.id == run.id).values(**values))
            points[run.id, 1] = [(600, "val/exact_match", number / RUNS, run.created_at)]
            ids.append(run.id)
        store.record_points(session, points)
    return ids[::-1]


def rows(page, count: int) -> None:
    there = page.locator("table.runs tbody tr")
    wait_for(lambda: there.count() == count, f"{count} rows are shown", 60)


def test_runs_are_found_sorted_and_paged_by_the_address(page, panel, thousand):
    page.goto(panel)
    page.get_by_text("1 to 50 of 1,000 runs").wait_for()
    page.get_by_role("link", name="Next").click()
    page.get_by_text("51 to 100 of 1,000 runs").wait_for()
    page.get_by_role("textbox", name="Filter").fill("status:failed lora.r>200 val/exact_match>95%")
    page.keyboard.press("Enter")
    page.get_by_text("4 runs", exact=True).wait_for()
    head = page.get_by_role("link", name="Exact match")
    head.focus()
    page.keyboard.press("Enter")
    wait_for(lambda: "sort=val" in asked(page), "the order stands in the address")
    scores = page.locator('td[data-label="Accuracy (exact match)"]')
    wait_for(lambda: scores.first.inner_text() == "99.0%", "the best is first")
    page.get_by_role("link", name="Accuracy (exact match) ▼").click()
    wait_for(lambda: scores.first.inner_text() == "96.0%", "the worst is first")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    wait_for(lambda: scores.first.inner_text() == "96.0%", "the address leads to the same view")
    page.get_by_role("link", name="Clear the filter").click()
    page.get_by_text("1 to 50 of 1,000 runs").wait_for()
    page.get_by_role("link", name="failed 100").click()
    page.get_by_text("1 to 50 of 100 runs").wait_for()
    assert page.get_by_role("textbox", name="Filter").input_value() == "status:failed"


def test_seeds_are_folded_by_config_and_open(page, panel, thousand):
    page.goto(f"{panel}/?group=true&find=name:%22config+249%22")
    rows(page, 1)
    page.get_by_text("4 seeds").first.wait_for()
    score = page.locator('td[data-label="Accuracy (exact match)"]')
    assert score.inner_text() == "99.8% ± 0.1"  # of 996 to 999, 0.1 apart, of a thousand
    page.get_by_role("link", name="Show the 4 seeds of config 249").click()
    rows(page, 5)
    page.get_by_role("checkbox", name="Choose 4 seeds of config 249").check()
    page.get_by_text("4 runs chosen").wait_for()


def test_a_choice_outlives_filters_pages_and_errors_and_is_tagged_and_archived(
    page, panel, thousand
):
    page.goto(panel)
    page.get_by_role("checkbox", name="Choose all on this page").check()
    page.get_by_text("50 runs chosen").wait_for()
    filter = page.get_by_role("textbox", name="Filter")
    filter.fill("statsu:failed")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("did you mean 'status'?").wait_for()
    page.get_by_text("50 runs chosen").wait_for()
    filter.fill("lora.r<=10")
    page.keyboard.press("Enter")
    page.get_by_text("40 runs", exact=True).wait_for()
    page.get_by_text("50 runs chosen").wait_for()
    page.get_by_role("link", name="Choose all 40 that fit").click()
    page.get_by_text("40 runs chosen").wait_for()
    page.locator(".pick input").nth(1).uncheck()
    page.get_by_text("39 runs chosen").wait_for()
    page.get_by_role("button", name="Tag").click()
    page.get_by_label("Tags, with commas between").fill("small, keep")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_text("39 runs tagged small, keep.").wait_for()
    page.get_by_role("button", name="Archive", exact=True).last.click()
    page.get_by_text("39 runs archived.").wait_for()
    with store.reading() as session:
        assert len(store.states(session, store.parse_filter("archived:yes tag:small"))) == 39
        assert len(store.states(session, store.parse_filter("archived:no"))) == RUNS - 39


# The words of all buttons that are drawn in the colour of what can be pressed.
PRIMARY = """[...document.querySelectorAll('a.button, button[kind=primary]')]
  .filter((one) => getComputedStyle(one).backgroundColor === 'rgb(58, 83, 197)')
  .map((one) => one.innerText)"""


@pytest.mark.parametrize(
    ("count", "primary"), [(0, "Launch a run"), (1, "Launch a run"), (2, "Compare 2 runs")]
)
def test_one_button_is_primary_whatever_is_chosen(page, panel, thousand, count, primary):
    page.goto(f"{panel}/?" + "&".join(f"pick={run}" for run in thousand[:count]))
    page.get_by_text("1 to 50 of").wait_for()
    if count:
        page.get_by_role("link", name=f"Compare {count} run").wait_for()
    still(page)
    assert page.evaluate(PRIMARY) == [primary]


def test_a_deletion_asks_once_and_leaves_what_waits(page, panel, thousand):
    victims = [fill_run(name=f"victim {n}", training__seed=n) for n in range(2)]
    waits = fill_run(name="victim waits", status=Status.RUNNING, steps=5)
    lock = hold(waits)  # or the panel would end it: nobody trains it
    page.goto(f"{panel}/?find=victim&all=victim")
    page.get_by_text("3 runs chosen").wait_for()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("This deletes 2 runs and frees").wait_for()
    assert page.get_by_text(f"{waits} is ").count() >= 1
    page.get_by_role("button", name="Delete 2 runs").click()
    page.get_by_text("Deleted 2 runs.").wait_for()
    with store.reading() as session:
        assert [run.id for run in store.states_of(session, [*victims, waits])] == [waits]
    end(waits, Status.STOPPED)
    lock.release()


def test_a_view_is_saved_by_name(page, panel, thousand):
    page.goto(f"{panel}/?find=status:failed&sort=lora.r&pick={thousand[0]}")
    page.get_by_role("button", name="Views").click()
    page.get_by_label("Save this view as").fill("failed ones")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("link", name="failed ones").wait_for()
    assert views.saved() == {"failed ones": {"find": ["status:failed"], "sort": ["lora.r"]}}
    page.goto(panel)
    page.get_by_text("1 to 50 of").wait_for()
    page.get_by_role("button", name="Views").click()
    page.get_by_role("link", name="failed ones").click()
    wait_for(lambda: "status%3Afailed" in asked(page), "the view is opened")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_the_list_is_accessible_and_never_scrolls_sideways(browser, panel, thousand, width, scheme):
    address = f"{panel}/?find=config&pick={thousand[1]}&group=true&columns=tags&columns=lora.r"
    with reading(browser, width=width, scheme=scheme) as page:
        for shown in (address, f"{panel}/?find=nothing-fits", f"{panel}/?find=lr%3E&sort=zzz"):
            page.goto(shown)
            page.wait_for_selector(f"{MAIN} >> :is(table.runs, .empty)")
            still(page)
            over = "(m => m.scrollWidth - m.clientWidth)(document.querySelector('.stMain'))"
            assert page.evaluate(over) <= 1 and not inaccessible(page), shown
            boxes = "[...document.querySelectorAll('.wide')]"
            wide = f"{boxes}.filter(w => w.scrollWidth > w.clientWidth + 1).length"
            assert page.evaluate(wide) == 0 or width > 640
