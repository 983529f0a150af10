"""The panel's pages through AppTest, on stores that the tests fill."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic
import pytest
from sqlalchemy import delete
from streamlit.testing.v1 import AppTest

from src import paths, store
from src.analysis import misspellings
from src.config import (
    RunConfig,
    affecting,
    get,
    load_config,
    loading,
    parse_override,
    settings,
    with_overrides,
)
from src.format import duration, number
from src.panel.errors import filters, table
from src.panel.launch import data_check, form, upload
from src.panel.monitor import actions, tabs
from src.panel.server import KnownHosts
from src.panel.ui import charts, navigation
from src.panel.ui import html as ui_html
from src.runs import attempts, checks, launcher
from src.store.tables import EventKind, Metric, Status, SweepStatus
from src.training.data_files import DataError
from tests.helpers.pages import html, show
from tests.helpers.store import (
    HOSTILE,
    add_points,
    checkpoint,
    fill_predictions,
    fill_run,
    fill_sweep,
    press_again,
)

PAGES = paths.ROOT / "pages"
SEEN = {
    "rows": {"train": 320, "validation": 40, "test": 40},
    "leaks": {"train/test": 3},
    "duplicates": 2,
    "tokens": {"min": 20, "median": 25.0, "max": 40},
    "max_length": 96,
    "too_long": 0,
    "examples": [{"question": "q", "answer": "a", "pieces": ["<human>", ":\n", " a"]}],
}


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    charts._known.clear()
    data_check._begin.clear()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Launches without processes: the row is written, the data are taken as read."""
    ids: list[str] = []

    def launch(config):
        with store.writing() as session:
            ids.append(store.enqueue(session, config).id)
        return ids[-1]

    monkeypatch.setattr(launcher, "launch", launch)
    monkeypatch.setattr(checks, "data_preview", lambda config: SEEN)
    return ids


def settled(test: AppTest) -> AppTest:
    """The page once its data check is there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if "Reading the data" not in html(test):
            return test
        time.sleep(0.05)
        test.run()
    raise AssertionError("the data check never ended")


# --- overview -------------------------------------------------------------------------------------


def test_an_empty_overview_says_what_to_do_first():
    assert "Launch the first run" in html(show("overview"))


def test_the_overview_lists_every_status_and_why_a_run_failed():
    for status in Status:
        fill_run(status=status, steps=50, name=f"run {status}", reason=f"because {status}")
    body = html(show("overview"))
    for status in Status:
        assert f"run {status}" in body and f'class="badge {status.lower()}"' in body
    assert "because FAILED" in body and "because COMPLETED" not in body
    assert "1 queued, 1 starting, 1 running, 1 stopping" in body


def test_a_hostile_name_is_text_everywhere():
    run_id = fill_run(name=HOSTILE, reason=HOSTILE, words=[(HOSTILE, HOSTILE, HOSTILE + "x")])
    for page in ("overview", "monitor", "errors"):
        body = html(show(page, run=run_id))
        assert "<img" not in body
        assert "&lt;img" in body


# --- monitor --------------------------------------------------------------------------------------


def test_the_monitor_shows_the_run_of_the_address_or_the_newest_and_writes_it_there():
    old = fill_run(created_at=1_000_000_000.0, name="old")
    new = fill_run(name="new")
    assert show("monitor").query_params["run"] == new
    assert show("monitor", run="old").query_params["run"] == old
    assert f"did you mean &#x27;{new}&#x27;" in html(show("monitor", run=new[:-2]))


def test_the_monitor_of_a_running_run_has_numbers_with_units_curves_and_a_stop_button():
    run_id = fill_run(status=Status.RUNNING, steps=300)
    test = show("monitor", run=run_id)
    body = html(test)
    for text in ("step 300 of 600", "tokens/s", "GiB", "time left", "≈ ", "is training"):
        assert text in body or text == "is training"
    assert "step 250 of 600" in body, "the log's tail"
    figures = figures_of(test)
    assert list(figures)[:2] == ["Loss", "Accuracy"]
    assert [trace["name"] for trace in figures["Loss"]["data"]] == ["train", "validation"]
    test.button[0].click().run()
    with store.reading() as session:
        assert store.stop_requested(session, run_id)


@pytest.mark.usefixtures("busy")
def test_a_queued_run_says_what_it_waits_for_and_its_buttons_follow_its_status():
    run_id = fill_run(status=Status.QUEUED)
    with store.writing() as session:
        store.hold(session, [store.find(session, run_id)], held=True)
    test = show("monitor", run=run_id)
    assert "Now: held until somebody releases it." in html(test)
    assert [b.label for b in test.button] == ["Release", "Stop this run"]
    assert 'class="badge held"' in html(show("overview"))
    test.button[0].click().run()
    assert "Now: waits for a free slot." in html(test)
    test.button[0].click().run()
    assert test.toast[0].value == "It is the next to start."
    with store.reading() as session:
        run = store.find(session, run_id)
    starting = run.model_copy(update={"status": "STARTING"})
    assert actions.stage(run) == "queued" and actions.stage(starting) == "active"


def test_a_trial_leads_to_its_sweep_and_says_that_it_is_paused():
    states = {3: (Status.QUEUED, None)}
    file = paths.CONFIGS / "sweeps" / "tiny.yaml"
    sweep_id = fill_sweep(file, trials=4, status=SweepStatus.PAUSED, states=states)
    with store.reading() as session:
        (run,) = (
            run for run in store.list_trials(session, sweep_id) if run.status == Status.QUEUED
        )
    body = html(show("monitor", run=run.id))
    assert f"sweeps?sweep={sweep_id}" in body and "Now: waits while its sweep is paused." in body


def test_a_restored_best_step_is_told_from_the_last():
    run_id = fill_run(steps=600)
    assert "<dt>validation loss</dt>" in html(show("monitor", run=run_id))
    with store.writing() as session:
        store.set_best(session, run_id, 400)
    body = html(show("monitor", run=run_id))
    assert "<dt>validation loss, best step</dt>" in body
    assert "<dt>training loss, last step</dt>" in body


def test_an_ended_run_can_be_deleted_with_its_files_and_not_stopped():
    run_id = fill_run()
    test = show("monitor", run=run_id)
    assert [b.label for b in test.button] == ["Delete this run"]
    test.button[0].click().run()
    with store.reading() as session:
        assert not store.list_runs(session)
    assert not paths.log_file(run_id).exists() and not paths.predictions_dir(run_id).exists()


def test_an_unfinished_run_can_be_resumed_or_says_why_not(monkeypatch):
    run_id = fill_run(status=Status.STOPPED, steps=200)
    (paths.checkpoints_dir(run_id) / "step-200" / "optimizer.pt").unlink()
    test = show("monitor", run=run_id)
    test.button[0].click().run()
    assert "no verified checkpoint" in html(test)
    resumed = []
    monkeypatch.setattr(attempts, "resume", lambda run: resumed.append(run.id))
    test.button[0].click().run()
    assert resumed == [run_id]
    assert [b.label for b in show("monitor", run=fill_run(name="b")).button] == ["Delete this run"]


def test_each_checkpoint_says_its_state_and_what_can_be_done_with_it(monkeypatch):
    run_id = fill_run(status=Status.STOPPED, steps=300)
    for step in (100, 200):
        checkpoint(run_id, step)
    (paths.checkpoints_dir(run_id) / "step-100" / "optimizer.pt").write_bytes(b"x")
    test = show("monitor", run=run_id, view="Checkpoints")
    text = html(test)
    assert "val/exact_match" in text and "0.0 MiB" in text
    assert text.count("verified") == 2 and "verified · best" in text
    assert "step-100: optimizer.pt is not as it was written" in text
    keys = [b.key for b in test.button if b.key]
    assert {"resume 300", "resume 200", "delete 100", "merge 200"} <= set(keys)
    assert not {"resume 100", "merge 100"} & set(keys)
    assert f"launch?from={run_id}&amp;fork=200" in text
    test.button(key="delete 200").click().run()
    assert "the last two are kept" in html(test)
    test.button(key="delete 100").click().run()
    assert "step-100" not in html(test)
    resumed = []
    monkeypatch.setattr(attempts, "resume", lambda run, step: resumed.append((run.id, step)))
    test.button(key="resume 200").click().run()
    assert resumed == [(run_id, 200)]


def test_the_lineage_tells_what_happened_to_a_run():
    parent = fill_run(name="parent")
    run_id = fill_run(name="child", status=Status.RUNNING, steps=300)
    with store.writing() as session:
        child = store.find(session, run_id)
        child.parent_id, child.parent_step, child.attempt = parent, 200, 2
        session.add(child)
        why = f"healed after cuda_oom: {HOSTILE}"
        store.record_event(session, run_id, 2, EventKind.HEALED, why, step=200)
        store.record_event(session, run_id, 2, EventKind.WARNING, "no checkpoint at step 250")
    text = html(show("monitor", run=run_id, view="Lineage"))
    assert "attempt 2: healed after cuda_oom" in text and HOSTILE not in text
    assert f"monitor?run={parent}" in text
    assert text.count("no checkpoint at step 250") == 2  # in the list, and where nobody misses it
    assert "fork at step 200" in html(show("monitor", run=parent, view="Lineage"))


def test_a_fork_is_one_line_with_a_branch():
    parent = fill_run(name="parent")
    run_id = fill_run(name="child", status=Status.RUNNING, steps=300)
    with store.writing() as session:
        child = store.find(session, run_id)
        child.parent_id, child.parent_step = parent, 200
        session.add(child)
        # The child has steps 210 to 300 of its own.
        session.execute(delete(Metric).where(Metric.run_id == run_id, Metric.step <= 200))
    with store.reading() as session:
        found = charts.read_curves(session, store.find(session, run_id))
        own = store.curve(session, parent, "train/loss")
    line, branch = found.frames["train/loss"], found.branches["train/loss"]
    assert line["step"].tolist() == list(range(10, 301, 10))
    assert line["value"].tolist()[:20] == own["value"].tolist()[:20]
    assert branch["step"].tolist() == list(range(200, 601, 10))
    with store.reading() as session:
        shown = charts.marks(store.find(session, run_id))
    drawn = charts.figure(
        charts.CHARTS[0], found.frames, revision="r", branches=found.branches, marks=shown
    )
    assert [s.name for s in drawn.layout.shapes] == ["fork", "best"]
    assert [t.name for t in drawn.data if t.line.dash == "dot"] == [
        "train, not forked",
        "validation, not forked",
    ]


def test_an_early_stop_is_marked_and_a_silent_run_is_flagged():
    run_id = fill_run(steps=400, reason="early stopping: val/loss was not better")
    with store.reading() as session:
        assert [(m.kind, m.step) for m in charts.marks(store.find(session, run_id))] == [
            ("stop", 400),
            ("best", 400),
        ]
    run_id = fill_run(status=Status.RUNNING, steps=100)
    assert "No sign of life" not in html(show("monitor", run=run_id))
    with store.writing() as session:
        found = store.find(session, run_id)
        found.heartbeat_at = time.time() - 60
        session.add(found)
    assert "No sign of life for 1 min" in html(show("monitor", run=run_id))


def test_the_form_of_a_fork_names_what_cannot_change(launched, monkeypatch):
    run_id = fill_run(name="parent")
    test = settled(show("launch", **{"from": run_id, "fork": "200", "lora.r": "4"}))
    text = html(test)
    assert f"goes on from step 200 of {run_id}" in text
    assert f"a fork keeps the shape of its adapter: this must stay as in {run_id}" in text
    assert test.button[0].label == "Fork" and test.button[0].disabled
    forked = []
    monkeypatch.setattr(attempts, "fork", lambda run, config, step: forked.append(step) or run.id)
    test = settled(show("launch", **{"from": run_id, "fork": "200", "training.max_steps": "900"}))
    test.button[0].click().run()
    assert forked == [200] and not launched


def test_a_failed_run_says_why():
    run_id = fill_run(status=Status.FAILED, steps=0, curves=False, reason="no GPU for 4-bit")
    assert "no GPU for 4-bit" in html(show("monitor", run=run_id))


def test_a_resumed_run_says_which_attempt_it_is_and_where_its_best_step_was():
    run_id = fill_run(status=Status.RUNNING, steps=300)
    with store.writing() as session:
        store.find(session, run_id).attempt = 2
    body = html(show("monitor", run=run_id))
    assert "attempt 2 · step 300 of 600" in body and "best at step 300" in body


def test_the_settings_of_a_run_are_its_differences_from_the_nearest_preset():
    run_id = fill_run("tiny-correct", lora__r=48)
    body = html(show("monitor", run=run_id, view="Settings"))
    assert "lora.r" in body and ">48<" in body and "Preset tiny-correct" in body
    assert "lora.alpha" not in body


def test_the_log_tail_is_bounded_and_keeps_what_a_progress_bar_said_last(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {i}\n" for i in range(100_000)) + "10%\r20%\r30%\n")
    tail = tabs.log_tail(log)
    assert tail.endswith("line 99999\n30%") and len(tail) <= tabs.LOG_BYTES
    assert tail.startswith("line "), "a cut line is left out"
    assert tabs.log_tail(tmp_path / "none") == ""


def figures_of(test: AppTest) -> dict:
    sent = json.loads(test.get("bidi_component")[0].proto.json)
    return {title: json.loads(text) for title, text in sent["figures"].items()}


# --- curves ---------------------------------------------------------------------------------------


def test_only_new_points_are_read(monkeypatch):
    run_id = fill_run(status=Status.RUNNING, steps=300)
    asked = []
    curve = store.curve
    monkeypatch.setattr(
        store,
        "curve",
        lambda s, r, name, after_step: (
            asked.append((name, after_step)) or curve(s, r, name, after_step=after_step)
        ),
    )
    with store.reading() as session:
        first = charts.read_curves(session, store.find(session, run_id)).frames
    add_points(run_id, 301, 310)
    with store.reading() as session:
        second = charts.read_curves(session, store.find(session, run_id)).frames
    assert ("train/loss", -1) in asked and ("train/loss", 300) in asked
    assert len(second["train/loss"]) == len(first["train/loss"]) + 10
    assert second["train/loss"]["step"].is_monotonic_increasing


def test_two_runs_do_not_share_their_curves():
    ids = [fill_run(steps=100, name="a"), fill_run(steps=600, name="b")]
    with store.reading() as session:
        lengths = [
            len(charts.read_curves(session, store.find(session, i)).frames["train/loss"])
            for i in ids
        ]
    assert lengths == [10, 60]


def test_thinning_keeps_extremes_and_gaps_within_a_thousand_points():
    value = np.sin(np.arange(5000) / 50)
    value[1234] = 9.0
    value[2000:2100] = np.nan
    frame = pd.DataFrame({"step": np.arange(5000), "value": value})
    thin = charts.thin(frame)
    assert len(thin) <= charts.MAX_POINTS
    assert 9.0 in thin["value"].to_numpy()
    assert thin["value"].isna().sum() == 1 and thin["step"].is_monotonic_increasing
    assert charts.thin(frame.head(10)).equals(frame.head(10))


def test_a_metric_that_no_chart_knows_gets_its_own():
    assert [c.title for c in charts.charts(["val/loss", "kl"])] == ["Loss", "kl"]


def test_pace_and_time_left():
    frame = pd.DataFrame({"step": [0, 10, 20], "value": 0.0, "at": [100.0, 102.0, 104.0]})
    assert charts.pace(frame) == 5.0
    assert charts.pace(frame.head(1)) is None


# --- the form -------------------------------------------------------------------------------------


def test_every_setting_has_a_widget_with_its_help_and_bounds(launched):
    test = show("launch")
    keys = {w.key for kind in ("number_input", "text_input", "selectbox", "toggle", "text_area")
            for w in getattr(test, kind)}  # fmt: skip
    for setting in settings():
        assert f"set {setting.name}" in keys
    rank = test.number_input(key="set lora.r")
    assert (
        rank.value == 16 and "At least 1, at most 1,024" in rank.help and "Rank of the" in rank.help
    )


def test_widgets_are_given_the_values_that_they_show(launched):
    """A browser that misses the assignment starts from what the widget is given, and sends it
    back."""
    test = show("launch", **{"lora.r": "8"})
    for widget in [*test.number_input, *test.text_input, *test.text_area, *test.toggle]:
        if widget.value is not None:
            assert widget.proto.default == widget.value, widget.key
    assert not test.warning


def test_a_change_is_marked_stands_in_the_address_and_is_undone(launched):
    test = show("launch")
    test.number_input(key="set lora.r").set_value(32).run()
    assert test.query_params["lora.r"] == "32"
    assert "was 16" in test.number_input(key="set lora.r").label
    test.button(key="undo lora.r").click().run()
    assert "lora.r" not in test.query_params
    assert test.number_input(key="set lora.r").value == 16


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lora.r", "0"),
        ("training.learning_rate", "fast"),
        ("training.max_steps", "10000001"),
        ("data.template", "no place for it"),
        ("data.task", "speling"),
        ("lora.dropout", ""),
        ("lora.r", "many"),
        ("optimizer.name", "adam"),
    ],
)
def test_a_refusal_stands_at_its_field_in_the_words_of_the_command_line(launched, name, text):
    test = show("launch", **{name: text})
    value = text if "data." in name or "name" in name else parse_override(f"{name}={text}")[1]
    with pytest.raises(ValueError) as refused:
        load_config(overrides={name: value})
    field, words_ = next(iter(refused.value.problems.items()))
    shown = [
        e.proto.body for e in test.get("html") if 'class="problem" role="alert"' in e.proto.body
    ]
    assert any(form.escape(words_) in body for body in shown)
    assert f"<code>{field}</code>" in html(test)
    assert test.button[0].label == "Launch" and test.button[0].disabled
    assert not launched


def test_the_check_of_the_data_stands_at_its_field_and_can_be_repeated(launched, monkeypatch):
    def refuse(config):
        raise form.ConfigError({"data.path": "words.csv has no column 'answer'"})

    monkeypatch.setattr(checks, "data_preview", refuse)
    file = str(upload.keep("words.csv", b"x"))
    test = settled(show("launch", **{"data.path": file}))
    assert "words.csv has no column &#x27;answer&#x27;" in html(test) and test.button[0].disabled
    monkeypatch.setattr(checks, "data_preview", lambda config: SEEN)
    next(b for b in test.button if b.label == "Check again").click().run()
    assert not settled(test).button[0].disabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora.bias", "all"),
        ("lora.target_modules", "q_proj"),
        ("training.precision", "fp16"),
        ("model.load_in_4bit", "true"),
        ("backend", "unsloth"),
        ("early_stopping.metric", "val/bleu"),
        ("early_stopping.criteria", "luck"),
    ],
)
def test_a_setting_that_the_check_refuses_is_refused_after_a_green_check(launched, name, value):
    green = {"engine": "packed"}
    assert not settled(show("launch", **green)).button[0].disabled
    test = settled(show("launch", **green, **{name: value}))
    assert test.button[0].disabled and f"<code>{name}</code>" in html(test)


def test_the_data_are_looked_at_anew_for_each_setting_that_the_look_depends_on(home):
    class Reads:
        """A config that notes which settings are read."""

        def __init__(self, section: pydantic.BaseModel, names: set[str], prefix: str = ""):
            self._section, self._names, self._prefix = section, names, prefix

        def __getattr__(self, name: str):
            value = getattr(self._section, name)
            if isinstance(value, pydantic.BaseModel):
                return Reads(value, self._names, f"{self._prefix}{name}.")
            self._names.add(self._prefix + name)
            return value

    names: set[str] = set()
    config = load_config()
    checks.data_preview(Reads(config, names))
    assert names == affecting("data")
    looks = {data_check.begun(config)}
    for name in sorted(names):
        other = {"model.max_length": 20}.get(
            name, "correct" if name == "data.task" else "{question}:"
        )
        looks.add(data_check.begun(with_overrides(config.model_dump(), {name: other})))
    assert len(looks) == len(names) + 1


def test_the_form_shows_what_the_settings_come_to(launched):
    body = html(settled(show("launch", **{"training.gradient_accumulation_steps": "2"})))
    for text in ("<dd>64</dd>", "<dd>≈ 1,600</dd>", "<dd>5</dd>", "<dd>120</dd>"):
        assert text in body, text  # rows and tokens a step, steps per epoch, epochs
    assert "3 words are in both train and test" in body and "2 duplicate rows" in body
    assert "<span>:⏎</span>" in body


def test_launch_makes_one_row_of_two_presses_and_goes_to_the_monitor(launched):
    test = settled(show("launch", **{"lora.r": "8", "name": "my run"}))
    test.button[0].click().run()
    test.button[0].click().run()
    assert len(launched) == 1
    with store.reading() as session:
        run = store.find(session, launched[0])
    assert (
        run.name == "my run" and run.config["lora"]["r"] == 8 and run.config["lora"]["alpha"] == 32
    )


def test_a_second_press_while_the_first_one_launches_makes_no_second_row(launched, monkeypatch):
    launch = launcher.launch

    def slow(config):
        run_id = launch(config)
        press_again()
        return run_id

    monkeypatch.setattr(launcher, "launch", slow)
    settled(show("launch")).button[0].click().run()
    assert len(launched) == 1


def test_a_page_that_draws_itself_anew_does_not_hold_who_goes_elsewhere():
    """A click on another page's link came while the page decided to run anew."""

    def script():
        import streamlit as st
        from streamlit.runtime.scriptrunner import RerunData, RerunException, get_script_run_ctx

        from src.panel.ui import navigation

        if "went" in st.session_state:
            return
        requests = get_script_run_ctx().script_requests
        requests.request_rerun(RerunData(page_script_hash="elsewhere"))
        try:
            navigation.rerun_page()
        except RerunException as asked:
            st.session_state["went"] = asked.rerun_data.page_script_hash

    assert AppTest.from_function(script).run().session_state["went"] == "elsewhere"


def test_launch_again_with_edits_starts_from_the_settings_of_a_run(launched):
    run_id = fill_run("tiny-correct", lora__r=48, name="first")
    test = show("launch", **{"from": run_id})
    assert test.number_input(key="set lora.r").value == 48
    assert test.text_input(key="set name").value == "first"
    assert "data.task" not in test.query_params
    assert "no run" in html(show("launch", **{"from": "nothing"}))


def test_a_preset_is_chosen_and_edits_stay(launched):
    test = show("launch", **{"lora.r": "8"})
    test.segmented_control[0].set_value("tiny-correct").run()
    assert test.query_params["preset"] == "tiny-correct"
    assert test.number_input(key="set lora.r").value == 8
    steps = load_config(preset="tiny-correct").training.max_steps
    assert test.number_input(key="set training.max_steps").value == steps


@pytest.mark.parametrize("preset", ["tiny-spell", "gpt2"])
def test_copy_as_command_gives_the_same_config(preset):
    import shlex

    overrides = {
        "name": "a b'c",
        "lora.target_modules": ["c_attn", "x"],
        "data.template": "{question}=\n>",
        "training.learning_rate": 3e-5,
        "tracking.tags": ["1", "true"],
    }
    given = load_config(preset="tiny-spell", overrides=overrides)
    words_ = shlex.split(form.as_command(given, preset).replace("\\\n", " "))
    assert words_[:4] == ["spelltune", "launch", "--preset", preset]
    changes = dict(parse_override(w) for w in words_[5::2])
    assert load_config(preset=preset, overrides=changes) == given


def test_every_value_survives_its_text():
    given = load_config(preset="tiny-spell", overrides={"lora.target_modules": ["a", "b"]})
    for setting in settings():
        value = get(given, setting.name)
        text = form.to_text(setting, value)
        # PyYAML reads 1e-08 as a text, and RunConfig that as a number.
        read = form.from_text(setting, text)
        number = setting.type is float and read is not None
        assert (float(read) if number else read) == value, setting.name


def test_a_new_setting_appears_without_touching_the_page(launched, monkeypatch):
    class Wider(RunConfig):
        novelty: int = pydantic.Field(default=3, ge=1)
        """How new it is."""

    monkeypatch.setattr(loading, "RunConfig", Wider)
    monkeypatch.setattr(settings, "__defaults__", (Wider, ""))
    widget = show("launch", novelty="0").number_input(key="set novelty")
    assert (widget.label, widget.value) == ("Novelty :orange[was 3]", 0)
    assert "How new it is." in widget.help and "At least 1." in widget.help


# --- uploads --------------------------------------------------------------------------------------


def test_an_upload_is_kept_under_home_whatever_its_name(home):
    kept = [
        upload.keep(n, b"question,answer\n") for n in ("../../etc/x y.csv", "w.csv", "/abs/.csv")
    ]
    assert all(p.parent == home / "data" and p.is_file() for p in kept)
    assert kept[0].name == "x-y.csv"
    other = upload.keep("w.csv", b"question,answer\nother,one\n")
    assert other.name == "w-2.csv" and kept[1].read_bytes() == b"question,answer\n"
    assert upload.keep("w.csv", b"question,answer\n") == kept[1]


# --- the words ------------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    [
        ("recieve", "receive", "recieve", False, 1),
        ("rythm", "rhythm", "rythem", False, 2),
        ("word", "word", "word", True, 0),
        ("=1+1", "@x", "-y", False, 2),
    ],
    columns=["question", "expected", "predicted", "correct", "edit_distance"],
)


def test_words_are_found_filtered_and_sorted():
    def select(order="most edits", **asked):
        frame = misspellings.with_kinds(FRAME).assign(task="word")
        tests = filters.masks(frame, misspellings.edit_table(frame), asked)
        return filters.ordered(filters.passing(tests, frame), order)["question"].tolist()

    assert select(wrong="") == ["=1+1", "rythm", "recieve"]
    assert select(order="fewest edits")[0] == "word"
    assert select(wrong="", find="RHYTHM") == ["rythm"]
    assert select(find=".*") == []
    assert select(distance="1") == ["recieve"]
    assert select(distance="4 or more") == []
    assert select(kind="transposition", length="7") == select(at="4") == ["recieve"]
    assert select(letters=">e") == ["rythm"] and select(letters="e>") == []
    assert select(letter="w") == ["word"]


def test_differing_letters_are_marked_by_more_than_colour():
    assert table.marked("seperate", "separate") == (
        '<bdi>sep<mark class="missed">e</mark>rate</bdi>',
        '<bdi>sep<mark class="wrong">a</mark>rate</bdi>',
    )
    assert '<mark class="gap"></mark>' in table.marked("occurred", "occured")[1]
    assert table.marked("word", "")[1] == "<i>nothing</i>"
    assert "underline" in (paths.ROOT / "src/panel/panel.css").read_text().split("mark {")[1][:120]


def test_what_a_model_answers_is_text():
    assert ui_html.printable("<b>\u202ex\x00\n") == "&lt;b&gt;\\u202ex\\u0000\\u000a"


def test_the_errors_page_restores_its_filters_from_the_address_and_switches_splits():
    run_id = fill_run()
    fill_predictions(run_id, 600, [("tset", "test", "tset")], rows=50, split="test")
    test = show("errors", run=run_id, find="rhythm")
    body = html(test)
    assert "97.0%" in body and "12 of 400" in body
    assert "rythm" in body and "recieve" not in body
    body = html(show("errors", run=run_id, split="test"))
    assert "1 of 50" in body and "tset" in body
    every = html(show("errors", run=run_id, every="true"))
    rows = every.split('<table class="rows')[1].count("<tr>")
    assert "400 words" in every and rows == 101, "a page of 100 and the head"


@pytest.mark.timed
def test_a_table_of_ten_thousand_words_opens_within_a_second():
    run_id = fill_run(words=[(f"w{i}", f"word{i}", f"wrod{i}") for i in range(9000)], rows=10_000)
    show("errors", run=run_id)
    start = time.perf_counter()
    show("errors", run=run_id)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    "bad", [{"page": "99"}, {"distance": "many"}, {"split": "x"}, {"order": "?"}, {"every": "7"}]
)
def test_an_address_with_nonsense_shows_the_page_without_it(bad):
    run_id = fill_run(rows=400)
    assert "12 of 400" in html(show("errors", run=run_id, **bad))


def test_a_run_without_scored_words_says_so():
    run_id = fill_run(status=Status.RUNNING, steps=50, curves=False)
    assert "has not been scored on its validation words" in html(show("errors", run=run_id))
    assert "No runs yet" not in html(show("errors", run=run_id))


# --- what the pages share -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (8, "8 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (2e5, "2 d 7 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_numbers_have_units_and_nan_is_a_dash():
    assert number(9800.4, ",.0f", "tokens/s") == "9,800 tokens/s"
    assert number(float("nan")) == number(None, unit="GiB") == "–"


def test_links_escape_what_they_hold():
    anchor = navigation.link("monitor", "<b>", {"run": 'x"><script>'})
    assert anchor == (
        '<a class="inner " href="monitor?run=x%22%3E%3Cscript%3E" target="_self">&lt;b&gt;</a>'
    )


def test_no_page_imports_what_trains():
    code = (
        "import sys, runpy, glob\n"
        "import app, pkgutil, importlib, src.panel\n"
        "for module in pkgutil.walk_packages(src.panel.__path__, 'src.panel.'):\n"
        "    if module.name != 'src.panel.main':  # a Streamlit script\n"
        "        importlib.import_module(module.name)\n"
        "for page in glob.glob('pages/*.py'):\n"
        "    runpy.run_path(page)\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'unsloth', 'wandb'} & set(sys.modules)\n"
        "print(heavy or 'light')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT
    )
    assert run.stdout.strip().endswith("light"), run.stdout + run.stderr[-2000:]


# --- the server -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "host", "origin", "answer"),
    [
        ("http", "127.0.0.1:8501", None, True),
        ("http", "localhost:8501", None, True),
        ("http", "192.168.1.4:8501", None, True),
        ("http", "evil.example", None, False),
        ("http", "panel.example", None, True),
        ("http", "x.studio.example", None, True),
        ("http", "studio.example.evil.com", None, False),
        ("http", "", None, False),
        ("http", "127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("http", "127.0.0.1:8501", "https://evil.example", False),
        ("http", "127.0.0.1:8501", "https://panel.example", True),
        ("websocket", "127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("websocket", "127.0.0.1:8501", "https://evil.example", False),
        ("websocket", "127.0.0.1:8501", "https://panel.example", True),
        ("websocket", "panel.example", "https://panel.example", True),
        ("websocket", "evil.example", "https://evil.example", False),
        ("websocket", "127.0.0.1:8501", "null", False),
    ],
)
def test_only_known_hosts_are_answered(kind, host, origin, answer):
    import asyncio

    reached, sent = [], []

    async def inner(scope, receive, send):
        reached.append(dict(scope["headers"]))

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    scope = {"type": kind, "headers": headers, "method": "GET", "path": "/"}
    app = KnownHosts(inner, names=["localhost", "panel.example", "*.studio.example"])
    asyncio.run(app(scope, receive, send))
    assert bool(reached) is answer
    if not answer:
        refused = {"http": 403, "websocket": 1008}[kind]
        assert refused in (sent[0].get("status"), sent[0].get("code"))


def test_the_data_error_of_a_missing_column_is_what_the_form_shows(home):
    """The sentence that the page shows is the loader's own."""
    from src.training.data_loaders import load_splits

    path = upload.keep("words.csv", b"question,anser\na,b\n")
    with pytest.raises(DataError, match="no column 'answer'.*anser"):
        load_splits(task="mine", path=str(path))
