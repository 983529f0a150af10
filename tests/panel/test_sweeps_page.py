"""The Sweeps page: what became of a sweep, its figures and its buttons."""

import math
import re
import time
from html import unescape
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd
import pytest
import yaml
from sqlalchemy import event, insert, update
from streamlit.testing.v1 import AppTest

from src import paths, store
from src.analysis import exports
from src.format import settings_text
from src.panel.sweeps import all_sweeps, figures, table, view, winner
from src.panel.ui import paging
from src.paths import CONFIGS
from src.runs import launcher, machine, packing
from src.store.tables import LatestMetric, Run, Status, SweepStatus
from src.sweeps import control, results, search
from src.sweeps import estimate as sweep_estimate
from src.sweeps.file import (
    base_config,
    load_sweep,
)
from tests.helpers.pages import html, show
from tests.helpers.speed import slowness
from tests.helpers.store import HOSTILE, end, fill_predictions, fill_sweep
from tests.helpers.sweeps import TINY, measured, sweep_row, trials_of

VIEWS = ["Best so far", "Trials", "Parallel coordinates", "Importance", "Slices", "Packs"]


@pytest.mark.usefixtures("home")
def test_a_sweep_is_shown_with_its_ends_its_best_and_its_marks() -> None:
    states: dict[int, tuple[Status, str | None]] = {
        3: (Status.FAILED, f"cuda_oom: {HOSTILE}"),
        5: (Status.COMPLETED, "pruned: val/exact_match 0.1 at step 50 fell behind (median)"),
        9: (Status.COMPLETED, "early stopping: val/exact_match was not better"),
    }
    sweep_id = fill_sweep(TINY, states=states)
    for one in VIEWS:
        page = html(show("sweeps", sweep=sweep_id, view=one))
        assert "<dt>pruned</dt><dd>1</dd>" in page and "<dt>early stopped</dt><dd>1</dd>" in page
        assert "<dt>failed</dt><dd>1</dd>" in page and "<b>Best: " in page
        assert "<img" not in page
    page = html(show("sweeps", sweep=sweep_id, view="Importance"))
    shares = page.partition("Share of importance")[2]
    assert shares.index("Learning rate<") < shares.index("Rank<")
    assert "Exploratory" in page and "PED-ANOVA" in page
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
        document = results.document(session, found)
        packs = results.packs(session, found)
    assert found.counts == {"completed": 21, "failed": 1, "pruned": 1, "early stopped": 1}
    best = results.best_so_far(found)
    assert list(best["trials"]) == list(range(1, 23)) and best["best"].is_monotonic_increasing
    assert best["best"].iloc[-1] == document["best"]["score"] == found.settings["score"].max()
    # Three processes; a pack counts once, however many train in it.
    assert best["minutes"].iloc[-1] * 60 <= sum(p["seconds"] for p in packs)
    assert store.to_json(document)
    high = table.matching(found.trials, "score > 0.8 lora.r >= 16")
    assert len(high) and (high["score"] > 0.8).all() and (high["lora.r"] >= 16).all()
    assert list(table.matching(found.trials, "CUDA_OOM")["trial"]) == [3]
    fast = table.matching(found.trials, "learning_rate > 0.003")
    assert len(fast) and (fast["training.learning_rate"] > 0.003).all()
    assert table.unknown(found.trials, "learning_rate > 0.003 CUDA_OOM") is None
    page = html(show("sweeps", sweep=sweep_id, view="Trials", find="rate > 0.003"))
    assert "There is no column rate; " in page and "training.learning_rate" in page
    with store.writing() as session:
        store.set_notes(session, found.trials["run"].iloc[4], tags=["odd one"], notes=None)
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    assert list(table.matching(found.trials, "ODD")["trial"]) == [4]
    assert b",odd one," in exports.to_csv(found.trials)
    drawn = figures.slices(found)["training.learning_rate"]
    assert [trace.name for trace in drawn.data] == ["completed", "early stopped", "pruned"]
    assert drawn.layout.xaxis.type == "log" and drawn.layout.yaxis.tickformat == "~%"
    (lines,) = figures.parallel_figure(found).data
    rank, rate, *_ = lines.dimensions
    assert rank.ticktext == ("4", "8", "16", "32") and set(rank.values) <= {0, 1, 2, 3}
    assert rate.range == pytest.approx((math.log10(2e-4), -2.0))
    assert rate.ticktext == ("0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01")
    assert list(lines.line.color).count(1) == figures.highlighted_count(found) == 10


@pytest.mark.usefixtures("home")
def test_slices_mark_the_best_setting_and_say_in_their_titles_what_they_draw() -> None:
    sweep_id = fill_sweep(TINY)
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    drawn = figures.slices_of_page(found)
    best = found.settings.iloc[0]
    by_rank = drawn["Validation accuracy by rank"]
    assert len(drawn) == 3 and by_rank.layout.yaxis.title.text is None
    completed, mark = by_rank.data
    assert (mark.name, mark.x, mark.y) == ("best", (best["lora.r"],), (best["score"],))
    assert best["score"] == max(completed.y)
    (word,) = drawn["Validation accuracy by schedule"].data[-1].x
    assert word.replace("<br>", "_").replace(" ", "_") == best["scheduler.name"]
    assert len(figures.best_of_page(found)) == 1  # not the same twice
    # Where several tie none is marked.
    with store.writing() as session:
        session.execute(update(LatestMetric).values(value=0.5))
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    assert [one.name for one in figures.slices_of_page(found)[
        "Validation accuracy by rank"].data] == ["completed"]  # fmt: skip


@pytest.mark.usefixtures("home")
def test_packs_that_ran_tell_how_long_a_sweep_takes() -> None:
    # Three processes of eight trials, a trial each 40 s.
    sweep_id = fill_sweep(TINY)
    _, plan = control.read_and_estimate(TINY.read_text(), TINY)
    assert plan.seconds == pytest.approx((318 - 10) * 3 + 10)
    drawn = html(show("sweeps", file="tiny"))
    assert "24 trials drawn ≈ 15 min" in drawn and "known after" not in drawn
    assert "Estimate" not in drawn
    packs = html(show("sweeps", sweep=sweep_id, view="Packs"))
    assert "“Measure what it takes” beside <a" in packs and "spelltune sweep" not in packs
    # A rerun of the best takes what trials of their ranks took here.
    with store.writing() as session:
        for run in store.list_trials(session, sweep_id):
            run.host = machine.host()
    (rerun,) = [b for b in show("sweeps", sweep=sweep_id).button if b.label.startswith("Rerun")]
    assert re.fullmatch(r"Rerun the top 3 .*, 5 new seeds each \(20 runs, ≈ .*\)", rerun.label)


@pytest.mark.usefixtures("home")
def test_packs_show_what_was_measured_beforehand_and_what_they_took(tmp_path: Path) -> None:
    text = yaml.safe_load(TINY.read_text())
    text["base"]["overrides"]["pack_size"] = 64
    file = tmp_path / "packed.yaml"
    file.write_text(yaml.safe_dump(text))
    sweep = load_sweep(file)
    assert sweep_estimate.estimate_sweep(sweep, 0).seconds is None
    assert "Estimate: ≈ 16 min 8 s one by one (on two CPU cores)." in html(
        show("sweeps", file="tiny")
    )
    speaker = sweep_estimate.largest_config(sweep, base_config(sweep))
    assert speaker.lora.r == 32
    measured(speaker, 1, 0.1, 1.0)
    measured(speaker, packing.FEW_ADAPTERS, 0.2, 1.6)
    plan = sweep_estimate.estimate_sweep(sweep, 0)
    # Each adapter beyond the first takes 0.2 GiB and 1/30 s a step more.
    assert plan.peak_gib == pytest.approx(1.0 + 23 * 0.2)
    assert plan.seconds and plan.seconds > 200 * (0.1 + 23 * 0.1 / 3)
    sweep_id = fill_sweep(file)
    with store.reading() as session:
        packs = results.packs(session, results.read(session, sweep_row(sweep_id)))
    assert [(p["trials"], p["at_once"], p["steps"]) for p in packs] == [(8, 8, 1600)] * 3
    assert [p["seconds"] for p in packs] == [pytest.approx(38 + 7 * 40)] * 3
    assert packs[0]["predicted_gib"] == pytest.approx(2.4)
    page = html(show("sweeps", sweep=sweep_id, view="Packs"))
    assert (
        "5 min 18 s" in page
        and re.search(r'<td class="num"[^>]*>2\.4', page)
        and "--measure" not in page
    )


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("status", "trial"),
    [
        (SweepStatus.ACTIVE, Status.COMPLETED),
        (SweepStatus.PAUSED, Status.RUNNING),
        (SweepStatus.PAUSED, Status.QUEUED),
    ],
)
def test_nothing_is_rerun_while_trials_go_on(status: SweepStatus, trial: Status) -> None:
    test = show("sweeps", sweep=fill_sweep(TINY, status=status, states={3: (trial, None)}))
    assert not [b for b in test.button if b.label.startswith("Rerun")]
    assert "Rerun" not in html(test)


@pytest.mark.usefixtures("home")
def test_the_top_three_and_the_default_are_rerun_once_and_judged_by_their_new_seeds() -> None:
    sweep_id = fill_sweep(TINY)
    test = show("sweeps", sweep=sweep_id)
    label = "Rerun the top 3 and the default, 5 new seeds each"
    (button,) = [b for b in test.button if b.label == f"{label} (20 runs)"]
    page = html(test)
    assert f"“{label}” tells" in page and "Cannot tell" not in page
    # What came of it comes first, with its next launch as the one primary button.
    told, links, facts = (
        page.index(part) for part in ("<b>Best:", 'class="inner button"', "<dl class=")
    )
    assert told < links < facts and page.count('class="inner button"') == 1
    assert re.search(r'class="inner button" href="launch\?[^>]*>Launch with 400 steps<', page)
    assert not [b for b in test.button if b.proto.type == "primary"]
    assert [one.label for one in test.text_input] == ["More trials"]
    button.click().run()
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    seeds = sorted({run.config["training"]["seed"] for run in found.confirming})
    assert len(found.confirming) == 4 * 5 and seeds == [43, 44, 45, 46, 47]
    again = show("sweeps", sweep=sweep_id)
    assert not [b for b in again.button if b.label.startswith("Rerun")]
    for run in found.confirming:
        behind = {"place 1": 0, "place 2": 25, "place 3": 25, "default": 120}
        wrong = next(n for name, n in behind.items() if name in run.name)
        wrong += run.config["training"]["seed"] % 3
        words = [(f"w{i}", f"word{i}", "?" if i < 30 + wrong else f"word{i}") for i in range(400)]
        fill_predictions(run.id, 10, words, rows=400, split="test")
        end(run.id, Status.COMPLETED)
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
        judged, told = results.judge(session, found)
    assert told == "by seeds that took no part in the search" and len(judged) == 3
    against = {verdict.b: verdict for verdict in judged}
    default = next(v for name, v in against.items() if "default" in name)
    assert default.winner == "tiny place 1" and default.p_holm and default.p_holm < 0.05
    page = html(show("sweeps", sweep=sweep_id))
    assert "tiny place 1 spells" in page and "took no part in the search" in page
    assert "20 of 20 confirming runs are done" in page


@pytest.mark.usefixtures("home")
def test_a_setting_is_ranked_by_all_its_seeds_or_not_at_all(tmp_path: Path) -> None:
    text = yaml.safe_load(TINY.read_text()) | {"seeds": 2, "pruner": "none"}
    file = tmp_path / "seeds.yaml"
    file.write_text(yaml.safe_dump(text))
    pruned = (Status.COMPLETED, "pruned: it fell behind")
    sweep_id = fill_sweep(file, states={1: pruned, 2: (Status.QUEUED, None)})
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    assert set(found.settings.index) == set(range(2, 12)) and set(found.settings["seeds"]) == {2}


@pytest.mark.usefixtures("home")
def test_a_sweep_that_ended_without_a_score_promises_none() -> None:
    none = fill_sweep(TINY, trials=0, status=SweepStatus.CANCELLED)
    page = html(show("sweeps", sweep=none))
    assert "ended before it had queued one" in page and "within seconds" not in page
    failed = dict.fromkeys(range(3), (Status.FAILED, "no column"))
    lost = fill_sweep(TINY, trials=3, status=SweepStatus.CANCELLED, states=failed)
    page = html(show("sweeps", sweep=lost))
    assert "None of its trials ended with a score" in page and "No score yet" not in page
    live = fill_sweep(TINY, trials=0, status=SweepStatus.ACTIVE)
    assert "within seconds" in html(show("sweeps", sweep=live))
    assert "no sweep &#x27;nobody&#x27;." in html(show("sweeps", sweep="nobody"))


@pytest.mark.usefixtures("home")
def test_all_sweeps_are_listed_with_the_best_score_that_each_page_tells(tmp_path: Path) -> None:
    def kept(name: str, **changes: Any) -> Path:
        file = tmp_path / f"{name}.yaml"
        own = yaml.safe_load(TINY.read_text()) | {"name": name} | changes
        file.write_text(yaml.safe_dump(own))
        return file

    lost: dict[int, tuple[Status, str | None]] = {
        2: (Status.FAILED, "cuda_oom: no memory"),
        5: (Status.COMPLETED, "pruned: fell behind (median)"),
        8: (Status.RUNNING, None),
    }
    ids = [
        fill_sweep(kept("one-seed"), trials=9, states=lost),
        fill_sweep(kept("three-seeds", seeds=3), trials=12, states=lost),
        fill_sweep(kept("by-loss", metric="val/loss"), trials=4),
        fill_sweep(kept("nothing"), trials=1, states={0: (Status.CANCELLED, "cancelled")}),
    ]
    with store.reading() as session:
        found = {i: results.read(session, sweep_row(i)) for i in ids}
    told = {i: view.best_score(one) for i, one in found.items() if len(one.settings)}
    page = html(show("sweeps"))
    rows = {i: page.partition(f"sweep={i}")[2].partition("</tr>")[0] for i in ids}
    for sweep_id in ids:
        score = f"{told[sweep_id]}<small>" if sweep_id in told else "–</td>"
        assert f'data-label="Best score">{score}' in rows[sweep_id], sweep_id
    assert found[ids[1]].settings["seeds"].max() == 3 and " ± " in told[ids[1]]
    assert len(told) == 3 and "validation loss" in rows[ids[2]]
    done = 'data-label="Trials done">'
    assert f"{done}8 of 24<small>1 failed, 1 running</small>" in rows[ids[0]]
    assert f"{done}4 of 24</td>" in rows[ids[2]] and f"{done}1 of 24<small>" in rows[ids[3]]


@pytest.mark.usefixtures("home")
def test_many_sweeps_are_listed_by_as_few_queries_as_two() -> None:
    def queries() -> int:
        asked = []
        with store.reading() as session:
            rows = store.list_sweeps(session)
            engine = session.get_bind()

            def add(*one: Any) -> None:
                asked.append(one[2])

            event.listen(engine, "before_cursor_execute", add)
            all_sweeps.table(session, rows)
            event.remove(engine, "before_cursor_execute", add)
        assert asked
        return len(asked)

    for _ in range(2):
        fill_sweep(TINY, trials=3)
    few = queries()
    for _ in range(6):
        fill_sweep(TINY, trials=3)
    assert queries() == few


@pytest.mark.usefixtures("busy")
def test_runs_that_confirm_settings_can_be_stopped_together() -> None:
    sweep_id = fill_sweep(TINY)
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    ids = results.confirm(found)
    control.cancel(sweep_id)
    with store.reading() as session:
        assert {run.status for run in store.runs_of(session, ids)} == {Status.CANCELLED}
    assert sweep_row(sweep_id).status == SweepStatus.COMPLETED
    with pytest.raises(store.InvalidState, match="only a sweep that is ACTIVE or PAUSED can be"):
        control.cancel(sweep_id)


@pytest.mark.usefixtures("busy")
def test_the_buttons_of_the_page_steer_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = fill_sweep(TINY, trials=4, status=SweepStatus.ACTIVE,
                          states={3: (Status.QUEUED, None)})  # fmt: skip
    test = show("sweeps", sweep=sweep_id)
    for more, budget in (("6 trials", 30), ("5 minutes", 30), ("some", 30)):
        test.text_input(key="more").input(more)
        _add_button(test).click().run()
        assert sweep_row(sweep_id).most_trials == budget and test.toast
    for label, status in (
        ("Pause", "PAUSED"),
        ("Resume", "ACTIVE"),
        ("Cancel this sweep", "CANCELLED"),
    ):
        test = show("sweeps", sweep=sweep_id)
        (button,) = [b for b in test.button if b.label == label]
        button.click().run()
        assert sweep_row(sweep_id).status == status
    assert trials_of(sweep_id)[3].status == Status.CANCELLED


def _add_button(test: AppTest) -> Any:
    (button,) = [b for b in test.button if b.label == "Add to the budget"]
    return button


@pytest.mark.usefixtures("busy")
def test_a_second_press_adds_nothing_more_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "start_driver", lambda sweep_id: None)
    sweep_id = fill_sweep(TINY, trials=4)
    seen = control.limits_of(sweep_row(sweep_id))
    test = show("sweeps", sweep=sweep_id)
    test.text_input(key="more").input("6 trials")
    _add_button(test).click()
    sent = test._tree.get_widget_states()  # by each press of a double click
    test._run(sent)
    assert sweep_row(sweep_id).most_trials == 30
    test._run(sent)  # once the button is drawn anew
    assert not test.exception and sweep_row(sweep_id).most_trials == 30
    with pytest.raises(store.InvalidState, match="was raised meanwhile"):  # before it is
        control.add(sweep_id, "6 trials", seen=seen)
    assert sweep_row(sweep_id).most_trials == 30
    assert sweep_row(sweep_id).status == SweepStatus.ACTIVE


@pytest.mark.usefixtures("busy")
def test_confirming_runs_are_counted_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_id = fill_sweep(TINY)
    with store.reading() as session:
        ids = results.confirm(results.read(session, sweep_row(sweep_id)))
    stopped: list[str] = []
    monkeypatch.setattr(control, "cancel", stopped.append)
    test = show("sweeps", sweep=sweep_id)
    assert "0 of 20 confirming runs are done; " in html(test)
    (button,) = [b for b in test.button if b.label == "Stop these runs"]
    button.click().run()
    assert stopped == [sweep_id]
    for place, run_id in enumerate(ids):
        end(run_id, Status.COMPLETED if place < 2 else Status.CANCELLED)
    test = show("sweeps", sweep=sweep_id)
    assert "2 of 20 confirming runs are done, 18 were stopped; " in html(test)
    assert not [b for b in test.button if b.label == "Stop these runs"]


@pytest.mark.usefixtures("home")
def test_the_best_settings_lead_to_a_launch_with_all_that_the_sweep_gave() -> None:
    sweep_id = fill_sweep(TINY)
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
        run = store.find(session, found.settings["run"].iloc[0])
    query = winner.launch_query(found, results.top(found, 1)[0])
    assert query["preset"] == "tiny-spell" and query["training.max_steps"] == "200"
    form = AppTest.from_file(str(paths.ROOT / "pages" / "launch.py"), default_timeout=300)
    for name, text in query.items():
        form.query_params[name] = text
    form.run()
    shown = form.number_input(key="set lora.r").value
    assert not form.exception and shown == run.config["lora"]["r"]
    assert "launch?preset=tiny-spell" in html(show("sweeps", sweep=sweep_id))


@pytest.mark.timed
@pytest.mark.usefixtures("home")
def test_4096_trials_are_listed_in_300_ms() -> None:
    sweep_id = fill_sweep(CONFIGS / "sweeps" / "seed-grid.yaml", trials=1)
    (first,) = trials_of(sweep_id)
    cells = search.grid(control.launched_config(sweep_row(sweep_id)), 0)
    with store.writing() as session:
        values = store.find(session, first.id).model_dump()
        rows = [
            values | {"id": f"run {number}", "number": number, "searched": cell}
            for number, cell in enumerate(cells) if number
        ]  # fmt: skip
        session.execute(insert(Run), rows)
        point = {"name": "val/exact_match", "step": 1, "attempt": 1}
        scores = [point | {"run_id": row["id"], "value": row["number"] / 4096} for row in rows]
        session.execute(insert(LatestMetric), scores)
    took = []
    for _ in range(6):  # others on the machine can only make it slower
        with store.reading() as session:
            row = sweep_row(sweep_id)
            began = time.process_time()
            found = results.read(session, row)
            took.append(time.process_time() - began)
    assert len(found.trials) == len(found.settings) == 4096 and min(took) < 0.3 * slowness(), took
    assert found.settings["trial"].iloc[0] == 4095


@pytest.mark.usefixtures("home")
def test_the_reason_of_a_trial_is_in_words() -> None:
    pruned = (Status.COMPLETED, "pruned: val/exact_match is below the median")
    sweep_id = fill_sweep(TINY, trials=4, states={2: pruned})
    for find in ("", "accuracy (exact match) is below"):
        page = html(show("sweeps", sweep=sweep_id, view="Trials", find=find))
        assert "pruned: validation accuracy (exact match) is below" in page
        assert "val/" not in page


@pytest.mark.usefixtures("home")
def test_settings_that_tie_have_no_best() -> None:
    sweep_id = fill_sweep(TINY, trials=6)
    with store.writing() as session:
        of_score = LatestMetric.name == "val/exact_match"
        session.execute(update(LatestMetric).where(of_score).values(value=0.0))
    page = html(show("sweeps", sweep=sweep_id))
    assert "<b>Best" not in page and "<b>No best: " in page
    assert "tie</b> at validation accuracy (exact match) 0.0%" in page and "may be too few" in page
    assert "Rerun the top" not in page  # more seeds of nothing
    (steps,) = re.findall(r'href="sweeps\?([^"]*)"[^>]*>Sweep with 400 steps', page)
    query = dict(parse_qsl(unescape(steps)))
    assert query["file"] == "tiny" and "training.max_steps: 400" in query["base.overrides"]
    assert "engine: packed" in query["base.overrides"]
    form = show("sweeps", **query)
    assert "training.max_steps: 400" in form.code[0].value
    assert "metric=val%2Floss" in page


@pytest.mark.usefixtures("home")
def test_of_settings_that_tie_the_one_with_the_lowest_loss_is_named() -> None:
    sweep_id = fill_sweep(TINY, trials=3)
    trials = [run.id for run in trials_of(sweep_id)]
    with store.writing() as session:
        of_score = LatestMetric.name == "val/exact_match"
        session.execute(update(LatestMetric).where(of_score).values(value=0.0))
        for run_id, loss in zip(trials, (2.5, 1.5, 3.5), strict=True):
            store.record_metrics(session, run_id, 1, [(200, "val/loss", loss, 1.0)])
    with store.reading() as session:
        values = results.read(session, sweep_row(sweep_id)).values[1]
    page = html(show("sweeps", sweep=sweep_id))
    assert f"By validation loss, {settings_text(values)} is ahead." in page


SEEDS = """
name: seeds
base: {preset: tiny-spell}
method: grid
metric: val/exact_match
seeds: 2
space: {lora.r: [4, 16]}
budget: 4 trials
"""


@pytest.mark.usefixtures("home")
def test_the_best_of_several_seeds_is_their_mean_with_its_spread_in_the_chart_too(
    tmp_path: Path,
) -> None:
    file = tmp_path / "seeds.yaml"
    file.write_text(SEEDS)
    sweep_id = fill_sweep(file, trials=4)
    scores = (0.5, 0.9, 0.8, 0.8)  # one lucky seed is no best setting
    with store.writing() as session:
        for run, score in zip(store.list_trials(session, sweep_id), scores, strict=True):
            of_run = (LatestMetric.run_id == run.id, LatestMetric.name == "val/exact_match")
            session.execute(update(LatestMetric).where(*of_run).values(value=score))
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    points = results.best_so_far(found)
    assert list(points["best"]) == pytest.approx([0.7, 0.8]) and list(points["trials"]) == [2, 4]
    assert found.settings["sd"].tolist() == pytest.approx([0.0, 0.2828], abs=1e-4)
    page = html(show("sweeps", sweep=sweep_id))
    assert (
        page.count("80.0% ± 0.0") == 2 and "launch?" in page and "Launch with 1,200 steps" in page
    )
    for figure in (*figures.best_so_far(found).values(), *figures.slices(found).values()):
        low, high = figure.layout.yaxis.range
        assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    ("scores", "low", "high"),
    [
        ((1.0, 1.0), 0.9, 1.0),
        ((0.0, 0.0), 0.0, 0.1),
        ((0.92, 0.92), 0.87, 0.97),
        ((0.1, 0.9), 0.05, 0.95),
    ],
)
def test_the_axis_of_a_share_ends_at_0_and_100_percent(
    scores: tuple[float, ...], low: float, high: float
) -> None:
    ends = figures.axis_ends("val/exact_match", pd.Series(scores))
    assert ends["range"] == pytest.approx([low, high], abs=0.01)
    assert ends["autorangeoptions"] == {"clipmin": 0, "clipmax": 1}


def test_an_active_sweep_tells_its_time_left_by_its_pace() -> None:
    states = {2: (Status.RUNNING, None), 3: (Status.QUEUED, None)}
    sweep_id = fill_sweep(TINY, trials=4, status=SweepStatus.ACTIVE, states=states)
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
    # 160 s for two trials that have ended, of 24.
    assert results.seconds_left(found) == pytest.approx(160 / 2 * 22)
    assert "<dt>time left</dt><dd>≈ 29 min 20 s</dd>" in html(show("sweeps", sweep=sweep_id))


@pytest.mark.usefixtures("home")
def test_a_trial_is_called_by_what_it_tries_wherever_runs_are_named() -> None:
    sweep_id = fill_sweep(TINY, trials=4)
    with store.reading() as session:
        trials = {run.number: run for run in store.list_trials(session, sweep_id)}
        labels = store.run_labels(session, limit=10)
    first = trials[0]
    rank, rate, scheduler = (
        first.searched[name] for name in ("lora.r", "training.learning_rate", "scheduler.name")
    )
    tried = f"rank {rank}, learning rate {rate:.3g}, schedule {scheduler}"
    called = f"{tried} · {first.name}"
    assert first.label == called and labels[first.id] == f"{called} · seed 42"
    assert called in html(show("overview"))
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id))
        verdicts, _ = results.judge(session, found, attrgetter("label"))
    assert verdicts and all(" · tiny " in verdict.a for verdict in verdicts)
    ids = [run.id for run in trials.values()]
    compared = show("compare", run=ids)
    assert called in html(compared)
    for options in (
        compared.multiselect(key="compared").options,
        show("monitor", run=first.id).selectbox[0].options,
    ):
        assert any(option.startswith(f"{called} · seed 42 · ") for option in options)  # its score


def of_trials(page: str) -> list[str]:
    """Ids of the runs of the table of trials, in its order."""
    table = page.split('<table class="rows trials')[1].split("</table>")[0]
    return re.findall(r'href="monitor\?run=([^"]+)"', table)


@pytest.mark.usefixtures("home")
def test_trials_are_sorted_by_their_score_or_by_what_the_address_says() -> None:
    states: dict[int, tuple[Status, str | None]] = {
        1: (Status.FAILED, f"cuda_oom: {HOSTILE}"),
        4: (Status.QUEUED, None),
    }
    sweep_id = fill_sweep(TINY, trials=8, status=SweepStatus.PAUSED, states=states)
    with store.reading() as session:
        found = results.read(session, sweep_row(sweep_id)).trials
    by_score = found[found["score"].notna()].sort_values("score", ascending=False)
    page = html(show("sweeps", sweep=sweep_id, view="Trials"))
    first = of_trials(page)
    # Those without a score come last, both ways.
    assert first[:6] == list(by_score["run"]) and set(first[6:]) == set(found["run"][[1, 4]])
    assert 'aria-sort="descending"' in page and "cuda_oom" in page and "<img" not in page
    turned = of_trials(html(show("sweeps", sweep=sweep_id, view="Trials", sort="-score")))
    assert turned[:6] == list(by_score["run"])[::-1] and set(turned[6:]) == set(first[6:])
    ranks = of_trials(html(show("sweeps", sweep=sweep_id, view="Trials", sort="lora.r")))
    of = dict(zip(found["run"], found["lora.r"], strict=True))
    assert [of[run] for run in ranks] == sorted(of.values())
    words = of_trials(html(show("sweeps", sweep=sweep_id, view="Trials", sort="-scheduler.name")))
    of = dict(zip(found["run"], found["scheduler.name"], strict=True))
    assert [of[run] for run in words] == sorted(of.values(), reverse=True)
    # What the address says wrong is as if it said nothing.
    for asked in ("x", "-", "run"):
        assert of_trials(html(show("sweeps", sweep=sweep_id, view="Trials", sort=asked))) == first
    none = html(show("sweeps", sweep=sweep_id, view="Trials", find="nobody"))
    assert "No trial fits" in none and "0 of 8 trials" in none and "Show all" in none


@pytest.mark.usefixtures("home")
def test_many_trials_are_shown_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "ROWS", 5)
    sweep_id = fill_sweep(TINY, trials=12)
    pages = [
        of_trials(html(show("sweeps", sweep=sweep_id, view="Trials", sort="trial", page=page)))
        for page in ("1", "2", "3", "99", "x")
    ]
    assert [len(page) for page in pages] == [5, 5, 2, 2, 5] and pages[3] == pages[2]
    assert len({*pages[0], *pages[1], *pages[2]}) == 12 and pages[4] == pages[0]
    page = html(show("sweeps", sweep=sweep_id, view="Trials", page="2"))
    assert "6 to 10 of 12 trials" in page and ">Previous<" in page and ">Last<" in page


def test_trials_that_train_or_wait_stand_first_with_their_score_so_far() -> None:
    states = {2: (Status.RUNNING, None), 3: (Status.QUEUED, None)}
    sweep_id = fill_sweep(TINY, trials=4, status=SweepStatus.ACTIVE, states=states)
    page = html(show("sweeps", sweep=sweep_id))
    under_way = page.split("<h2>Under way</h2>")[1].split("</table>")[0]
    assert under_way.count("<tr>") == 3  # the head, one that trains and one that waits
    assert under_way.index("running") < under_way.index("queued")
    assert "step 200 of 200" in under_way and "%</span></td>" in under_way
    assert 'class="spark"' not in under_way  # of one point there is no line
    with store.writing() as session:
        (run,) = [r for r in store.list_trials(session, sweep_id) if r.status == Status.RUNNING]
        points = [(step, "val/exact_match", step / 400, 1.0) for step in (50, 100, 150)]
        store.record_metrics(session, run.id, 1, points)
    page = html(show("sweeps", sweep=sweep_id))
    under_way = page.split("<h2>Under way</h2>")[1].split("</table>")[0]
    assert under_way.count('class="spark"') == 1
    assert re.search(r'aria-label="from 12.5% at step 50 to [\d.]+% at step 200"', under_way)
    assert "Under way" not in html(show("sweeps", sweep=fill_sweep(TINY, trials=4)))
