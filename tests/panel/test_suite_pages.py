"""Suites on the pages: a curve each, a table of answers with their own kinds, and verdicts."""

import re

import numpy as np
import pytest

from src import store
from src.models.metrics import metric_label
from src.panel.monitor import curves
from src.panel.ui import charts
from tests.helpers.pages import html, show
from tests.helpers.store import fill_predictions, fill_run
from tests.helpers.suites import fill_study, fill_suite

MISCOUNTED = [("How many r in mirror?", "3", "2"), ("How many r in river?", "2", "two")]


@pytest.fixture(autouse=True)
def _own_home(home):
    charts._known.clear()


def scored_run() -> str:
    run_id = fill_run(name="counts")
    with store.writing() as session:
        step = store.find(session, run_id).best_step
        points = [(at, f"suite/{name}", value, 1e9 + at) for name, value in (
            ("count/exact_match", 0.25), ("count/cer", 0.5),
            ("general/bits_per_character", 1.5), ("general/loss", 3.0),
        ) for at in (0, step)]  # fmt: skip
        store.record_metrics(session, run_id, 1, points)
    fill_predictions(run_id, step, MISCOUNTED, rows=40, split="suite/count")
    fill_predictions(run_id, 0, MISCOUNTED * 2, rows=40, split="suite/count")
    return run_id


def test_each_suite_has_a_curve():
    names = ["val/loss", "suite/count/exact_match", "suite/count/cer", "suite/cute/spell/loss"]
    found = charts.charts([*names, "suite/general/bits_per_character"])
    assert [c.title for c in found] == ["Loss", "Suite count", "Suite cute/spell", "Suite general"]
    assert found[-1].unit == "bits per character"
    titles = [c.title for c in charts.charts(["val/exact_match", "lr", "suite/count/exact_match"])]
    assert titles == ["Accuracy", "Suite count", "Learning rate"]  # the scores together
    run_id = scored_run()
    with store.reading() as session:
        axis = curves.figure(found[1], {}, run=store.find(session, run_id)).layout.yaxis
    assert axis.rangemode == "tozero"  # 0% throughout is no axis from -100%
    test = show("monitor", run=run_id)
    drawn = test.get("bidi_component")
    assert any("Suite count" in str(one.proto) for one in drawn), [str(d.proto) for d in drawn]


def test_the_answers_to_a_suite_are_chosen_in_the_address():
    run_id = scored_run()
    body = html(show("errors", run=run_id, split="suite/count"))
    assert "How many r in mirror?" in body and "wrod1" not in body
    assert "2 of 40" in body
    body = html(show("errors", run=run_id, split="suite/count", vs=f"{run_id}@0"))
    assert "From <b>A</b> (counts" in body


def test_suites_and_metrics_are_named_in_words_and_stay_in_the_address_as_they_were():
    run_id = scored_run()
    test = show("errors", run=run_id, split="suite/count")
    (splits,) = [one for one in test.get("button_group") if "suite count" in str(one.proto)]
    assert "suite/count" not in str(splits.proto.options)
    assert "2 of 40" in html(test)
    asked = {"run": [run_id, fill_run(name="other")], "metrics": "suite/count/exact_match"}
    test = show("compare", **asked)
    metrics = test.multiselect(key="chosen metrics")
    assert metrics.value == ["suite/count/exact_match"]
    assert {"validation loss", "training loss", "suite count, accuracy (exact match)"} <= set(
        metrics.options
    )
    metrics.set_value(["val/loss", "suite/count/exact_match"]).run()
    assert test.query_params["metrics"] == ["val/loss", "suite/count/exact_match"]
    test.multiselect(key="chosen metrics").set_value([]).run()
    assert test.multiselect(key="chosen metrics").value == []
    orders = show("compare", run=asked["run"], view="Runs", order="val/loss").selectbox[0]
    assert orders.value == "val/loss" and "validation loss" in orders.options
    for page in (test, show("compare", run=asked["run"], view="Runs")):
        told = [one for box in (*page.selectbox, *page.multiselect) for one in box.options]
        assert not [one for one in told if "/" in one], told


@pytest.mark.parametrize(
    ("recorded", "label"),
    [("val/exact_match", "validation accuracy (exact match)"),
     ("test/cer", "test character error rate"),
     ("val/cer/spell_out", "validation character error rate, spell out"),
     ("suite/cute/spell/loss", "suite cute/spell, loss"), ("train/loss", "training loss"),
     ("lr", "learning rate"), ("cpu/memory_gib", "CPU memory"), ("own/thing", "own/thing")],
)  # fmt: skip
def test_a_recorded_metric_has_a_name_in_words(recorded, label):
    assert metric_label(recorded) == label


def test_wrong_numbers_are_no_misspelled_words_and_have_no_places():
    run_id = scored_run()
    body = html(show("errors", run=run_id))
    assert "misspelled words" in body and "Place of the error" in body
    with store.reading() as session:
        step = store.find(session, run_id).best_step
    miscounted = [("How many r's are in mirror?", "3", "2")]
    fill_predictions(run_id, step, miscounted, rows=40, split="suite/count", task="count")
    body = html(show("errors", run=run_id, split="suite/count"))
    assert "wrong answers" in body and "off by one" in body
    assert "misspelled words" not in body and "Place of the error" not in body


def test_many_splits_are_chosen_from_a_list():
    run_id = scored_run()
    with store.reading() as session:
        step = store.find(session, run_id).best_step
    assert show("errors", run=run_id).get("button_group")
    for number in range(5):
        fill_predictions(run_id, step, MISCOUNTED, rows=40, split=f"suite/own{number}")
    test = show("errors", run=run_id, split="suite/own3")
    (splits,) = [box for box in test.selectbox if box.label == "Split"]
    assert splits.value == "suite/own3" and len(splits.options) == 8


def test_a_suite_that_nobody_answered_is_told_once():
    ids = fill_study(np.random.default_rng(5))
    with store.reading() as session:
        steps = {run_id: store.find(session, run_id).best_step for run_id in ids}
    for run_id, step in steps.items():
        for at in (0, step):
            fill_suite(run_id, at, np.zeros(150, dtype=bool), "swap")
    body = html(show("compare", run=ids))
    assert body.count("swap had no right answer") == 2  # in the sentence of each config


def test_a_suite_that_a_run_does_not_have_is_its_validation_set():
    body = html(show("errors", run=scored_run(), split="suite/swap"))
    assert "definately" in body or "definatly" in body


def test_compare_has_a_verdict_for_each_suite_and_a_sentence_for_the_study():
    ids = fill_study(np.random.default_rng(5))
    body = html(show("compare", run=ids))
    assert "Trained on spell_out, count rose " in body
    assert "Trained on correct, count cannot be told." in body
    assert "tiny-spell is better than tiny-correct on count" in body
    assert "<small>spell_out</small>" in body and "<small>150 questions, 3 seeds</small>" in body
    assert 'class="interval good" role="img" aria-label="+' in body
    # p is text, which needs no pointer.
    assert re.search(r"<small>p (&lt; 0\.001|= 0\.\d+), corrected for suites</small>", body)
    plain = html(show("compare", run=[fill_run(name="a"), fill_run(name="b")]))
    assert "<h2>Suites</h2>" not in plain
