"""A sweep's file and its search space: what is tried, in which order, and what is refused."""

import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from src import paths
from src.config import ConfigError, load_config, with_overrides
from src.paths import CONFIGS
from src.sweeps import control, search
from src.sweeps import estimate as sweep_estimate
from src.sweeps.budget import Budget
from src.sweeps.file import (
    ACCUMULATION,
    MICRO_BATCH,
    base_config,
    load_sweep,
    parse_sweep,
    trial_config,
)
from src.sweeps.search import PastTrial
from tests.helpers.speed import slowness
from tests.helpers.sweeps import sweep_of

SHIPPED = sorted((CONFIGS / "sweeps").glob("*.yaml"))


def problem(**changes: Any) -> str:
    with pytest.raises(ConfigError) as found:
        sweep_of(**changes)
    return str(found.value)


# --- the file and its space -----------------------------------------------------------------------


def test_a_value_that_another_setting_allows_is_searched_under_its_condition() -> None:
    prompt = {"values": [None, "You spell."], "when": {"data.template": ["chat"]}}
    templates = ["chat", "Q: {question}\nA:"]
    sweep = sweep_of(space={"data.template": templates, "data.system_prompt": prompt})
    cells = search.grid(sweep, 0)
    assert len(cells) == 3
    for cell in cells:
        data = trial_config(sweep, base_config(sweep), cell, 0).data
        assert data.system_prompt == cell.get("data.system_prompt")
        assert ("data.system_prompt" in cell) is (data.template == "chat")
    alone = {"data.system_prompt": ["You spell."]}
    assert "is for data.template chat" in problem(space=alone)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"lora": {"r": [4, 8]}}, "such as `lora.r: [...]`; got {'r': [4, 8]}"),
        ({"data.mix": {"spell_out": [1, 2]}}, "such as `data.mix: [...]`"),
        ({"lora.r": {}}, "lora.r takes a list of values, or low and high"),
        ({"lora.r": {"values": [4, 8], "low": 1}}, "keep either the values or low and high"),
        ({"lora.r": {"values": [4], "whne": {}}}, "did you mean 'when'?"),
        ({"training.learning_rate": [float("nan")]}, "finite number"),
    ],
)
def test_a_space_that_names_no_values_is_told_in_words(space: Any, told: str) -> None:
    assert told in problem(space=space)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_each_shipped_sweep_can_be_planned(file: Path) -> None:
    sweep = load_sweep(file)
    assert sweep_estimate.estimate_sweep(sweep, 0).trials
    values = search.suggest(sweep, 0, 0, [])
    assert values and values.keys() <= sweep.space.keys()
    trial_config(sweep, base_config(sweep), values, 0)


def test_the_transfer_sweep_trains_each_task_alone_and_both_with_five_seeds() -> None:
    sweep = load_sweep(CONFIGS / "sweeps" / "transfer.yaml")
    arms = [cell["data.mix"] for cell in search.grid(sweep, 0)]
    both = {"count": 0.5, "spell_out": 0.5}
    assert sorted(map(repr, arms)) == sorted(map(repr, [{"spell_out": 1.0}, {"count": 1.0}, both]))
    assert sweep_estimate.estimate_sweep(sweep, 0).trials == 15
    trial = trial_config(sweep, base_config(sweep), {"data.mix": both}, 12)
    assert (trial.data.mix, trial.training.seed) == (both, base_config(sweep).training.seed + 2)


def test_settings_of_a_file_are_changed_for_all_trials(tmp_path: Path) -> None:
    """Whether the file has them in sections or by dotted names, or not at all."""
    file = tmp_path / "rates.yaml"
    file.write_text(
        "name: rates\nmethod: grid\nspace: {lora.r: [4, 8]}\n"
        "base: {preset: tiny-spell, overrides: {training: {max_steps: 30}, lora.alpha: 2}}\n"
    )
    changes = {"training.max_steps": 7, "lora.alpha": 3, "model.name": "other"}
    text, sweep, _ = control.prepare(file, overrides=changes)
    base = base_config(sweep)
    assert (base.training.max_steps, base.lora.alpha, base.model.name) == (7, 3, "other")
    assert base_config(parse_sweep(text, file)) == base  # what the run table keeps
    with pytest.raises(ConfigError, match="training.max_step"):
        control.prepare(file, overrides={"training.max_step": 7})


def test_the_sweep_of_the_readme_can_be_launched() -> None:
    text = (paths.ROOT / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    sweep = parse_sweep(text, "README.md")
    assert search.suggest(sweep, 0, 0, []) and sweep.space["optimizer.momentum"].when


@pytest.mark.timed
def test_the_seed_grid_is_planned_in_two_seconds_and_its_duplicates_are_counted() -> None:
    # Of this process: others may use the machine too.
    began = time.process_time()
    sweep = load_sweep(CONFIGS / "sweeps" / "seed-grid.yaml")
    plan = sweep_estimate.estimate_sweep(sweep, 3)
    cells = search.grid(sweep, 3)
    assert time.process_time() - began < 2 * slowness()
    assert (plan.settings, plan.trials, plan.packs) == (4096, 4096, 64)
    assert len({tuple(cell.values()) for cell in cells}) == 4096
    # 4 x 4 ways to cut the rows of a step are 7 different products: 9 of 16 are the same again.
    assert plan.duplicates == 4096 * 9 // 16
    few = sweep_estimate.estimate_sweep(sweep.model_copy(update={"duplicates": "skip"}), 3)
    assert (few.settings, few.skipped) == (1792, 2304)
    assert cells != search.grid(sweep, 4) and cells == search.grid(sweep, 3)


def test_with_dropout_the_cut_of_a_step_matters() -> None:
    space = {MICRO_BATCH: [4, 8], ACCUMULATION: [1, 2]}
    grid = {"method": "grid", "budget": None, "space": space}
    assert sweep_estimate.estimate_sweep(sweep_of(**grid), 0).duplicates == 1
    wet = sweep_of(**grid, base={"overrides": {"lora.dropout": 0.1}})
    assert sweep_estimate.estimate_sweep(wet, 0).duplicates == 0


def test_a_condition_leaves_a_setting_at_its_base_value() -> None:
    space = {
        "optimizer.name": ["adamw_torch", "sgd"],
        "optimizer.momentum": {"low": 0.0, "high": 0.9, "step": 0.3,
                               "when": {"optimizer.name": ["sgd"]}},
    }  # fmt: skip
    cells = search.grid(sweep_of(method="grid", budget=None, space=space), 0)
    assert len(cells) == 1 + 4
    assert sorted(c["optimizer.momentum"] for c in cells if "optimizer.momentum" in c) == [
        0, 0.3, 0.6, 0.9,
    ]  # fmt: skip
    drawn = [search.suggest(sweep_of(space=space), 0, n, []) or {} for n in range(12)]
    assert {"optimizer.momentum" in v for v in drawn} == {True, False}
    assert all(("optimizer.momentum" in v) == (v["optimizer.name"] == "sgd") for v in drawn)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_rebuilt_study_suggests_what_an_undisturbed_one_does(method: str) -> None:
    sweep = sweep_of(method=method, budget="30 trials")

    def result(number: int, values: dict[str, Any]) -> PastTrial:
        score = -abs(values["training.learning_rate"] - 1e-3) + values["lora.r"] / 1000
        return PastTrial(number, values, optuna.trial.TrialState.COMPLETE, score, {})

    tried: list[PastTrial] = []
    for number in range(30):
        values = search.suggest(sweep, 7, number, tried)
        assert values
        # Another process, in which the trials came back in another order.
        assert search.suggest(sweep, 7, number, tried[::-1]) == values
        tried.append(result(number, values))
    assert len({tuple(one.values.items()) for one in tried}) == 30
    assert search.suggest(sweep, 8, 30, tried) != search.suggest(sweep, 7, 30, tried)


def test_a_small_space_ends_when_all_was_tried() -> None:
    sweep = sweep_of(space={"lora.r": [2, 4, 8]}, budget="90 trials")
    tried: list[PastTrial] = []
    while values := search.suggest(sweep, 0, len(tried), tried):
        tried.append(PastTrial(len(tried), values, optuna.trial.TrialState.RUNNING))
    assert sorted(one.values["lora.r"] for one in tried) == [2, 4, 8]


def test_random_search_finds_the_last_settings_of_a_space() -> None:
    space = {"lora.r": {"low": 1, "high": 10}, "lora.alpha": list(range(1, 11))}
    sweep = sweep_of(method="random", space=space, budget="100 trials")
    tried: list[PastTrial] = []
    while values := search.suggest(sweep, 0, len(tried), tried):
        tried.append(PastTrial(len(tried), values, optuna.trial.TrialState.RUNNING))
    assert len({tuple(one.values.items()) for one in tried}) == len(tried) == 100


def test_tpe_spends_its_budget_though_it_comes_back_to_its_favourites() -> None:
    ranks, rates = [2, 4, 8, 16, 32, 64], [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3]
    space = {"lora.r": ranks, "training.learning_rate": rates}
    sweep = sweep_of(method="tpe", space=space, budget="24 trials")
    tried: list[PastTrial] = []
    for number in range(24):
        values = search.suggest(sweep, 0, number, tried)
        assert values, f"nothing left to try after {number} of 36 settings"
        score = values["training.learning_rate"]
        tried.append(PastTrial(number, values, optuna.trial.TrialState.COMPLETE, score, {}))


def test_seeds_of_a_setting_follow_each_other() -> None:
    sweep = sweep_of(seeds=3, budget="7 trials", base={"overrides": {"training.seed": 10}})
    base = base_config(sweep)
    configs = [trial_config(sweep, base, {"lora.r": 2}, number) for number in range(4)]
    assert [c.training.seed for c in configs] == [10, 11, 12, 10]
    assert [c.name for c in configs][:2] == ["small 0", "small 1"]
    assert sweep_estimate.estimate_sweep(sweep, 0).trials == 6  # whole settings only
    assert base.early_stopping.metric == "val/exact_match" and base.supervision.auto_resume == 2


BAD = {
    "an empty space": ({"space": {}}, "space: is empty"),
    "an unknown setting": ({"space": {"lora.rank": [1]}}, "space.lora.rank: no such setting"),
    "one without its section": (
        {"space": {"learning_rate": [1e-3]}}, "did you mean 'training.learning_rate'?"),
    "bounds upside down": (
        {"space": {"lora.r": {"low": 8, "high": 2}}}, "upside down: low 8 is above high 2"),
    "a bound out of bounds": (
        {"space": {"lora.r": {"low": 0, "high": 2}}}, "space.lora.r: must be at least 1"),
    "a value out of bounds": ({"space": {"lora.r": [4, 0]}}, "must be at least 1; got 0"),
    "no values": ({"space": {"lora.r": []}}, "space.lora.r.values: has no values to try"),
    "a bare number": ({"space": {"lora.r": 8}}, "takes a list of values, or low and high; got 8"),
    "a range of words": (
        {"space": {"scheduler.name": {"low": 1, "high": 2}}}, "list its values"),
    "log from zero": (
        {"space": {"lora.dropout": {"low": 0, "high": 0.5, "log": True}}}, "above 0 for log"),
    "a grid without steps": (
        {"method": "grid", "space": {"lora.dropout": {"low": 0, "high": 0.5}}}, "needs a step"),
    "a grid too large": (
        {"method": "grid", "space": {"training.max_steps": {"low": 1, "high": 1e6}}},
        "100,000 is the most"),
    "a condition on nothing": (
        {"space": {"lora.r": {"values": [1], "when": {"optimizer.name": ["sgd"]}}}},
        "must stand above it"),
    "a path from somewhere": (
        {"space": {"data.path": ["a.csv", "/b.csv"]}}, "not written from the root"),
    "the seed": ({"space": {"training.seed": [1, 2]}}, "is given by `seeds`"),
    "a metric that is not recorded": ({"metric": "val/exakt_match"}, "did you mean"),
    "an unknown field": ({"pruning": "asha"}, "pruning: no such field; did you mean 'pruner'?"),
    "an unknown method": ({"method": "bayes"}, "method: takes grid, random or tpe"),
    "an unknown preset": ({"base": {"preset": "tiny-spel"}}, "base: no preset 'tiny-spel'"),
    "an unknown override": (
        {"base": {"overrides": {"lora.rnk": 2}}}, "base.overrides.lora.rnk: no such setting"),
    "no end": ({"budget": None}, "random search has no end"),
    "a budget of nothing": ({"budget": "0 trials"}, "too small for one trial"),
    "a budget of a second": ({"budget": "1 second"}, "too small for one trial"),
    "a budget below the seeds": ({"budget": "2 trials", "seeds": 3}, "too small for one setting"),
    "a budget in words": ({"budget": "a while"}, "such as `200 trials` or `45 minutes`"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_bad_input_gets_a_sentence(changes: dict[str, Any], words: str) -> None:
    text = problem(**changes) if "most" not in words else too_large(changes)
    assert words in text and "Traceback" not in text and len(text.splitlines()) == 1


def too_large(changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as found:
        sweep_estimate.estimate_sweep(sweep_of(**changes), 0)
    return str(found.value)


@pytest.mark.parametrize(
    ("text", "trials", "seconds"),
    [("200 trials", 200, None), ("45 minutes", None, 2700), ("45m", None, 2700),
     ("1.5 hours", None, 5400), ("90s", None, 90), ("1,000 trials", 1000, None)],
)  # fmt: skip
def test_budgets(text: str, trials: int | None, seconds: float | None) -> None:
    assert Budget.parse(text) == Budget(trials, seconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [("1.2.3 trials", "such as"), ("1,5h", "such as"), ("2.5 trials", "such as"),
     ("0.5 trials", "too small for one trial"), ("2 s", "too small for one trial")],
)  # fmt: skip
def test_budgets_that_are_none(text: str, words: str) -> None:
    assert words in problem(budget=text)


def test_less_of_a_loss_is_better() -> None:
    best = {m: sweep_of(metric=m).mode for m in ("val/loss", "val/cer", "val/exact_match")}
    assert best == {"val/loss": "min", "val/cer": "min", "val/exact_match": "max"}
    assert sweep_of(metric="val/loss", mode="max").mode == "max"
    assert base_config(sweep_of(metric="val/loss")).early_stopping.mode == "min"


def test_values_are_those_that_a_run_has() -> None:
    """YAML reads 1e-4 as a text."""
    sweep = parse_sweep(
        "{name: s, method: grid, space: {training.learning_rate: [1e-4, 0.0001, 2e-4]}}", "s"
    )
    assert [cell["training.learning_rate"] for cell in search.grid(sweep, 0)] in (
        [1e-4, 2e-4], [2e-4, 1e-4],
    )  # fmt: skip
    assert with_overrides(load_config().model_dump(), {"training.learning_rate": "1e-4"})
