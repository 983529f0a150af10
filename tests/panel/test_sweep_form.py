"""The form of the Sweeps page: its fields, the file, what a sweep takes."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from src import paths, store
from src.config import ConfigError
from src.panel.launch import data_check, measure_button
from src.panel.sweeps import form as sweep_form
from src.panel.sweeps import space
from src.runs import estimate, launcher, packing
from src.sweeps import control
from src.sweeps import estimate as sweep_estimate
from src.sweeps.file import (
    MICRO_BATCH,
    Categorical,
    base_config,
    load_sweep,
    parse_sweep,
)
from tests.helpers.pages import html, show
from tests.helpers.store import press_again
from tests.helpers.sweeps import TINY, measured


def launches(test: Any) -> Any:
    """The button that launches the sweep."""
    return next(button for button in test.button if button.label == "Launch the sweep")


@pytest.mark.usefixtures("home")
def test_an_empty_page_says_what_to_do_and_the_form_what_it_comes_to() -> None:
    page = html(show("sweeps"))
    assert "No sweeps yet" in page and "24 trials" in page
    page = html(show("sweeps", file="seed-grid"))
    assert "4,096 trials" in page and "2,304 settings with the same steps" in page
    assert "<code>duplicates: skip</code>" in page
    test = show("sweeps", budget="1 second")
    assert "too small for one trial" in html(test) and launches(test).disabled
    assert "name: tiny" in test.code[0].value
    assert "There are none yet" in html(show("sweeps", sweep="nobody")).replace(
        "there are", "There are"
    )


@pytest.mark.usefixtures("home")
def test_each_problem_of_a_file_stands_on_its_line_above_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TINY.read_text().replace("lora.r: [4", "lora.rank: [4").replace("tpe", "ouija")
    (tmp_path / "configs" / "sweeps").mkdir(parents=True)
    (tmp_path / "configs" / "sweeps" / "bad.yaml").write_text(text.replace("name: tiny", "name: "))
    monkeypatch.setattr(paths, "SWEEPS", tmp_path / "configs" / "sweeps")
    test = show("sweeps")
    problems = [line for line in html(test).split("\n") if 'problem"' in line]
    (at_name, at_method, all_of_them) = problems
    assert "Is empty; give it a name." in at_name and "ouija" in at_method
    assert all_of_them.count("<li>") == 2
    assert ">Method</a> takes" in all_of_them and ">Name of the sweep</a> is" in all_of_them
    assert "ouija" in test.code[0].value and launches(test).disabled


@pytest.mark.usefixtures("home")
def test_the_form_launches_a_sweep_and_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def start_driver(sweep_id: str) -> None:
        started.append(sweep_id)
        press_again()  # and that makes no second one

    monkeypatch.setattr(launcher, "start_driver", start_driver)
    test = show("sweeps", budget="6 trials")
    launches(test).click().run()
    with store.reading() as session:
        (row,) = store.list_sweeps(session)
    assert started == [row.id] and row.most_trials == 6 and row.name == "tiny"
    assert "No trials yet" in html(show("sweeps", sweep=row.id))


@pytest.mark.parametrize(
    "values",
    [
        [4, 8, 16, 32],
        ["linear", "cosine"],
        [["c_attn"], ["c_attn", "c_proj"]],
        [None, 0.1],
        {"low": 2e-4, "high": 1e-2, "log": True},
        {"low": 0.0, "high": 0.95, "when": {"optimizer.name": ["sgd"]}},
    ],
)
def test_values_read_in_the_form_as_they_stand_in_the_file(values: Any) -> None:
    text = space.flow(values)
    assert text[0] not in "[{" or isinstance(values[0], list)
    assert space.unflow(text) == values


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("0.002 to 0.008", {"low": 0.002, "high": 0.008}),
        ("1e-3..1e-2", {"low": 0.001, "high": 0.01, "log": True}),
        ("from 4 to 32", {"low": 4, "high": 32}),
        ("0.1 – 0.3", {"low": 0.1, "high": 0.3}),
        ("0.001 to 0.004 log", {"low": 0.001, "high": 0.004, "log": True}),
        ("4, 8", [4, 8]),
        ("linear", "linear"),
    ],
)
def test_a_range_is_read_as_people_type_it(typed: str, read: Any) -> None:
    assert space.unflow(typed) == read or space.unflow(typed) == [read]


@pytest.mark.parametrize(
    ("text", "kind", "turned"),
    [
        ("4, 8, 16", space.RANGE, {"low": 4, "high": 16}),
        ("0.001, 0.01", space.LOG, {"low": 0.001, "high": 0.01, "log": True}),
        ("low: 0.001, high: 0.1, log: true", space.LIST, [0.001, 0.01, 0.1]),
        ("low: 4, high: 32", space.LIST, [4, 18, 32]),
        ("low: 0, high: 1, step: 0.5", space.LOG, {"low": 0, "high": 1, "log": True}),
    ],
)
def test_a_row_of_another_kind_keeps_what_it_has(text: str, kind: str, turned: Any) -> None:
    row = space.row_of(text)
    assert space.text_of(row) == text.replace("0.001, high: 0.1", "1.0e-3, high: 0.1") or row.kind
    assert space.unflow(space.text_of(space.turned(row, kind))) == turned


def test_a_condition_of_a_setting_outlives_an_edit_of_its_row() -> None:
    text = space.flow({"low": 0.0, "high": 0.95, "when": {"optimizer.name": ["sgd"]}})
    row = space.row_of(text)
    assert (row.low, row.high) == ("0.0", "0.95")
    edited = space.unflow(space.text_of(space.turned(row, space.LIST)))
    assert edited["when"] == {"optimizer.name": ["sgd"]} and len(edited["values"]) == 3


@pytest.mark.usefixtures("home")
def test_the_line_and_the_picture_tell_what_a_sweep_comes_to() -> None:
    grid = {"method": "grid", "budget": "", "pruner": "none", "space.scheduler.name": ""}
    test = show(
        "sweeps",
        seeds="3",
        **grid,
        **{"space.lora.r": "4, 8", "space.training.learning_rate": "1e-3, 2e-3"},
    )
    assert "2 × 2 = 4 settings × 3 seeds = 12 trials" in html(test)
    assert 'aria-label="Rank: 4, 8"' in html(test)
    test = show("sweeps", budget="4", **{"space.training.learning_rate": "0.002 to 0.008"})
    assert "4 trials drawn" in html(test)
    assert 'aria-label="Learning rate: 0.002 to 0.008"' in html(test)
    assert test.text_input(key="row low training.learning_rate").value == "0.002"


@pytest.mark.usefixtures("home")
def test_what_is_edited_in_the_form_is_launched_and_kept_as_a_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    test = show("sweeps", shared="true")
    test.selectbox(key="set method").select("random").run()
    test.text_input(key="row values lora.r").input("2, 64").run()
    test.button(key="remove scheduler.name").click().run()
    test.selectbox(key="one more").select("lora.dropout").run()
    test.text_input(key="row values lora.dropout").input("low: 0, high: 0.3, step: 0.1").run()
    assert test.selectbox(key="row kind lora.dropout").value == space.RANGE
    test.text_input(key="row high lora.dropout").input("0.4").run()
    test.number_input(key="common training.max_steps").set_value(50).run()
    test.number_input(key="common scheduler.warmup_steps").set_value(60).run()
    assert "2, 64" in test.query_params["space.lora.r"]
    assert not [w for w in test.multiselect if w.key == "row words scheduler.name"]
    launches(test).click().run()
    with store.reading() as session:
        (row,) = store.list_sweeps(session)
    # As `spelltune sweep launch` prints it.
    assert test.query_params["sweep"] == row.id and "the warm-up of 60 steps" in html(test)
    assert "The warm-up" not in html(show("sweeps", sweep=row.id))  # to another reader
    sweep = control.launched_config(row)
    assert sweep.method == "random" and sweep.space["lora.r"].values == [2, 64]
    assert sweep.space["lora.dropout"].high == 0.4 and "scheduler.name" not in sweep.space
    assert base_config(sweep).training.max_steps == 50
    assert Path(row.path) == home / "results" / "sweeps" / "own" / "tiny.yaml"
    # The next one may start from it; the same name with other words is another file.
    test = show("sweeps", file="tiny (own)")
    assert test.text_input(key="row values lora.r").value == "2, 64"
    assert sweep_form.saved("tiny", Path(row.path).read_text()) == Path(row.path)
    assert sweep_form.saved("tiny", "else").name == "tiny-2.yaml"


@pytest.mark.usefixtures("home")
def test_a_field_says_what_is_wrong_and_all_can_be_undone() -> None:
    asked = {"space.lora.r": "0, 8", "base.overrides": "data.path: /etc/passwd", "budget": ""}
    test = show("sweeps", **asked)
    page = html(test)
    assert "must be at least 1" in page and launches(test).disabled
    assert "tpe search has no end" in page
    (undo,) = [b for b in test.button if b.label == "Undo all changes"]
    undo.click().run()
    assert not launches(test).disabled and not set(asked) & set(test.query_params)
    page = html(show("sweeps", **{"base.overrides": "data.path: /etc/passwd"}))
    assert "the panel reads files under" in page
    page = html(show("sweeps", metric="val/loss"))
    assert "24 trials" in page and "mode: min" not in page


@pytest.mark.usefixtures("home")
def test_the_form_measures_what_a_sweep_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(TINY)
    asked: list[dict[str, str]] = []

    def command(request: dict[str, str]) -> None:
        assert parse_sweep(request["sweep"], TINY) == sweep
        asked.append(request)
        if len(asked) == 1:
            raise estimate.CannotMeasure("a run is training")
        speaker = sweep_estimate.largest_config(sweep, base_config(sweep))
        measured(speaker, 1, 0.1, 1.0)
        measured(speaker, packing.FEW_ADAPTERS, 0.2, 1.5)

    monkeypatch.setattr(measure_button, "_measure", command)
    label = "Measure what it takes"
    for seen in ("a run is training", "1.5 GiB of memory for a full pack. About "):
        test = show("sweeps", file="tiny")
        assert seen not in html(test)
        next(b for b in test.button if b.label == label).click().run()
        measure_button._begun()[f"sweep {hash(TINY.read_text())}"].exception(timeout=300)
        test = show("sweeps", file="tiny")
        assert seen in html(test)
    assert [list(request) for request in asked] == [["sweep"]] * 2
    assert label not in [b.label for b in test.button]


@pytest.mark.usefixtures("home")
def test_a_sweep_whose_heaviest_trial_does_not_fit_is_refused_with_what_would() -> None:
    sweep = load_sweep(TINY)
    speaker = sweep_estimate.largest_config(sweep, base_config(sweep))
    assert speaker.lora.r == 32
    file = estimate.measurement_file(speaker)
    file.parent.mkdir(parents=True)
    largest = {"training.per_device_train_batch_size": 8}
    found = estimate.Measurement(False, 1, "packed", 20.0, 16.0, {}, 8.0, 0.1, 0.5, largest)
    file.write_text(json.dumps(asdict(found)))
    with pytest.raises(ConfigError, match="what fits: training.per_device_train_batch_size 8"):
        control.launch(TINY)
    searched = sweep.space | {MICRO_BATCH: Categorical(values=[4, 8])}
    assert (
        sweep_estimate.estimate_sweep(sweep.model_copy(update={"space": searched}), 0).trials == 24
    )
    test = show("sweeps", file="tiny")
    assert "more than the 16.0 GiB available" in html(test) and launches(test).disabled


@pytest.mark.usefixtures("home")
def test_the_form_notes_what_works_against_the_aim_of_its_trials() -> None:
    data_check.begun(base_config(load_sweep(TINY))).result()
    usual = html(show("sweeps", file="tiny"))
    assert "scores only" not in usual and "learning rate of" not in usual
    assert "warning" not in usual
    shared = "scheduler.warmup_steps: 700, evaluation.max_rows: 40"
    rates = "0.001, 5"  # one of them is usual
    edits = {"base.overrides": shared, "space.training.learning_rate": rates, "method": "grid"}
    test = show("sweeps", file="tiny", **edits)
    assert "at a learning rate of 5 a run" in html(test).lower() and not launches(test).disabled
    assert "the warm-up of 700 steps" in html(test).lower()  # where the schedule has one
    assert "each evaluation scores only 40 rows, of" in html(test).lower()
    (told,) = [e.proto.body for e in test.get("html") if 'class="at-button' in e.proto.body]
    assert (
        "<b>3 warnings:</b>" in told and 'data-to="st-key-row-values-training-learning_rate' in told
    )
    # Data over which the sweep searches are read when it is launched.
    test = show("sweeps", file="tiny", **edits, **{"space.data.task": "spell_out, count_letter"})
    assert "the warm-up" in html(test).lower() and "scores only" not in html(test)


@pytest.mark.usefixtures("home")
def test_the_form_reads_the_data_of_its_notes_without_waiting() -> None:
    edits = {"base.overrides": "evaluation.max_rows: 40"}
    test = show("sweeps", file="tiny", **edits)
    assert not launches(test).disabled
    data_check.begun(base_config(load_sweep(TINY))).result()
    test.run()
    assert "scores only 40 rows" in html(test) and "Reading the data" not in html(test)


@pytest.mark.usefixtures("home")
def test_the_picture_of_a_range_by_order_of_magnitude_names_its_powers_of_ten() -> None:
    drawn = html(show("sweeps", file="tiny"))  # 0.0002 to 0.01
    (told,) = re.findall(r'<span class="at"[^>]*>([^<]*)</span>', drawn)
    assert told == "0.001"  # 0.01 is named as the end
