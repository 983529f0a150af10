"""Runs that are launched from the form, in a real browser."""

import contextlib
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src import store
from src.store.tables import Status
from tests.helpers.browser import (
    MAIN,
    reading,
    serving,
    still,
    stop_is_asked,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


def own_words(folder: Path, column: str = "answer") -> Path:
    words = [f"{a}{b}{c}" for a in "bdgl" for b in "aeiou" for c in ("n", "rt", "mp")]
    path = folder / "own.csv"
    path.write_text(f"question,{column}\n" + "".join(f"Spell {w}.,{' '.join(w)}\n" for w in words))
    return path


def test_from_the_form_by_keyboard_to_the_words_and_back(browser, tmp_path, base_model):
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    data = own_words(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        patch.setenv("WANDB_MODE", "disabled")
        with serving(home) as address, reading(browser) as page:
            start = f"{address}/launch?model.name={base_model}&data.path={data}&tracking.mode=off"
            page.goto(f"{start}&evaluation.eval_steps=200&training.logging_steps=2")
            page.get_by_text("tokens per row").wait_for()  # the data are read
            by_keyboard(page, "Steps")
            page.keyboard.press("ControlOrMeta+A")
            page.keyboard.type("400")
            # Pressed while the server has not heard of the edit yet: it counts.
            page.keyboard.press("ControlOrMeta+Enter")
            page.wait_for_selector(".run-head")
            first = wait_for(partial(points, page), "the curve begins", 300)
            over = page.locator(".badge.completed")
            wait_for(lambda: points(page) > first or over.is_visible(), "the curve grows")
            over.wait_for(timeout=300_000)
            assert "step 400 of 400" in page.locator(".run-head").inner_text()
            page.get_by_role("link", name="Misspelled words").click()
            page.get_by_text("Underlined letters").wait_for()
            assert page.get_by_role("row").count() >= 2
            page.get_by_role("link", name="Curves and log").click()
            page.get_by_role("link", name="Launch again with edits").click()
            page.wait_for_selector(".stNumberInput")
            wait_for(
                lambda: (
                    page.get_by_role("spinbutton", name="Steps", exact=True).input_value() == "400"
                ),
                "its steps",
            )
            with store.reading() as session:
                assert [r.status for r in store.list_runs(session)] == [Status.COMPLETED]


def by_keyboard(page: Any, name: str, tag: str = "INPUT") -> None:
    """Press Tab until what is called so has the focus.

    Waits first until the page is still: what Streamlit draws anew meanwhile takes the focus away.
    """
    still(page)
    passed = []
    for _ in range(150):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "() => { const e = document.activeElement;"
            " return [e.tagName, e.getAttribute('aria-label') || e.innerText || '']; }"
        )
        if here[0] == tag and here[1].startswith(name):
            return
        passed.append(here)
    raise AssertionError(f"Tab never reached {name}, only {passed}")


def points(page: Any) -> int:
    """How many points of the first curve are drawn."""
    card = '.chart[data-title="Loss"] .plot'
    return page.evaluate(f"() => document.querySelector('{card}')?._fullData?.[0].x.length ?? 0")


def test_an_upload_is_shown_and_one_without_a_column_asks_which_holds_the_answer(
    page, panel, module_home, base_model, tmp_path
):
    page.goto(f"{panel}/launch?model.name={base_model}")
    page.get_by_text("Use my own data").click()
    still(page)
    page.locator("input[type=file]").set_input_files(own_words(tmp_path))
    page.get_by_text("train rows").wait_for()
    page.locator("p.change", has_text="own.csv").wait_for()
    assert (module_home / "data" / "own.csv").is_file()
    bad = tmp_path / "bad"
    bad.mkdir()
    page.goto(f"{panel}/launch?model.name={base_model}")
    page.get_by_text("Use my own data").click()
    still(page)
    page.locator("input[type=file]").set_input_files(own_words(bad, "anser"))
    page.get_by_text("Which column holds the question").wait_for()
    page.get_by_text("Until then a launch takes the data below").wait_for()
    page.get_by_role("button", name="Use these columns").click()
    page.get_by_text("read as columns").wait_for()
    page.get_by_text("train rows").wait_for()
    assert "anser" not in (module_home / "data" / "own-2.jsonl").read_text()


def test_two_clicks_make_one_run(browser, tmp_path, base_model):
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    data = own_words(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        with serving(home) as address, reading(browser) as page:
            page.goto(
                f"{address}/launch?model.name={base_model}&data.path={data}&tracking.mode=off"
            )
            page.get_by_text("tokens per row").wait_for()  # the data are read
            page.get_by_role("button", name=re.compile("^Launch")).dblclick()
            page.wait_for_selector(".run-head")
            page.wait_for_timeout(1500)
            with store.reading() as session:
                (run,) = store.list_runs(session)
            page.locator(MAIN).get_by_role("button", name="Stop").click()
            page.get_by_role("button", name="Stop this run").click()
            wait_for(partial(stop_is_asked, run.id), "the stop is asked for")
            page.locator(":is(.badge.stopped, .badge.cancelled)").wait_for(timeout=300_000)
            end_processes(run.id)


def end_processes(run_id: str) -> None:
    """The journey stopped its run; make sure that nothing of it is left."""
    with store.reading() as session:
        run = store.find(session, run_id)
    for pid in (run.trainer_pid, run.supervisor_pid):
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def test_any_setting_is_found_by_its_meaning_opened_and_changed_by_keyboard(page, panel):
    page.goto(f"{panel}/launch")
    page.get_by_text("tokens per row").wait_for()  # the data are read
    find = page.get_by_label("Find among")
    find.fill("probability adapter")
    rows = page.locator("ul.settings li:visible")
    wait_for(lambda: rows.count() == 1, "one setting is left")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.ariaLabel === 'Dropout of the adapter'")
    still(page)  # what is drawn anew meanwhile loses the selection
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("0.2")
    # Pressed while the server has not heard of the edit yet: it stays.
    page.get_by_role("button", name="tiny-correct").click()
    page.locator('.presets [aria-current][data-choose="tiny-correct"]').wait_for()
    page.get_by_text("All other settings · 1 changed").wait_for()
    assert page.get_by_role("textbox", name="Dropout of the adapter").input_value() == "0.2"
    page.get_by_role("button", name="Undo", exact=True).click()
    page.get_by_text("All settings are those of tiny-correct").wait_for()
    find.fill("max_gib")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.activeElement.dataset.choose === 'checkpointing.max_gib'")
    assert "Disk limit (GiB)" in rows.inner_text()
    # The whole list is one step of the Tab key, on the way to the launch.
    find.fill("")
    find.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.choose") == "backend"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText").startswith("Launch")


def test_a_preset_for_a_gpu_says_so_where_there_is_none(page, panel):
    page.goto(f"{panel}/launch")
    page.locator(".presets").first.wait_for()
    if page.get_by_text("needs an NVIDIA GPU").count():
        assert page.get_by_role("button", name="gpt2").count() == 0
    else:
        assert page.get_by_role("button", name="gpt2").count() == 1
    page.goto(f"{panel}/launch?preset=gpt2")  # its address works anyhow
    page.locator('[aria-current]:has-text("gpt2")').wait_for()
