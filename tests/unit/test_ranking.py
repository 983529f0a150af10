"""The ranking of a sweep: nulls and lists that were tried, lost seeds, data that changed."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.trial import TrialState
from sqlalchemy import update

from src import store
from src.analysis import comparison, exports
from src.config import settings
from src.format import setting_value
from src.panel.sweeps import figures, table
from src.panel.ui import parallel
from src.runs import launcher
from src.store.tables import Run, Status
from src.sweeps import control, ranking, results
from src.sweeps import trials as sweep_trials
from src.sweeps.file import load_sweep
from src.sweeps.results import SweepResults
from tests.helpers.pages import html, show
from tests.helpers.store import fill_run, fill_sweep
from tests.helpers.sweeps import cli, sweep_row

pytestmark = pytest.mark.usefixtures("home")

VIEWS = ["Best so far", "Trials", "Parallel coordinates", "Importance", "Slices", "Packs"]


def filled(
    tmp_path: Path, space: Mapping[str, Any], scores: Mapping[int, float | None] | None = None, *,
    base: Mapping[str, Any] | None = None, **changes: Any,
) -> str:  # fmt: skip
    """A grid of which every trial has ended, with these scores by number."""
    document = {
        "name": "grid", "base": {"preset": "tiny-correct", "overrides": dict(base or {})},
        "method": "grid", "metric": "val/loss", "space": dict(space),
    } | changes  # fmt: skip
    file = tmp_path / "grid.yaml"
    file.write_text(json.dumps(document))
    sweep = load_sweep(file)
    total = sweep.seeds
    for values in space.values():
        total *= len(values)
    states = {n: (Status.FAILED, "it broke") for n, s in (scores or {}).items() if s is None}
    sweep_id = fill_sweep(file, trials=total, states=states)
    with store.writing() as session:
        for run in store.list_trials(session, sweep_id):
            score = (scores or {}).get(run.number or 0)
            if score is not None:
                store.record_metrics(session, run.id, 1, [(run.max_steps, "val/loss", score, 1.0)])
    return sweep_id


def read(sweep_id: str) -> SweepResults:
    with store.reading() as session:
        return results.read(session, sweep_row(sweep_id))


def number_of(sweep_id: str, **values: Any) -> list[int]:
    """Numbers of the trials with these values of settings, which are named by their last part."""
    with store.reading() as session:
        return [
            run.number or 0
            for run in store.list_trials(session, sweep_id)
            if all((run.searched or {}).get(n.replace("__", "."), "missing") == v
                   for n, v in values.items())
        ]  # fmt: skip


# --- null, lists, booleans ------------------------------------------------------------------------

TRIED = {
    "lora.target_modules": ["c_proj"], "early_stopping.patience": 3, "evaluation.max_rows": 40,
    "evaluation.max_new_tokens": 9, "checkpointing.max_gib": 2.5, "early_stopping.target": 0.5,
    "early_stopping.divergence_factor": 4.0, "early_stopping.plateau_evaluations": 5,
    "tracking.group": "a", "model.revision": "main", "data.revision": "7.10",
    "data.hub_id": "me/words", "data.path": "/words.csv",
    "data.mix": {"count": 0.5, "swap": 0.5}, "data.system_prompt": "Spell.",
    "evaluation.suite_rows": 100, "evaluation.suite_every": 2,
}  # fmt: skip


def test_each_optional_setting_is_tried_below() -> None:
    assert TRIED.keys() == {setting.name for setting in settings() if setting.optional}


@pytest.mark.parametrize("name", TRIED)
def test_a_null_that_wins_is_rerun_as_null(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)
    needed = {"data.path": {"data.hub_id": None}, "data.system_prompt": {"data.template": "chat"}}
    base = needed.get(name, {})
    sweep_id = filled(tmp_path, {name: [None, TRIED[name]]}, base={name: TRIED[name]} | base)
    (null,) = number_of(sweep_id, **{name: None})
    with store.writing() as session:
        run = store.list_trials(session, sweep_id)[null]
        store.record_metrics(session, run.id, 1, [(run.max_steps, "val/loss", 0.0, 1.0)])
    found = read(sweep_id)
    assert results.top(found) == [{name: None}, {name: TRIED[name]}]
    results.confirm(found)
    again = read(sweep_id)
    section, _, leaf = name.partition(".")
    won = {run.name: run.config[section][leaf] for run in again.confirming}
    assert won == {"grid place 1": None, "grid place 2": TRIED[name]}
    with store.reading() as session:
        document = results.document(session, again)
    assert document["best"]["settings"] == {name: None}
    assert [t["searched"] for t in document["trials"]] == [again.values[0], again.values[1]]
    shown = ranking.shown(again.trials, again.sweep)[name]
    assert (shown[null], str(shown[1 - null])) == ("null", setting_value(TRIED[name]))


def test_null_that_was_tried_is_not_what_was_not_searched(tmp_path: Path) -> None:
    space = {
        "optimizer.name": ["adamw_torch", "sgd"],
        "early_stopping.patience": {"values": [None, 3], "when": {"optimizer.name": ["sgd"]}},
    }
    file = tmp_path / "when.yaml"
    file.write_text(json.dumps({"name": "when", "method": "grid", "space": space}))
    sweep_id = fill_sweep(file, trials=3)
    found = read(sweep_id)
    tried = [row.get("early_stopping.patience", "not searched") for row in found.values.values()]
    assert sorted(map(str, tried)) == ["3", "None", "not searched"]
    shown = ranking.shown(found.trials, found.sweep)["early_stopping.patience"].tolist()
    assert sorted(map(str, shown)) == ["3", "None", "null"]
    assert all(("early_stopping.patience" in values) == (values["optimizer.name"] == "sgd")
               for values in results.top(found))  # fmt: skip
    rows = json.loads(exports.to_json(ranking.shown(found.trials, found.sweep)))
    assert sorted(str(r["early_stopping.patience"]) for r in rows) == ["3", "None", "null"]
    content = exports.to_parquet(ranking.shown(found.trials, found.sweep))
    again = pd.read_parquet(io.BytesIO(content))["early_stopping.patience"]
    assert again.isna().sum() == 1 and set(again.dropna()) == {"null", "3"}
    drawn = figures.slices(found)["early_stopping.patience"]
    assert sorted(x for trace in drawn.data for x in trace.x) == ["3", "none"]
    (lines,) = figures.parallel_figure(found).data
    _, patience, _ = lines.dimensions
    assert sorted(map(str, patience["values"])) == ["0", "1", "nan"]
    assert patience.ticktext == ("none", "3")


SPACES = {
    "lists": {"lora.target_modules": [["c_attn"], ["c_proj"], ["c_attn", "c_proj"]]},
    "lists and null": {"lora.target_modules": [None, ["c_proj"]], "lora.r": [2, 4]},
    "tags": {"tracking.tags": [[], ["a"]]},
    "booleans": {"model.load_in_4bit": [False, True]},
    "words": {"scheduler.name": ["linear", "cosine"], "lora.bias": ["none", "all"]},
    "numbers and null": {"evaluation.max_rows": [None, 10, 200], "lora.dropout": [0, 0.5]},
}


# What these are made of the others have too.
RARE = ("lists", "tags")


@pytest.mark.parametrize("space", [
    pytest.param(space, id=name, marks=[pytest.mark.slow] if name in RARE else [])
    for name, space in SPACES.items()
])  # fmt: skip
def test_a_sweep_over_any_kind_of_setting_is_shown(space: dict[str, Any], tmp_path: Path) -> None:
    name = next(iter(space))
    sweep_id = filled(tmp_path, space, base={name: space[name][-1]})
    found = read(sweep_id)
    with store.reading() as session:
        document = results.document(session, found)
    assert document["best"]["settings"] in [dict(v) for v in found.values.values()]
    answer = cli("sweep", "show", sweep_id)
    assert answer.exit_code == 0 and f"{name} " in answer.stdout, answer.output
    for form in exports.FORMATS:
        assert exports.FORMATS[form][2](ranking.shown(found.trials, found.sweep))
    assert cli("sweep", "export", sweep_id).exit_code == 0
    for view in VIEWS:
        show("sweeps", sweep=sweep_id, view=view)
    show("sweeps", sweep=sweep_id, view="Trials", find=f"{name.rpartition('.')[2]} > 1")
    assert table.matching(found.trials, f"{name} > 1e9").empty


def test_null_beside_numbers_has_a_place_of_its_own_on_an_axis() -> None:
    axis = parallel.setting_axis("patience", [10, None, 3, 10])
    assert axis["ticktext"] == ["3", "10", "none"] and axis["values"] == [1, 2, 0, 1]
    assert parallel.setting_axis("r", [4, 8])["values"] == [4, 8]
    assert parallel.setting_axis("b", [True, False, None])["ticktext"] == ["False", "True", "none"]


# --- seeds ----------------------------------------------------------------------------------------


def test_a_setting_that_lost_a_seed_ranks_behind_whole_ones_and_says_so(tmp_path: Path) -> None:
    # One lucky seed of the first setting; all of the second; two of the third.
    scores = {0: 0.1, 1: None, 2: None, 3: 0.5, 4: 0.5, 5: 0.5, 6: 0.2, 7: 0.2, 8: None}
    sweep_id = filled(tmp_path, {"lora.r": [2, 4, 8]}, scores, seeds=3)
    found = read(sweep_id)
    assert list(found.settings.index) == [1, 0, 2] and list(found.settings["seeds"]) == [3, 1, 2]
    assert results.top(found)[0] == found.values[1]
    told = "\n".join(found.notes)
    ends = "(trial 1 failed, trial 2 failed)"
    assert f"the setting of trial 0 has a score of 1 of 3 seeds {ends}, so it ranks" in told
    assert "2 of 3 seeds (trial 8 failed)" in told and "ranks behind" in told
    answer = cli("sweep", "show", sweep_id)
    assert "best: trial 3, val/loss 0.5 (3 of 3 seeds)" in answer.stdout
    assert "1 of 3 seeds" in answer.stderr
    assert "1 of 3 seeds" in html(show("sweeps", sweep=sweep_id))
    document = json.loads(cli("sweep", "show", sweep_id, "--json").stdout)
    assert (document["best"]["seeds"], document["best"]["of_seeds"]) == (3, 3)
    assert document["notes"] == found.notes


def test_where_no_setting_is_whole_the_best_says_how_many_seeds_it_has(tmp_path: Path) -> None:
    scores = {0: 0.1, 1: None, 2: None, 3: None, 4: None, 5: 0.5}
    sweep_id = filled(tmp_path, {"lora.r": [2, 4]}, scores, seeds=3)
    assert "val/loss 0.1 (1 of 3 seeds)" in cli("sweep", "show", sweep_id).stdout
    assert "0.1 by 1 of 3 seeds" in html(show("sweeps", sweep=sweep_id))


def test_the_search_learns_nothing_from_seeds_that_survived(tmp_path: Path) -> None:
    scores = {0: 0.1, 1: None, 2: None, 3: 0.5, 4: 0.5, 5: 0.5}
    sweep_id = filled(tmp_path, {"lora.r": [2, 4]}, scores, seeds=3)
    sweep = control.launched_config(sweep_row(sweep_id))
    with store.reading() as session:
        runs = store.list_trials(session, sweep_id)
        metrics = store.trial_metrics(session, sweep_id, [sweep.metric])
    lost, whole = sweep_trials.tried(sweep, runs, metrics)
    assert (lost.state, lost.value) == (TrialState.FAIL, None)
    assert (whole.state, whole.value) == (TrialState.COMPLETE, pytest.approx(0.5))
    half = sweep_trials.tried(sweep, runs[:5], metrics)[1]
    assert (half.state, half.value) == (TrialState.RUNNING, None)  # its last seed waits


def test_compare_says_which_seeds_have_no_result() -> None:
    whole = [fill_run(name="whole", training__seed=n) for n in (1, 2, 3)]
    lucky = fill_run(name="lucky", lora__r=4, training__seed=1)
    lost = [
        fill_run(name="lucky", lora__r=4, training__seed=2, status=Status.FAILED, reason="oom"),
        fill_run(name="lucky", lora__r=4, training__seed=3, status=Status.INTERRUPTED),
    ]
    # A second try of a seed that has a result takes nothing from it.
    again = fill_run(name="whole", training__seed=1, status=Status.FAILED)
    runs = [*whole, lucky, *lost, again]
    answer = cli("compare", *runs)
    told = "lucky has 1 of 3 seeds (seed 2 FAILED, seed 3 INTERRUPTED)"
    assert told in answer.stderr and "whole has" not in answer.stderr
    document = json.loads(cli("compare", *runs, "--json").stdout)
    named = {c["name"]: [(one["seed"], one["status"]) for one in c["lost"]]
             for c in document["configs"]}  # fmt: skip
    assert named == {"whole": [], "lucky": [(2, "FAILED"), (3, "INTERRUPTED")]}
    page = html(show("compare", run=runs))
    assert told in page and ">1 of 3<" in page and ">3<" in page


# --- data -----------------------------------------------------------------------------------------


def set_fingerprints(fingerprints: Mapping[str, str | None]) -> None:
    with store.writing() as session:
        for run_id, value in fingerprints.items():
            used = {"data_fingerprint": value} if value else {}
            session.execute(update(Run).where(Run.id == run_id).values(used=used))


def test_a_trial_that_was_scored_on_other_data_ranks_behind_and_is_told(tmp_path: Path) -> None:
    sweep_id = filled(tmp_path, {"lora.r": [2, 4, 8]}, {0: 0.01, 1: 0.5, 2: 0.4})
    assert read(sweep_id).notes == [] and list(read(sweep_id).settings.index) == [0, 2, 1]
    with store.reading() as session:
        ids = [run.id for run in store.list_trials(session, sweep_id)]
    set_fingerprints(dict(zip(ids, ["old", "new", "new"], strict=True)))
    found = read(sweep_id)
    assert list(found.settings.index) == [2, 1, 0]
    assert found.trials["data_fingerprint"].tolist() == ["old", "new", "new"]
    (told,) = found.notes
    assert "trial 0 was scored on other data than the rest" in told and "rank behind" in told
    answer = cli("sweep", "show", sweep_id)
    assert "best: trial 2" in answer.stdout and "trial 0 was scored on other data" in answer.stderr
    assert "scored on other data" in html(show("sweeps", sweep=sweep_id, view="Trials"))
    assert list(results.best_so_far(found)["best"]) == [0.5, 0.4]
    # Of equally many the newer data count; a trial that says nothing of its data is not blamed.
    set_fingerprints(dict(zip(ids, ["old", "new", None], strict=True)))
    assert list(read(sweep_id).settings.index) == [2, 1, 0]


def test_data_that_are_searched_differ_and_are_told(tmp_path: Path) -> None:
    sweep_id = filled(tmp_path, {"data.path": ["/a.csv", "/b.csv"], "lora.r": [2, 4]})
    with store.reading() as session:
        runs = store.list_trials(session, sweep_id)
    own = {run.id: (run.searched or {})["data.path"] for run in runs}
    set_fingerprints(own)
    found = read(sweep_id)
    assert not found.settings["other_data"].any()
    (told,) = found.notes
    assert "different data, for data.path is searched" in told
    set_fingerprints(own | {runs[0].id: "changed"})
    assert read(sweep_id).notes[0].startswith("trial 0 was scored on other data")


def test_compare_says_whose_data_changed_under_one_name() -> None:
    runs = [fill_run(name=name, lora__r=r) for name, r in (("a", 4), ("b", 8), ("c", 16))]
    set_fingerprints(dict(zip(runs, ["x", "x", "y"], strict=True)))
    answer = cli("compare", *runs)
    assert "note: spell_out was not the same for all: it changed between a, b; c" in answer.stderr
    with store.reading() as session:
        found = comparison.compare(session, store.runs_of(session, runs))
    assert comparison.document(found)["notes"] == found.notes and len(found.notes) == 1
    assert "it changed between" in html(show("compare", run=runs))


def test_the_search_learns_nothing_from_trials_on_other_data(tmp_path: Path) -> None:
    sweep_id = filled(tmp_path, {"lora.r": [2, 4, 8]}, {0: 0.01, 1: 0.5, 2: 0.4})
    with store.reading() as session:
        ids = [run.id for run in store.list_trials(session, sweep_id)]
    set_fingerprints(dict(zip(ids, ["old", "new", "new"], strict=True)))
    row = sweep_row(sweep_id)
    sweep = control.launched_config(row).model_copy(update={"method": "tpe"})
    with store.reading() as session:
        runs = store.list_trials(session, sweep_id)
        metrics = store.trial_metrics(session, sweep_id, [sweep.metric])
        others = sweep_trials.others_of(session, sweep, runs)
    assert others == {ids[0]}
    known = sweep_trials.tried(sweep, runs, metrics, (), others)
    assert [one.state for one in known] == [TrialState.FAIL] + [TrialState.COMPLETE] * 2
    assert {one.values["lora.r"] for one in known} == {2, 4, 8}  # none is drawn again
    found = replace(read(sweep_id), sweep=sweep)
    (told,) = found.notes
    assert told.endswith("rank behind, and the search does not learn from them")


def test_data_that_changed_are_looked_for_once_a_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = filled(tmp_path, {"lora.r": [2, 4, 8]}, {0: 0.01, 1: 0.5, 2: 0.4})
    calls = []
    real = ranking.other_data
    monkeypatch.setattr(ranking, "other_data", lambda *given: calls.append(1) or real(*given))
    found = read(sweep_id)
    assert found.notes == [] and len(results.best_so_far(found)) == 3
    assert len(calls) == 1
