"""What stands where in a small window, and the log of a run, in Chromium."""

import string
from pathlib import Path
from typing import Any

import pytest

from src import paths
from src.store.tables import Status
from tests.helpers.browser import inaccessible, reading, serving, still
from tests.helpers.store import fill_run, fill_sweep
from tests.helpers.sweeps import TINY

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

LOG = """step 1: train/loss 2
FutureWarning: this will go
Traceback (most recent call last):
  File "a.py", line 3
RuntimeError: out of memory
"""


def top(found: Any) -> float:
    return float(found.bounding_box()["y"])


def test_the_words_of_a_run_stand_below_its_loss_and_above_its_diagnostics(
    browser: Any, panel: str, ended: str
) -> None:
    with reading(browser, width=420) as page:
        page.goto(f"{panel}/monitor?run={ended}")
        words = page.locator(".words-now")
        words.wait_for()
        page.wait_for_function("document.querySelectorAll('.main-svg').length")
        still(page)
        loss = page.locator('.chart[data-title="Loss"]')
        health = page.get_by_role("heading", name="Diagnostics")
        assert top(loss) < top(words) < top(health)
        assert words.bounding_box()["width"] == loss.bounding_box()["width"]


def test_a_map_of_many_letters_fits_a_phone(browser: Any, panel: str) -> None:
    words = [(f"w{letter}", "made", f"m{letter}de") for letter in string.ascii_lowercase[1:]]
    run_id = fill_run(name="many letters", words=words)
    with reading(browser, width=420) as page:
        page.goto(f"{panel}/errors?run={run_id}&map=Letters+and+lengths")
        page.get_by_text("13 letters are written less often").wait_for()
        still(page)
        chart = page.locator(".chart.map", has_text="Letters confused").locator(".wide")
        assert chart.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_words_and_their_charts_are_one_tap_apart_on_a_phone(browser: Any, panel: str) -> None:
    letters = "counterrevolutionary"
    words = [(f"q{n}", letters[:n], letters[: n - 1] + "z") for n in range(3, 21)]
    run_id = fill_run(name="long words", words=words)
    with reading(browser, width=420) as page:
        page.goto(f"{panel}/errors?run={run_id}")
        page.get_by_text("Not here: 4 of more than 16 letters.").wait_for()
        still(page)
        places = page.locator(".chart.map", has_text="Place of the error").locator(".wide")
        assert places.evaluate("e => e.scrollWidth <= e.clientWidth")
        assert places.locator("thead th").count() == 17
        above = page.evaluate("document.querySelector('.stMain').scrollTop")
        page.get_by_role("link", name="Kinds, places and letters").click()
        chart = page.locator(".chart.map").first
        assert 0 <= top(chart) < 700 and above == 0
        page.get_by_role("link", name="To the words").click()
        assert 0 <= top(page.get_by_role("link", name="Kinds, places and letters")) < 700


def test_a_failed_run_leads_to_its_log_and_an_ended_one_to_its_export(
    browser: Any, panel: str, ended: str
) -> None:
    failed = fill_run(name="failed", status=Status.FAILED, steps=200, reason="out of memory")
    with reading(browser) as page:
        page.goto(f"{panel}/monitor?run={failed}")
        page.get_by_text("step 150 of 600").wait_for()
        still(page)
        assert top(page.locator(".st-key-chosen-view")) > 700
        page.get_by_role("link", name="See the log").press("Enter")
        page.wait_for_function(
            "document.querySelector('.st-key-chosen-view').getBoundingClientRect().top < 700"
        )
        delete = page.locator(".stPopover", has_text="Delete")
        delete.get_by_role("button").click()
        now = page.get_by_role("button", name="Delete this run")
        now.wait_for()
        assert now.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(179, 38, 30)"
        page.goto(f"{panel}/monitor?run={ended}")
        export = page.locator(".st-key-run-choice").get_by_role("link", name="Export")
        export.wait_for()
        page.wait_for_function("document.querySelectorAll('.main-svg').length")
        still(page)
        export.click()
        page.get_by_role("heading", name="Adapter").first.wait_for()
        page.wait_for_function(
            "document.querySelector('.st-key-chosen-view').getBoundingClientRect().top < 700"
        )


def test_the_head_of_the_table_of_runs_stays_in_view(browser: Any, panel: str) -> None:
    for number in range(12):
        fill_run(name=f"tall {number}", rows=20, words=[])
    with reading(browser) as page:
        page.set_viewport_size({"width": 1280, "height": 500})
        page.goto(f"{panel}/?find=tall")
        head = page.locator("table.runs thead th", has_text="Exact match")
        head.wait_for()
        still(page)
        page.locator("table.runs tbody tr").last.evaluate("row => row.scrollIntoView()")
        first = page.locator("table.runs tbody tr").first
        page.wait_for_function(
            "document.querySelector('table.runs tbody tr').getBoundingClientRect().top < 0"
        )
        assert top(first) < 0 < 40 <= top(head) < 120
        # With more columns than fit, too, of which the table scrolls in a box of its own.
        more = ["status", "progress", "step", "attempt", "val/loss", "duration", "lora.r", "notes"]
        page.goto(f"{panel}/?find=tall&" + "&".join(f"columns={name}" for name in more))
        head = page.locator("table.runs thead th", has_text="Attempt")
        head.wait_for()
        still(page)
        last = page.locator("table.runs tbody tr").last
        last.evaluate("row => row.scrollIntoView()")
        page.wait_for_function(
            "document.querySelector('table.runs tbody tr').getBoundingClientRect().top < 0"
        )
        assert 0 <= top(head) < top(last) < 500
        page.goto(f"{panel}/?find=tall")
        # A row is pressed anywhere.
        page.locator("table.runs td", has_text="completed").last.click()
        page.wait_for_url("**/monitor?run=tall-0*")


@pytest.mark.parametrize("form", ["launch", "sweeps"])
def test_the_button_of_a_long_form_stays_in_view(browser: Any, panel: str, form: str) -> None:
    with reading(browser) as page:
        page.set_viewport_size({"width": 1280, "height": 500})
        page.goto(f"{panel}/{form}")
        button = page.get_by_role("button", name="Launch").first
        button.wait_for()
        still(page)
        page.get_by_text("All other", exact=False).last.evaluate("text => text.scrollIntoView()")
        still(page)
        assert 50 <= top(button) < 100


CHOSEN = ["status", "progress", "launched", "attempt", "model.name", "notes", "data.path"]


def test_tables_of_runs_and_sweeps_fit_each_width_and_lose_no_column(
    browser: Any, panel: str
) -> None:
    where = f"/home/somebody/{'longer/' * 12}words.csv"
    for seed in (1, 2, 3):
        fill_run(name="fits", rows=20, words=[], training__seed=seed)
    fill_run(name="fits with a path and a name that is long", curves=False, data__path=where)
    fill_sweep(TINY, trials=3, states={1: (Status.FAILED, "out of memory")})
    views = ["sweeps", "?find=fits", "?find=fits&group=true&sort=duration"]
    views += ["?find=fits&sort=data.path&" + "&".join(f"columns={name}" for name in CHOSEN)]
    with reading(browser) as page:
        for view in views:
            page.goto(f"{panel}/{view}")
            page.locator("table.runs, table.sweeps").wait_for()
            for width in (640, 641, 768, 900, 1000):
                page.set_viewport_size({"width": width, "height": 900})
                still(page)
                over = page.evaluate(
                    "[...document.querySelectorAll('.stMain, .wide')].map("
                    "one => one.scrollWidth - one.clientWidth)"
                )
                assert max(over) <= 1, (view, width, over)
        # What has no column there stands below the name, and nowhere twice.
        seen = page.locator("table.runs tr", has_text="a name that is long")
        in_column, below = seen.locator('td[data-label="Attempt"]'), seen.locator("small.below")
        assert below.inner_text().startswith("attempt 1 · model spelltune-tiny")
        assert below.is_visible() and not in_column.is_visible()
        assert where in seen.locator('td[data-label="file of own data"]').inner_text()
        for width in (420, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            still(page)
            assert in_column.is_visible() and not below.is_visible(), width


@pytest.mark.parametrize("width", [420, 900, 1024])
def test_the_words_of_errors_come_before_charts_and_folded_filters(
    browser: Any, panel: str, ended: str, width: int
) -> None:
    with reading(browser, width=width) as page:
        page.goto(f"{panel}/errors?run={ended}")
        word = page.locator("table.words tbody tr").first
        word.wait_for()
        still(page)
        assert top(word) < (800 if width == 420 else 500)
        assert top(word) < top(page.locator(".chart.map").first)
        words = page.locator(".wide:has(> table.words)")
        assert words.evaluate("e => e.scrollWidth <= e.clientWidth")
        kind, csv = page.get_by_label("Kind"), page.get_by_role("button", name="CSV")
        assert kind.is_visible() is (width > 1000) and csv.is_visible() is (width > 640)
        if width <= 1000:
            page.get_by_text("Filters and order").click()
            kind.wait_for()
        if width <= 640:
            page.get_by_text("Download").click()
            csv.wait_for()
        assert not inaccessible(page, ".stMainBlockContainer")


@pytest.mark.parametrize("width", [420, 900])
def test_what_is_chosen_is_in_view_and_choices_that_wrap_are_whole(
    browser: Any, panel: str, width: int
) -> None:
    runs = [fill_run(name=f"chosen {rank}", lora__r=rank) for rank in (4, 8)]
    with reading(browser, width=width) as page:
        page.goto(f"{panel}/compare?run={runs[0]}&run={runs[1]}")
        chips = page.locator(".st-key-chosen-metrics [data-testid=stMultiSelectTagsContainer]")
        chips.get_by_text("training loss").wait_for()
        still(page)
        assert chips.evaluate("e => e.scrollWidth <= e.clientWidth")
        assert chips.evaluate(
            "e => [...e.querySelectorAll('[data-tag]')].every((tag) => tag.getBoundingClientRect()"
            ".bottom <= e.parentElement.getBoundingClientRect().bottom)"
        )
        page.goto(f"{panel}/errors?run={runs[0]}&vs={runs[1]}")
        outcome = page.get_by_role("radiogroup", name="Outcome").get_by_role("radio")
        outcome.first.wait_for()
        rows = {one.bounding_box()["y"] for one in outcome.all()}
        whole = outcome.evaluate_all(
            "all => all.every((e) => { const s = getComputedStyle(e); return s.borderLeftWidth "
            "=== s.borderRightWidth && new Set([s.borderTopLeftRadius, s.borderTopRightRadius, "
            "s.borderBottomLeftRadius, s.borderBottomRightRadius]).size === 1 })"
        )
        assert whole or len(rows) == 1, rows


def test_a_setting_is_one_line_on_a_phone_and_a_failure_one_on_overview(
    browser: Any, panel: str
) -> None:
    long = "CUDA out of memory. " + "Tried to allocate 2 GiB of 79 GiB. " * 5
    failed = fill_run(name="one line", status=Status.FAILED, steps=100, reason=long, lora__r=48)
    with reading(browser, width=420, scheme="dark") as page:
        page.goto(f"{panel}/monitor?run={failed}&view=Settings")
        row = page.locator("table.changes tbody tr", has_text="Rank")
        row.wait_for()
        assert row.bounding_box()["height"] < 32
        value, of_preset = row.locator("td").all()[1:]
        assert value.bounding_box()["y"] == of_preset.bounding_box()["y"]
        page.goto(f"{panel}/?find=one+line")
        box = page.locator("table.runs tbody input[data-pick]")
        box.wait_for()
        ground = "e => getComputedStyle(e).backgroundColor"
        assert box.evaluate(ground) == page.locator(".stApp").evaluate(ground)
        page.set_viewport_size({"width": 1280, "height": 900})
        still(page)
        told = page.locator(f".st-key-failed-{failed}")
        assert told.bounding_box()["height"] < 48
        told.locator("summary").wait_for()  # the rest is told on demand
        heights = [
            told.get_by_role(kind, name=name).bounding_box()["height"]
            for kind, name in (
                ("link", "Launch again"),
                ("button", "Resume"),
                ("button", "Archive"),
            )
        ]
        assert max(heights) - min(heights) <= 2, heights


def test_a_first_visit_has_its_buttons_in_its_box(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as address, reading(browser) as page:
        page.goto(address)
        box = page.locator(".st-key-first-visit")
        still(page)
        for button in (box.get_by_role("button", name="Launch now"), box.get_by_role("link")):
            inner, outer = button.bounding_box(), box.bounding_box()
            assert inner["y"] + inner["height"] < outer["y"] + outer["height"]
            assert 32 <= inner["height"] <= 40


def test_the_arrow_keys_go_from_word_to_word(browser: Any, panel: str, ended: str) -> None:
    with reading(browser) as page:
        page.goto(f"{panel}/errors?run={ended}")
        links = page.locator("table.words td:first-child a")
        links.first.wait_for()
        first, second = links.all_inner_texts()[:2]
        page.get_by_role("link", name=first, exact=True).press("Enter")
        title = page.locator(".history h2")
        title.filter(has_text=first).wait_for()
        page.keyboard.press("ArrowRight")
        title.filter(has_text=second).wait_for()
        page.keyboard.press("ArrowLeft")
        title.filter(has_text=first).wait_for()
        find = page.get_by_role("textbox", name="Find")
        find.press("ArrowRight")  # moves in the text alone
        still(page)
        assert first in title.inner_text()


@pytest.mark.parametrize("width", [420, 800])
def test_both_ends_of_a_range_stand_on_one_line(browser: Any, panel: str, width: int) -> None:
    with reading(browser, width=width) as page:
        page.goto(f"{panel}/sweeps")
        row = page.locator(".st-key-row-training-learning_rate")
        row.wait_for()
        still(page)
        low, high = (
            row.get_by_role("textbox", name=f"Learning rate, {end}") for end in ("from", "to")
        )
        assert top(low) == top(high) == pytest.approx(top(row.get_by_role("combobox")), abs=2)
        buttons = page.locator("[class*=st-key-remove-] button:visible").all()
        right = [button.bounding_box() for button in buttons]
        assert len({round(box["x"] + box["width"]) for box in right}) == 1 < len(right)
        # And all chosen words are in view.
        words = page.locator(".st-key-row-scheduler-name").get_by_test_id("stMultiSelect")
        frame = words.bounding_box()
        ends = [tag.bounding_box() for tag in words.locator("[data-tag]").all()]
        assert len(ends) == 4
        assert all(frame["x"] <= one["x"] for one in ends)
        assert all(one["x"] + one["width"] < frame["x"] + frame["width"] - 40 for one in ends)


def test_the_label_of_a_changed_field_is_whole_on_a_tablet(browser: Any, panel: str) -> None:
    for width in (768, 1024):
        with reading(browser, width=width) as page:
            page.goto(f"{panel}/launch?name=mine&scheduler.warmup_steps=40")
            for label in ("Name of the run (was tiny-spell)", "Warm-up (steps) (was 30)"):
                shown = page.locator("label p", has_text=label)
                shown.wait_for()
                still(page)
                assert shown.evaluate("p => p.scrollWidth <= p.clientWidth"), (label, width)


def test_a_log_is_searched_narrowed_to_what_warns_and_copied(
    browser: Any, panel: str, module_home: Any
) -> None:
    run_id = fill_run(name="logged")
    paths.log_file(run_id).write_text(LOG)
    with reading(browser) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"{panel}/monitor?run={run_id}")
        lines = page.locator(".log pre > :visible")
        page.get_by_text("step 1: train/loss 2").wait_for()
        assert lines.count() == 5
        page.get_by_role("searchbox", name="Find in the log").fill("MEMORY out")
        page.get_by_text("1 of 5 lines").wait_for()
        assert lines.all_inner_texts()[0].strip() == "RuntimeError: out of memory"
        page.get_by_role("searchbox", name="Find in the log").fill("")
        level = page.get_by_role("combobox", name="Level of the lines")
        level.select_option("warnings and errors")
        page.get_by_text("4 of 5 lines").wait_for()
        level.select_option("errors")
        page.get_by_text("3 of 5 lines").wait_for()
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("copied 3 lines").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == LOG[LOG.index("Traceback") :]
        assert not inaccessible(page, ".run-log")
