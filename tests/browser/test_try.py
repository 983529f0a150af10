"""The Try page in a real browser, with the process that answers."""

import time
from typing import Any
from urllib.parse import parse_qs

import psutil
import pytest

from src import paths
from src.training.data_loaders import load_rows
from tests.helpers import tiny
from tests.helpers.adapters import trained_run
from tests.helpers.browser import MAIN, asked, inaccessible, reading, still, wait_for
from tests.helpers.live import of_home

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(module_home: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    base = tmp_path_factory.mktemp("base") / "gpt2"
    tiny.save_model(base, "gpt2")
    return trained_run(base, seed=1, name="one"), trained_run(base, seed=2, name="two")


def answers(page: Any, text: str, count: int) -> None:
    """Wait until the table has a text, and so many answers to it."""
    row = page.locator("table.answers tbody tr", has_text=text)
    row.first.wait_for()
    assert row.first.locator("td").count() == 2 + count


def processes(home: Any) -> list[psutil.Process]:
    return [one for one in of_home(home) if "src.workers.answer" in one.cmdline()]


def test_words_are_typed_answered_pasted_and_kept(page, panel, module_home, runs):
    page.goto(f"{panel}/try?run={runs[0]}&run={runs[1]}")
    page.get_by_text("Nothing asked yet").wait_for()
    assert not processes(module_home)
    field = page.get_by_role("textbox", name="Words, or one prompt per line")
    # By the keyboard alone: type, and Ctrl+Enter asks.
    field.focus()
    page.keyboard.type("apple")
    page.keyboard.press("Control+Enter")
    answers(page, "apple", 3)
    assert parse_qs(asked(page)[1:]) == {"run": list(runs), "word": ["apple"]}
    assert page.locator(".pieces").count() == 6
    assert page.locator("table.answers mark").count() > 3
    (process,) = processes(module_home)
    # Warm, the next one comes from the same process.
    began = time.monotonic()
    field.fill("banana")
    page.keyboard.press("Control+Enter")
    answers(page, "banana", 3)
    print(f"warm answer on the page after {time.monotonic() - began:.2f} s")
    assert processes(module_home) == [process]
    # A column of a spreadsheet is pasted.
    words = tiny.WORDS[:20]
    field.fill("\n".join(words))
    page.get_by_role("button", name="Ask").click()
    page.locator("table.answers tbody tr").nth(19).wait_for()
    page.get_by_text("0 of 20 right").first.wait_for()
    page.get_by_role("button", name="Add 20 wrong answers").click()
    page.get_by_text("has 20 new questions").wait_for()
    assert len(load_rows(paths.home() / "data" / "missed.jsonl")) == 20
    # One of them alone, and back.
    page.locator("table.answers a", has_text="cherry").click()
    wait_for(lambda: parse_qs(asked(page)[1:])["word"] == ["cherry"], "its own address")
    page.locator(".pieces").first.wait_for()
    page.go_back()
    page.locator("table.answers tbody tr").nth(19).wait_for()


def test_a_deep_link_answers_and_fits_a_narrow_window_in_both_themes(browser, panel, runs):
    address = f"/try?run={runs[0]}&run={runs[1]}&word=apple"
    with reading(browser, width=420) as page:
        page.goto(panel + address)
        answers(page, "apple", 3)
        still(page)
        over = page.evaluate(
            "() => { const m = document.querySelector('[data-testid=stMain]');"
            " return m.scrollWidth - m.clientWidth; }"
        )
        assert over <= 1
        # The name of a run ends in its seed, which a line of 90 px would cut off.
        name = "td => [td.dataset.label, getComputedStyle(td, '::before').whiteSpace]"
        assert page.locator("table.answers td").last.evaluate(name) == ["two · seed 42", "normal"]
        assert not inaccessible(page, MAIN)  # Streamlit draws the menu beside


def test_bad_input_is_a_sentence_and_a_killed_process_too(page, panel, module_home, runs):
    page.goto(f"{panel}/try?run={runs[0]}&word={'x' * 1001}")
    page.get_by_text("1,001 letters").wait_for()
    field = page.get_by_role("textbox", name="Words, or one prompt per line")
    field.fill("tea")
    page.keyboard.press("Control+Enter")
    answers(page, "tea", 2)
    (process,) = processes(module_home)
    process.suspend()
    field.fill("cow")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("was ended; try again").wait_for()
    page.get_by_role("button", name="Ask").click()
    answers(page, "cow", 2)
    assert page.locator(f"{MAIN} .problem").count() == 0
