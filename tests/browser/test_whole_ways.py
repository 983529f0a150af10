"""Whole ways of a person through the panel, with runs that really train."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from src import store
from src.format import duration
from src.runs import launcher
from src.store.tables import Run, Status
from tests.helpers import live
from tests.helpers.browser import MAIN, still, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

WORDS = [f"{a}{b}{c}" for a in "bdgl" for b in "aeiou" for c in ("n", "rt", "mp")]


@pytest.fixture(scope="module", autouse=True)
def nothing_left(module_home: Path) -> Iterator[None]:
    """No process is left behind; ends after the panel, which is one of them."""
    yield
    live.kill_all(module_home)


@pytest.fixture
def settings(panel: str, module_home: Path, base_model: Path) -> Iterator[dict[str, str]]:
    """Settings of a short run on own words; no run goes on behind its test."""
    file = module_home / "data" / "own.csv"
    file.parent.mkdir(exist_ok=True)
    lines = [f"Spell {word}.,{' '.join(word)}" for word in WORDS]
    file.write_text("\n".join(["question,answer", *lines]) + "\n")
    yield {
        "model.name": str(base_model), "data.path": str(file), "tracking.mode": "off",
        "engine": "packed", "training.max_steps": "12", "evaluation.eval_steps": "6",
        "scheduler.warmup_steps": "2", "training.logging_steps": "2",
    }  # fmt: skip
    for run in runs():
        if not Status(run.status).ended:
            launcher.stop(run.id)
    wait_for(lambda: all(Status(run.status).ended for run in runs()), "all runs have ended")


def runs() -> list[Run]:
    """All runs, the newest first."""
    with store.reading() as session:
        found = list(store.list_runs(session))
        session.expunge_all()
    return found


def press_launch(page: Any, name: str = "Launch") -> None:
    page.locator(".fold.hint").first.wait_for()
    page.get_by_text("train rows").first.wait_for()
    still(page)
    page.get_by_role("button", name=re.compile(f"^{name}")).first.click()


def test_three_seeds_of_two_configs_come_to_a_verdict(
    page: Any, panel: str, settings: dict[str, str]
) -> None:
    for rank in (4, 8):
        asked = settings | {"name": f"of rank {rank}", "lora.r": str(rank), "seeds": "3"}
        page.goto(f"{panel}/launch?{urlencode(asked)}")
        press_launch(page, "Launch 3 runs")
        page.get_by_text("3 runs, seeds").wait_for()
    wait_for(
        lambda: [run.status for run in runs()].count(Status.COMPLETED) == 6, "all six are completed"
    )
    page.goto(f"{panel}/?find=%22of+rank%22")
    page.get_by_role("checkbox", name="Choose all on this page").check()
    still(page)
    page.get_by_role("link", name=re.compile("^Compare")).last.click()
    page.get_by_text("6 runs of 2 configs").wait_for()
    verdict = page.locator("section.verdict").first
    verdict.wait_for()
    assert "of rank 4" in verdict.inner_text() and "of rank 8" in verdict.inner_text()


def stop(page: Any, *, after: int) -> None:
    """Stop the run of the page once it has come past this step."""
    wait_for(lambda: (runs()[0].step or 0) > after, f"it trains past step {after}")
    page.locator(MAIN).get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop this run").click()
    page.locator(".badge.stopped").wait_for()
    assert (runs()[0].step or 0) > after


def test_a_run_is_stopped_resumed_and_forked(
    page: Any, panel: str, settings: dict[str, str]
) -> None:
    long = {"training.max_steps": "100000", "evaluation.eval_steps": "100", "name": "long"}
    page.goto(f"{panel}/launch?{urlencode(settings | long | {'checkpointing.save_steps': '20'})}")
    press_launch(page)
    page.locator(".badge.running").first.wait_for()
    stop(page, after=20)
    first = runs()[0]
    assert first.started_at and first.ended_at and first.earlier_seconds is None
    page.get_by_role("button", name="Resume", exact=True).click()
    page.locator(".badge.running").first.wait_for()
    stop(page, after=(runs()[0].step or 0) + 20)
    # What it took is what both attempts took, in the head of its page too.
    both = runs()[0]
    assert both.attempt == 2 and both.started_at and both.ended_at
    took = first.ended_at - first.started_at + both.ended_at - both.started_at
    assert both.seconds == pytest.approx(took)
    page.locator(".facts > div", has_text="duration").get_by_text(duration(took)).wait_for()
    page.goto(f"{panel}/monitor?run={runs()[0].id}&view=Checkpoints")
    page.get_by_role("link", name="Fork from here").first.click()
    press_launch(page, "Fork")
    wait_for(lambda: runs()[0].parent_id is not None, "the fork is there")
    fork, parent = runs()[:2]
    assert fork.parent_id == parent.id
    page.goto(f"{panel}/monitor?run={fork.id}&view=Lineage")
    page.get_by_role("link", name=re.compile("long")).first.wait_for()


def test_a_sweep_leads_from_its_form_to_its_winner_and_a_longer_run(
    page: Any, panel: str, settings: dict[str, str]
) -> None:
    shared = ", ".join(f"{name}: {value}" for name, value in settings.items())
    shared = shared.replace("tracking.mode: off", 'tracking.mode: "off"')
    query = {
        "method": "grid", "pruner": "none", "budget": "", "name": "short", "metric": "val/loss",
        "base.overrides": shared,
    }  # fmt: skip
    page.goto(f"{panel}/sweeps?{urlencode(query)}")
    page.get_by_role("textbox", name="Rank, values").fill("4, 8")
    page.keyboard.press("Tab")
    for setting in ("scheduler-name", "training-learning_rate"):
        still(page)
        remove = page.locator(f".st-key-remove-{setting} button:visible")
        remove.click()
        remove.wait_for(state="detached")
    page.get_by_text("2 trials").first.wait_for()
    still(page)
    page.get_by_role("button", name="Launch the sweep").first.click()
    page.get_by_text("Under way").or_(page.get_by_text("No score yet")).first.wait_for()
    page.get_by_role("link", name="Launch with 24 steps").wait_for()
    page.get_by_role("link", name="Launch with 24 steps").click()
    steps = page.get_by_role("spinbutton", name=re.compile("^Steps"))
    wait_for(lambda: steps.input_value() == "24", "twice the steps")
    press_launch(page)
    page.locator(".badge.completed").wait_for()
    run = runs()[0]
    assert (run.status, run.step, run.name) == (Status.COMPLETED, 24, "short best")


def test_a_file_with_other_column_names_is_mended_and_trained_on(
    page: Any, panel: str, settings: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "letters.csv"
    lines = [f"{word};{' '.join(word)}" for word in WORDS]
    file.write_text("\n".join(["wort;buchstaben", *lines]) + "\n")
    asked = {name: value for name, value in settings.items() if name != "data.path"}
    page.goto(f"{panel}/launch?{urlencode(asked)}")
    page.get_by_text("Use my own data").click()
    still(page)
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_text("Which column holds the question").wait_for()
    page.get_by_role("button", name="Use these columns").click()
    page.get_by_text("read as columns").wait_for()
    press_launch(page)
    page.locator(".badge.completed").wait_for()
    page.get_by_role("link", name="Misspelled words").click()
    page.get_by_text("Underlined letters").wait_for()
    assert page.locator("table.words tbody tr").count() > 1
