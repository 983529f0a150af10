"""The Monitor page and its curves through AppTest, on stores that the tests fill."""

import re
import time

import numpy as np
import pytest
from sqlalchemy import delete, update
from sqlmodel import col
from streamlit.testing.v1 import AppTest

from src import paths, store
from src.panel.monitor import actions, curves, log, marks, words
from src.panel.ui import charts, failure, guarded, navigation, points
from src.runs import attempts, deletion, result_file
from src.store.outcome import EndReason, Outcome
from src.store.tables import EventKind, Metric, Run, Status, SweepStatus
from tests.helpers.pages import figures_of, html, log_of, show
from tests.helpers.store import (
    HOSTILE,
    MISSPELLED,
    add_points,
    checkpoint,
    end,
    fill_predictions,
    fill_run,
    fill_sweep,
)

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
    assert "step 250 of 600" in log_of(test), "the log's tail"
    figures = figures_of(test)
    assert list(figures)[:2] == ["Accuracy", "Loss"]
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
    assert "The run is held until somebody releases it." in html(test)
    assert [b.label for b in test.button] == ["Release", "Stop this run"]
    assert 'class="badge held"' in html(show("overview"))
    test.button[0].click().run()
    assert "The run waits for a free slot, the next in line." in html(test)
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
    assert f"sweeps?sweep={sweep_id}" in body and "The run waits while its sweep is paused." in body


def test_a_restored_best_step_is_told_from_the_last():
    run_id = fill_run(steps=600)
    assert "<dt>validation loss</dt>" in html(show("monitor", run=run_id))
    with store.writing() as session:
        store.set_best(session, run_id, 400)
    body = html(show("monitor", run=run_id))
    assert "<dt>validation loss, best step</dt>" in body
    assert "<dt>training loss, last step</dt>" in body


def test_a_run_that_ended_leads_to_what_one_does_with_it():
    ended, never = fill_run(), fill_run(status=Status.CANCELLED, name="never")
    body = html(show("monitor", run=ended))
    for page in ("errors?run=", "try?run=", "compare?run=", "launch?from="):
        assert f'href="{page}{ended}"' in body, page
    body = html(show("monitor", run=never))
    assert "try?run=" not in body and f'href="launch?from={never}"' in body


def test_an_ended_run_can_be_deleted_with_its_files_and_not_stopped():
    run_id = fill_run()
    test = show("monitor", run=run_id)
    assert [b.label for b in test.button] == ["Delete this run"]
    test.button[0].click().run()
    with store.reading() as session:
        assert not store.list_runs(session)
    assert not paths.log_file(run_id).exists() and not paths.predictions_dir(run_id).exists()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("label", ["Stop this run", "Start next", "Hold"])
def test_a_press_for_a_run_that_another_tab_deleted_is_answered(label: str) -> None:
    run_id = fill_run(status=Status.QUEUED)
    test = show("monitor", run=run_id)
    end(run_id, Status.CANCELLED)
    with store.writing() as session:
        store.delete_rows(session, run_id)
    (button,) = [b for b in test.button if b.label == label]
    button.click().run()
    assert not test.exception
    assert f"no run '{run_id}'" in test.session_state[guarded.TOLD]


def test_a_second_press_of_delete_finds_it_done() -> None:
    run_id = fill_run()
    test = show("monitor", run=run_id)
    test.button[0].click()
    sent = test._tree.get_widget_states()  # by each press of a double click
    with store.reading() as session:
        deletion.delete(store.find(session, run_id))
    test._run(sent)
    assert not test.exception and guarded.TOLD not in test.session_state
    assert test.session_state["go to"] == navigation.address("overview")


def test_a_run_that_was_resumed_meanwhile_stays_and_that_is_told() -> None:
    run_id = fill_run(status=Status.STOPPED, steps=200)
    test = show("monitor", run=run_id)
    with store.writing() as session:
        session.execute(update(Run).where(col(Run.id) == run_id).values(status=Status.QUEUED))
    (button,) = [b for b in test.button if b.label == "Delete this run"]
    button.click().run()
    assert not test.exception and "is QUEUED; stop it first" in test.toast[0].value


def test_an_unfinished_run_can_be_resumed_or_says_why_not(monkeypatch):
    run_id = fill_run(status=Status.STOPPED, steps=200)
    (paths.checkpoints_dir(run_id) / "step-200" / "optimizer.pt").unlink()
    test = show("monitor", run=run_id)
    test.button[0].click().run()
    assert "no verified checkpoint" in test.toast[0].value
    resumed = []
    monkeypatch.setattr(attempts, "resume", lambda run: resumed.append(run.id))
    show("monitor", run=run_id).button[0].click().run()
    assert resumed == [run_id]
    assert [b.label for b in show("monitor", run=fill_run(name="b")).button] == ["Delete this run"]


def test_each_checkpoint_says_its_state_and_what_can_be_done_with_it(monkeypatch):
    run_id = fill_run(status=Status.STOPPED, steps=300)
    for step in (100, 200):
        checkpoint(run_id, step)
    (paths.checkpoints_dir(run_id) / "step-100" / "optimizer.pt").write_bytes(b"x")

    def at(step: str) -> AppTest:
        return show("monitor", run=run_id, view="Checkpoints", step=step)

    test = at("")  # the newest
    text = html(test)
    (table,) = re.findall('<table class="rows checkpoints">.*?</table>', text)
    assert '<th scope="col" class="num">Validation accuracy (exact match)</th>' in table
    assert '<th scope="col" class="num">Size (KiB)</th>' in table and " KiB<" not in table
    assert table.count("verified") == 2 and "verified · best" in table
    assert "step-100: optimizer.pt is not as it was written" in table
    assert test.selectbox(key="chosen step").options == ["step 300", "step 200", "step 100"]
    assert {"resume 300", "delete 300"} <= {b.key for b in test.button}
    assert f"launch?from={run_id}&amp;fork=300" in text
    test, text = at("200"), html(at("200"))
    assert f"monitor?run={run_id}&amp;view=Export&amp;step=200" in text
    assert f"launch?from={run_id}&amp;fork=200" in text
    test.button(key="delete 200").click().run()
    assert "the last two are kept" in test.toast[0].value
    test = at("100")
    assert "resume 100" not in {b.key for b in test.button} and "fork=100" not in html(test)
    assert "view=Export&amp;step=100" not in html(test)
    test.button(key="delete 100").click().run()
    assert "step-100" not in html(test)
    resumed = []
    monkeypatch.setattr(attempts, "resume", lambda run, step: resumed.append((run.id, step)))
    at("200").button(key="resume 200").click().run()
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
    # In the list, and where nobody misses it.
    assert "no checkpoint at step 250" in text and "No checkpoint at step 250." in text
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
        child = store.find(session, run_id)
        shown = marks.read(session, child, found)
    drawn = curves.figures(child, found, shown, {}, {})["Loss"]
    assert "forked at step 200" in [a.hovertext for a in drawn.layout.annotations]
    assert [t.name for t in drawn.data if t.line.dash == "dot"] == [
        "train, not forked",
        "validation, not forked",
    ]


@pytest.mark.parametrize(
    ("end_reason", "steps", "told", "launch", "changed"),
    [
        (EndReason.CUDA_OUT_OF_MEMORY, 100, "Smaller batches take less memory",
         "Launch with batches of 16",
         "training.per_device_train_batch_size=16&amp;training.gradient_accumulation_steps=2"),
        (EndReason.DIVERGED, 0, "A lower learning rate may mend it.",
         "Launch with learning rate 0.001", "training.learning_rate=0.001"),
        (EndReason.KILLED, 0, "It had saved no checkpoint: launch it again.",
         "Launch again with edits", ""),
    ],
)  # fmt: skip
def test_a_run_that_ended_badly_says_on_both_pages_why_and_what_to_do_next(
    end_reason, steps, told, launch, changed
):
    run_id = fill_run(status=Status.FAILED, steps=steps, reason="it is told: so")
    with store.writing() as session:
        store.find(session, run_id).end_reason = end_reason
    for page in ("monitor", "overview"):
        test = show(page, run=run_id)
        body = html(test)
        assert body.count("It is told: so.") == 1 and body.count("it is told") == 0
        assert body.count(told) == 1 and f">{launch}</a>" in body and changed in body
        resumes = [b for b in test.button if b.label == "Resume"]
        assert len(resumes) == bool(steps) == body.count("Resume goes on from step 100;")
    assert body.count("Launch again with edits") == (end_reason is EndReason.KILLED)


def test_a_failed_run_is_offered_what_would_heal_it():
    def offered(engine="trl", *, scoring=False, **settings):
        run_id = fill_run(status=Status.FAILED, steps=0, reason="it is told", **settings)
        outcome = Outcome(EndReason.CUDA_OUT_OF_MEMORY, scoring=scoring)
        result_file.write_result(run_id, 1, outcome)
        with store.writing() as session:
            run = store.find(session, run_id)
            run.end_reason, run.used = outcome.end_reason, {"engine": engine}
        launch = failure.next_launch(run)
        return launch.text, launch.changed

    rows, times = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
    three = {"training__per_device_train_batch_size": 3}
    # A step keeps its rows: 3 are one in three parts, and not 2 in two.
    assert offered(**three) == ("Launch with batches of 1", {rows: "1", times: "3"})
    # The packed engine takes a step's rows at once: smaller micro-batches would not help it.
    assert offered("packed", **three) == ("Launch with engine trl", {"engine": "trl"})
    scored = ("Launch with scoring batches of 100", {"evaluation.batch_size": "100"})
    assert offered("packed", scoring=True) == scored
    one = {"training__per_device_train_batch_size": 1}
    assert offered(**one) == ("Launch again with edits", {})


def test_a_failed_run_is_resumed_from_its_banner(monkeypatch):
    run_id = fill_run(status=Status.FAILED, steps=200, reason="lost")
    resumed = []
    monkeypatch.setattr(attempts, "resume", lambda run: resumed.append(run.id))
    test = show("monitor", run=run_id)
    test.button(key=f"resume {run_id}").click().run()
    assert resumed == [run_id]


def test_an_early_stop_is_marked_and_a_silent_run_is_flagged():
    run_id = fill_run(steps=400, reason="early stopping: val/loss was not better")
    assert kinds_of(run_id) == [("checkpoint", 400), ("stop", 400), ("best", 400)]
    run_id = fill_run(status=Status.RUNNING, steps=100)
    page = html(show("monitor", run=run_id))
    assert "No sign of life" not in page and '<div data-live="silence"></div>' in page
    assert "<dt>time left</dt><dd>≈ " in page
    assert "≈ " in html(show("overview")) and "sign of life" not in html(show("overview"))
    with store.writing() as session:
        found = store.find(session, run_id)
        found.heartbeat_at = time.time() - 60
        session.add(found)
    page = html(show("monitor", run=run_id))
    assert "No sign of life for 1 min" in page
    # When it will have ended nobody knows then.
    assert "<dt>time left</dt><dd>–" in page
    (card,) = re.findall('<section class="cards".*?</section>', html(show("overview")))
    assert '<strong class="silent">No sign of life for 1 min' in card and "≈" not in card
    # Told apart from the head, which is drawn anew each second.
    (told,) = re.findall(r'<div class="unseen" role="status">(.*?)</div>', page)
    assert told == '<div data-live="silence">The run gives no sign of life.'


def test_a_run_that_waits_says_its_place_and_a_failed_one_leads_to_its_log():
    first = fill_run(status=Status.QUEUED, name="first", created_at=time.time() - 20)
    second = fill_run(status=Status.QUEUED, name="second", created_at=time.time() - 10)
    body = html(show("monitor", run=first))
    assert "waits for a free slot, the next in line" in body
    assert "<dd>–</dd>" not in body  # what it has not measured yet
    assert "number 2 in line, behind first" in html(show("monitor", run=second))
    with store.writing() as session:
        store.find(session, second).held_at = 1.0
    assert "in line" not in html(show("monitor", run=second))
    failed = fill_run(status=Status.FAILED, steps=40, reason="no GPU for 4-bit")
    assert 'data-jump=".st-key-chosen-view">See the log</a>' in html(show("monitor", run=failed))
    assert "See the log" not in html(show("monitor", run=fill_run()))


def kinds_of(run_id: str) -> list[tuple[str, int]]:
    """Kind and step of the marks of a run."""
    with store.reading() as session:
        run = store.find(session, run_id)
        shown = marks.read(session, run, charts.read_curves(session, run))
    return [(mark.kind, mark.step) for mark in shown]


def test_no_step_is_the_best_while_all_scores_tie():
    run_id = fill_run(status=Status.RUNNING, steps=0, curves=False)
    with store.writing() as session:
        run = store.find(session, run_id)
        run.best_step = 100
        ties = [(step, "val/exact_match", 0.0, 1.0) for step in (0, 100, 200)]
        store.record_metrics(session, run_id, 1, ties)
    assert kinds_of(run_id) == []
    assert "best at step" not in html(show("monitor", run=run_id))
    with store.writing() as session:
        store.find(session, run_id).best_step = 300
        store.record_metrics(session, run_id, 1, [(300, "val/exact_match", 0.1, 2.0)])
    assert kinds_of(run_id) == [("best", 300)]
    assert "best at step 300" in html(show("monitor", run=run_id))


def test_a_failed_run_says_why():
    run_id = fill_run(status=Status.FAILED, steps=0, curves=False, reason="no GPU for 4-bit")
    assert "No GPU for 4-bit." in html(show("monitor", run=run_id))


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
    differing, _, everything = body.partition("What the trainer used")
    assert "lora.alpha" not in differing and "lora.alpha" in everything
    # Values as people read them, not as Python prints them.
    assert "no NVIDIA GPU here" in everything and "{'" not in everything


def test_a_run_that_ended_before_its_first_line_has_no_log():
    never = fill_run(status=Status.CANCELLED)
    assert "No log" in html(show("monitor", run=never))
    waits = fill_run(status=Status.QUEUED)
    assert log_of(show("monitor", run=waits)) == ""
    nobody = html(show("monitor", run="nobody"))
    assert "No run &#x27;nobody&#x27;.<br>" in nobody and "spelltune runs" not in nobody


def test_the_log_tail_is_bounded_and_keeps_what_a_progress_bar_said_last(tmp_path):
    file = tmp_path / "log"
    file.write_text("".join(f"line {i}\n" for i in range(100_000)) + "10%\r20%\r30%\n")
    tail = log.tail(file)
    assert tail.endswith("line 99999\n30%") and len(tail) <= log.LOG_BYTES
    assert tail.startswith("line "), "a cut line is left out"
    assert log.tail(tmp_path / "none") == ""


def test_lines_of_a_log_have_levels():
    text = """step 1: train/loss 2
FutureWarning: <b> will go
Traceback (most recent call last):
  File "a.py", line 3, in f

    step()
RuntimeError: out of memory
step 2: train/loss 1
an error rate of 0.1, and none failed
2026-01-02 03:04 - trl - ERROR - out of memory
[warn] old"""
    levels = [level for _, level in log.told(text.splitlines())]
    assert levels == ["", "warning", *["error"] * 5, "", "", "error", "warning"]
    assert '<span class="warning">FutureWarning: &lt;b&gt;' in log.as_html(text.splitlines())


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
    kept = points.thin(value)
    assert len(kept) <= points.MAX_POINTS
    assert 1234 in kept and (np.diff(kept) > 0).all()
    assert np.isnan(value[kept]).sum() == 1
    assert points.thin(value[:10]).tolist() == list(range(10))


def test_a_metric_that_no_chart_knows_gets_its_own():
    assert [c.title for c in charts.charts(["val/loss", "kl"])] == ["Loss", "kl"]


def test_a_run_that_learned_nothing_says_so_and_leads_to_the_launch_that_mends_it():
    run_id = fill_run(name="hot", steps=0, training__learning_rate=9.0)
    assert "learned nothing" not in html(show("monitor", run=run_id))
    points = [(step, name, value, 1e9 + step) for step in (100, 200) for name, value in (
        ("val/exact_match", 0.0), ("val/loss", float(step)), ("grad_norm", 1e4 * step),
    )]  # fmt: skip
    with store.writing() as session:
        store.record_metrics(session, run_id, 1, points)
    text = html(show("monitor", run=run_id))
    assert "Completed, but learned nothing" in text and "Launch with learning rate 0.003" in text
    assert f"launch?from={run_id}&amp;training.learning_rate=0.003" in text


def test_runs_are_chosen_by_name_and_seed_and_by_id_where_these_are_the_same():
    one = fill_run(name="rank4", training__seed=1, created_at=1e9, curves=False)
    again = fill_run(name="rank4", training__seed=2, created_at=2e9, curves=False)
    same = fill_run(name="rank4", training__seed=2, created_at=2.1e9, curves=False)
    test = show("monitor", run=one)
    box = test.selectbox(key="picked run")
    assert box.value == one and one not in box.options
    assert set(box.options) == {
        "rank4 · seed 1",
        *(f"rank4 · seed 2 · {i.rpartition('_')[2]}" for i in (again, same)),
    }
    box.set_value(again).run()
    assert test.query_params["run"] == again
    chips = show("compare", run=[one, again]).multiselect(key="compared")
    assert chips.value == [one, again] and "rank4 · seed 1" in chips.options


def test_a_killed_run_says_what_a_resume_costs_and_its_reason_is_in_words(home):
    run_id = fill_run(status=Status.INTERRUPTED, steps=120, reason="signal 9 (SIGKILL) ended it")
    with store.writing() as session:
        run = store.find(session, run_id)
        run.end_reason, run.step = EndReason.KILLED, 126
    body = html(show("monitor", run=run_id))
    assert "often for lack of memory. Resume goes on from step 120; 6 steps are trained" in body
    reason = "early stop: val/exact_match was not better than at step 60 in 3 evaluations"
    body = html(show("monitor", run=fill_run(reason=reason)))
    assert "validation accuracy (exact match) was not better" in body and "val/" not in body


def axes_of(test: AppTest, title: str) -> tuple[dict, dict]:
    layout = figures_of(test)[title]["layout"]
    return layout["xaxis"], layout["yaxis"]


def test_axes_begin_at_0_span_what_is_sensible_and_leave_out_the_first_huge_values():
    run_id = fill_run(status=Status.RUNNING, steps=0, training__max_steps=600)
    loss = [9.0, 8.0, *(2 - step / 100 for step in range(2, 30))]
    rows = [(step * 10, "train/loss", value, 1e9) for step, value in enumerate(loss)]
    rows += [(0, "val/exact_match", 0.004, 1e9), (10, "cpu/memory_gib", 0.71, 1e9)]
    with store.writing() as session:
        store.record_metrics(session, run_id, 1, rows)
    test = show("monitor", run=run_id)
    x, y = axes_of(test, "Loss")
    assert x["range"] == [-9, 609] and y["autorangeoptions"]["clipmax"] == pytest.approx(2.134)
    assert y["autorangeoptions"]["clipmin"] == 0
    _, y = axes_of(test, "Accuracy")
    assert y["autorangeoptions"]["include"] == [0, 0.1]  # whole percents, each once
    _, y = axes_of(test, "Memory")
    assert y["rangemode"] == "tozero" and y["autorangeoptions"]["include"] == [0, 1]
    # A run that gets worse is shown as it is: its high values come late.
    rows = [(step, "train/loss", value, 1e9) for step, value in enumerate(loss[::-1])]
    worse = fill_run(status=Status.RUNNING, steps=0, training__max_steps=600, name="worse")
    with store.writing() as session:
        store.record_metrics(session, worse, 1, rows)
    _, y = axes_of(show("monitor", run=worse), "Loss")
    assert "clipmax" not in y["autorangeoptions"]


@pytest.mark.parametrize("status", [Status.RUNNING, Status.STOPPED, Status.COMPLETED])
def test_the_axis_of_a_loss_that_fell_to_less_than_half_begins_at_0(status):
    for last, include in ((1.3, [0, 4]), (2.6, None)):
        run_id = fill_run(status=status, steps=0, training__max_steps=600, name=f"to {last}")
        rows = [(step, "train/loss", 3.5 + (last - 3.5) * step / 100, 1e9) for step in (0, 50, 100)]
        with store.writing() as session:
            store.record_metrics(session, run_id, 1, rows)
        _, y = axes_of(show("monitor", run=run_id), "Loss")
        assert y["autorangeoptions"].get("include") == include


def test_the_words_now_have_heads_and_fill_their_room():
    long = "p h l e g m a t o u s"
    wrong = [*MISSPELLED[:2], (long, long, long.replace("u ", "")), *MISSPELLED[2:]]
    body = html(show("monitor", run=fill_run(words=wrong)))
    (card,) = re.findall('<section class="card words-now">.*?</section>', body)
    assert "<span>expected</span><span>written</span>" in card
    assert card.count("<a href") == words.ROOM - 1  # the long one stands over its answer


def test_a_loss_of_one_point_has_an_axis_around_it():
    run_id = fill_run(status=Status.RUNNING, steps=0)
    with store.writing() as session:
        store.record_metrics(session, run_id, 1, [(1, "train/loss", 9.75, 1e9)])
    _, y = axes_of(show("monitor", run=run_id), "Loss")
    low, high = y["autorangeoptions"]["include"]
    assert 9 < low < 9.75 < high < 10.5


def test_a_metric_without_a_point_has_no_chart():
    run_id = fill_run(status=Status.RUNNING, steps=60)
    with store.writing() as session:
        store.record_metrics(session, run_id, 1, [(50, "val/cer", 0.5, 1e9)])
        # The next attempt goes on before that evaluation.
        store.record_event(session, run_id, 2, EventKind.RESUMED, "asked", step=40)
    assert "Character error rate" not in figures_of(show("monitor", run=run_id))


def test_validation_has_one_colour_and_nothing_else_has_it():
    names = ["train/loss", "val/loss", "val/exact_match", "gpu/memory_gib", "cpu/memory_gib"]
    colours = dict(zip(names, [1, 2, 2, 1, 3], strict=True))
    for chart in charts.charts(names):
        shown = [name for name in chart.curves if name in names]
        assert list(curves._colours(shown)) == [colours[name] for name in shown]
    assert list(curves._colours(["gpu_utilization", "cpu_utilization"])) == [1, 3]


def test_what_happened_is_marked_on_the_axis_and_the_best_step_once():
    run_id = fill_run(steps=300)
    with store.writing() as session:
        store.record_event(session, run_id, 2, EventKind.HEALED, f"why: {HOSTILE}", step=100)
        store.record_event(session, run_id, 3, EventKind.RESUMED, "asked", step=200)
    figures = figures_of(show("monitor", run=run_id))
    marked = {a["name"]: a["hovertext"] for a in figures["Loss"]["layout"]["annotations"]}
    assert marked == {
        "checkpoint": "checkpoint at step 300",
        "heal": "attempt 2 goes on from step 100: why: &lt;img src=x<br>onerror=alert(1)&gt;",
        "resume": "attempt 3 goes on from step 200: asked",
    }
    lines = {title: drawn["layout"].get("shapes", []) for title, drawn in figures.items()}
    assert [title for title, drawn in lines.items() if drawn] == ["Accuracy"]
    assert not figures["Learning rate"]["layout"].get("annotations")


def test_the_words_beside_the_curves_are_those_of_the_kept_step():
    run_id = fill_run(steps=300, status=Status.COMPLETED)
    fill_predictions(run_id, 200, MISSPELLED)
    learned = [(question, right, right) for question, right, _ in MISSPELLED[:2]]
    fill_predictions(run_id, 250, [(HOSTILE, "right", HOSTILE), *learned, *MISSPELLED[2:]])
    body = html(show("monitor", run=run_id))
    assert "Words at step 300" in body and "Learned since step 250 <b>0</b>" in body
    with store.writing() as session:
        store.set_best(session, run_id, 250)
    body = html(show("monitor", run=run_id))
    assert "Words at step 250" in body and "Learned since step 200 <b>2</b>" in body
    assert HOSTILE not in body and "onerror" in body
    paths.predictions_file(run_id, 250, "validation").unlink()
    assert "Words at step" not in html(show("monitor", run=run_id))
