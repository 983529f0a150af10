"""The Overview page through AppTest, on stores that the tests fill."""

import re
import shutil

import pytest

from src import paths, store
from src.config import DEFAULT_PRESET, load_config, stored_config, with_absolute_paths
from src.panel.overview import bulk
from src.store.tables import Status
from tests.helpers.browser import wait_for
from tests.helpers.live import taken_slots
from tests.helpers.pages import html, show
from tests.helpers.store import (
    HOSTILE,
    checkpoint,
    fill_run,
    fill_sweep,
)


def test_the_first_visit_launches_the_default_by_one_press():
    page = show("overview")
    body = html(page)
    assert "two minutes on two CPU cores" in body and ">Change settings</a>" in body
    (button,) = (one for one in page.button if one.label == "Launch now")
    with taken_slots():
        button.click().run()
        button.click().run()  # the second one of a double click
    with store.reading() as session:
        (run,) = store.list_runs(session)
    assert stored_config(run.config) == with_absolute_paths(load_config(preset=DEFAULT_PRESET))
    assert run.status == Status.QUEUED and not page.exception


def test_the_overview_lists_every_status_and_why_a_run_failed():
    for status in Status:
        fill_run(status=status, steps=50, name=f"run {status}", reason=f"because {status}")
    body = html(show("overview"))
    for status in Status:
        assert f"run {status}" in body and f'class="badge {status.lower()}"' in body
    assert "Because FAILED." in body and "because COMPLETED" not in body
    assert "1 queued, 1 starting, 1 running, 1 stopping" in body


def test_what_a_completed_run_took_is_told_once_and_that_it_has_no_right_answer():
    fill_run(name="done", steps=600)
    fill_run(name="early", steps=400)
    body = html(show("overview"))
    assert "step 600 of 600" not in body and "step 400 of 600" in body
    assert 'role="progressbar"' not in body and body.count('class="badge completed"') == 2
    useless = fill_run(name="useless", steps=600, curves=False)
    with store.writing() as session:
        points = [(step, "val/exact_match", 0.0, 1e9) for step in (0, 600)]
        store.record_metrics(session, useless, 1, points)
    for page in ("overview", "monitor"):
        body = html(show(page, run=useless))
        assert body.count(">no right answer</span>") == 1
    assert 'class="bar completed nothing"' in body and 'class="bar completed"' not in body


def test_a_trial_does_not_tell_twice_what_its_sweep_searches():
    fill_sweep(paths.CONFIGS / "sweeps" / "tiny.yaml", trials=2)
    body = html(show("overview"))
    names = re.findall(r'<div class="run"><a [^>]*>(.*?)</a><small>(.*?)</small>', body)
    assert len(names) == 2
    assert all("learning rate" in name and small == "seed 42" for name, small in names), names


def test_each_run_has_a_box_that_says_what_choosing_it_does():
    ids = [fill_run(name="twin", training__seed=seed) for seed in (1, 2)]
    body = html(show("overview"))
    pattern = r'<input type="checkbox" data-pick="([^"]+)" data-drop="" aria-label="([^"]+)">'
    boxes = dict(re.findall(pattern, body))
    assert boxes == {ids[0]: "Choose twin · seed 1", ids[1]: "Choose twin · seed 2"} | {
        f"{ids[1]} {ids[0]}": "Choose all on this page"
    }
    body = html(show("overview", pick=ids))
    assert body.count(" checked ") == 3 and "Compare 2 runs" in body and "2 runs chosen" in body


def test_a_hostile_name_is_text_everywhere():
    run_id = fill_run(name=HOSTILE, reason=HOSTILE, words=[(HOSTILE, HOSTILE, HOSTILE + "x")])
    for page in ("overview", "monitor", "errors"):
        body = html(show(page, run=run_id))
        assert "<img" not in body
        assert "&lt;img" in body


def test_a_failed_run_is_resumed_only_where_it_has_a_checkpoint():
    words = "validation accuracy (exact match) fell"
    fill_run(status=Status.FAILED, steps=40, curves=False, reason="val/exact_match fell")
    page = show("overview")
    assert "step 40 of" in html(page) and "Resume goes on" not in html(page)
    assert not [one for one in page.button if one.label == "Resume"]
    # Above the table, and not again in it.
    assert html(page).count(words.capitalize()) == 1 and html(page).count(words) == 0
    fill_run(status=Status.FAILED, steps=40, reason="its worker is gone")
    page = show("overview")
    assert html(page).count("Resume goes on from step 40; no step is lost.") == 1
    assert html(page).count("Its worker is gone.") == 1 and "its worker" not in html(page)
    assert len([one for one in page.button if one.label == "Resume"]) == 1


def test_runs_that_are_resumed_one_by_one_show_how_far_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulk, "SOON_SECONDS", 0.0)
    ids = [fill_run(status=Status.STOPPED, name=f"stopped {n}", steps=200) for n in range(3)]
    for run_id in ids:
        checkpoint(run_id, 100)
    shutil.rmtree(paths.checkpoints_dir(ids[2]))
    page = show("overview", pick=ids)
    (button,) = (one for one in page.button if one.label == "Resume 3")
    with taken_slots():
        with store.writing():  # so that none of them is through
            button.click().run()
            (bar,) = page.get("progress")
            assert bar.proto.text == "0 of 3 runs resumed"
            button.click().run()
            assert "Wait until the runs of before are through" in html(page)
        wait_for(lambda: not page.run().get("progress"), "the runs were not resumed")
    assert [one.value for one in page.toast] == ["2 runs resumed."]
    assert f"{ids[2]} has no verified checkpoint" in html(page)
    with store.reading() as session:
        assert [store.find(session, one).status for one in ids] == ["QUEUED", "QUEUED", "STOPPED"]
