"""The Machine page through AppTest."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src import paths, store
from src.config import change_machine, load_machine
from src.format import energy, money
from src.panel.monitor import health
from src.store.tables import Status
from tests.helpers.pages import html, show
from tests.helpers.store import end, fill_run, fill_sweep, fill_usage, training_run
from tests.helpers.sweeps import cli


def test_without_a_price_the_page_shows_no_money_and_says_how() -> None:
    body = html(show("machine"))
    assert "up for" in body and "USD" not in body and "Say what an hour" in body


def test_the_price_is_typed_saved_and_shown() -> None:
    page = show("machine")
    for name, text in (("price_per_hour", "2.5"), ("budget", "1000000"), ("currency", "EUR")):
        page.text_input(key=f"machine {name}").set_value(text)
    page.button[0].click().run()
    assert not page.exception
    assert load_machine().price_per_hour == 2.5 and load_machine().currency == "EUR"
    body = html(page)
    assert "EUR" in body and "<dt>left</dt>" in body and "Say what an hour" not in body
    page.text_input(key="machine price_per_hour").set_value("cheap")
    page.button[0].click().run()
    assert "price_per_hour: takes a number" in html(page)
    assert load_machine().price_per_hour == 2.5
    assert page.text_input(key="machine price_per_hour").value == "cheap"  # to be mended


def test_a_broken_file_is_a_sentence_and_other_pages_live_without_it(home: Path) -> None:
    change_machine({"price_per_hour": "1"})
    paths.machine_file().write_text("price_per_hour: much")
    body = html(show("machine"))
    assert "machine.yaml: price_per_hour" in body and "up for" in body


def test_the_meters_of_the_machine_are_on_its_page_and_in_a_line_on_overview() -> None:
    fill_run()
    body = html(show("machine"))
    assert re.search(r"<dt>RAM</dt><dd>[\d.]+ of [\d,]+ GiB</dd>", body)
    line = re.search(r'<p class="meters">(.+?)</p>', html(show("overview")))
    assert line and "CPU" in line[1] and "disk free" in line[1] and "USD" not in line[1]
    change_machine({"price_per_hour": "2", "budget": "0.000001"})
    line = re.search(r'<p class="meters">(.+?)</p>', html(show("overview")))
    assert line and "USD spent" in line[1] and "USD over the budget" in line[1]


def meters_of(test: Any) -> list[str]:
    """What the charts of the machine on Monitor are given."""
    drawn = [one.proto.json for one in test.get("bidi_component")]
    return [given for given in drawn if "The machine meanwhile" in given]


def test_a_run_shows_what_the_machine_did_meanwhile_and_what_it_took() -> None:
    run_id = fill_run(curves=True)
    bare = show("monitor", run=run_id)
    assert not meters_of(bare) and "energy" not in html(bare)
    fill_usage(run_id)
    change_machine({"price_per_hour": "3600", "currency": "EUR"})
    with store.reading() as session:
        run = store.find(session, run_id)
    test = show("monitor", run=run_id)
    body, (meters,) = html(test), meters_of(test)
    assert "GPU power" in meters
    assert f"<dt>energy</dt><dd>{energy(run.energy_wh)}</dd>" in body
    assert f"<dt>cost</dt><dd>{money(run.machine_seconds, 'EUR')}</dd>" in body


def test_samples_are_drawn_at_the_steps_that_were_taken_meanwhile() -> None:
    steps = pd.DataFrame({"step": [0, 10, 20], "value": 1.0, "at": [100.0, 110.0, 140.0]})
    samples = [
        {"at": at, "cpu_utilization": at / 100, "gpu_power_watts": None}
        for at in (90.0, 100.0, 105.0, 105.1, 125.0, 141.0)
    ]
    (frame,) = health.along_steps(samples, steps).values()
    assert frame["step"].tolist() == [0, 5, 15]  # none before the first, none behind the last
    assert frame["value"].tolist() == pytest.approx([1.0, 1.0505, 1.25])
    assert health.along_steps(samples[:2], steps) == {} == health.along_steps(samples, None)


def test_a_sweep_shows_the_energy_and_the_money_of_all_its_runs() -> None:
    sweep = fill_sweep(paths.CONFIGS / "sweeps" / "tiny.yaml", trials=4)
    with store.reading() as session:
        ids = [run.id for run in store.runs_of_sweep(session, sweep)]
    for run_id in ids[:2]:
        fill_usage(run_id)
    change_machine({"price_per_hour": "3600"})
    with store.reading() as session:
        seconds, wh = store.usage_of_sweep(session, sweep)
    assert wh == pytest.approx(400 * seconds / 3600)
    body = html(show("sweeps", sweep=sweep))
    assert f"<dd>{energy(wh)}</dd>" in body and f"<dd>{money(seconds, 'USD')}</dd>" in body
    shown = json.loads(cli("sweep", "show", sweep, "--json").stdout)
    assert shown["cost"]["amount"] == pytest.approx(seconds) and shown["energy_wh"] == wh
    assert "cost " in cli("sweep", "show", sweep).stdout


def test_the_page_says_what_the_machine_does_and_leads_there() -> None:
    body = html(show("machine"))
    assert "This machine · " in body and re.search(r"<dt>cores</dt><dd>\d+</dd>", body)
    assert "<dt>slots in use</dt><dd>0 of 1</dd>" in body and ">Launch a run</a>" in body
    run_id, lock = training_run(name="now")
    fill_run(status=Status.QUEUED, name="next")
    body = html(show("machine"))
    assert "<dt>runs that train</dt><dd>1</dd>" in body and ">See them</a>" in body
    assert "<dt>slots in use</dt><dd>1 of 1</dd>" in body
    elsewhere = fill_run(status=Status.RUNNING, name="elsewhere")
    with store.writing() as session:
        store.find(session, elsewhere).host = "another machine"
    assert "<dt>runs that train</dt><dd>1</dd>" in html(show("machine"))
    assert "<dt>runs that wait</dt><dd>1</dd>" in body
    end(run_id, Status.STOPPED)
    lock.release()


def test_the_fields_of_money_have_their_currency() -> None:
    change_machine({"currency": "EUR"})
    labels = [field.label for field in show("machine").text_input]
    assert labels == ["Price per hour (EUR)", "Budget (EUR)", "Currency"]
