"""Sweeps: the file and its space, the ledger, the driver as a real process, the page."""

import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from src.config import ConfigError, load_config, with_overrides
from src.paths import CONFIGS
from src.sweeps import planner, spaces
from src.sweeps.spaces import Tried, load_sweep, parse_sweep

SHIPPED = sorted((CONFIGS / "sweeps").glob("*.yaml"))


def sweep_of(**changes: Any) -> spaces.SweepConfig:
    """A random search of two settings, with changes."""
    values: dict[str, Any] = {
        "name": "small",
        "method": "random",
        "space": {
            "lora.r": [2, 4, 8],
            "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "budget": "6 trials",
    }
    return parse_sweep(yaml.safe_dump(values | changes, sort_keys=False), "small.yaml")


def problem(**changes: Any) -> str:
    with pytest.raises(ConfigError) as found:
        sweep_of(**changes)
    return str(found.value)


# --- the file and its space -----------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_each_shipped_sweep_can_be_planned(file: Path) -> None:
    sweep = load_sweep(file)
    assert planner.plan(sweep, 0).trials
    values = spaces.suggest(sweep, 0, 0, [])
    assert values and values.keys() <= sweep.space.keys()
    spaces.trial_config(sweep, spaces.base_config(sweep), values, 0)


def test_the_seed_grid_is_planned_in_two_seconds_and_its_duplicates_are_counted() -> None:
    began = time.perf_counter()
    sweep = load_sweep(CONFIGS / "sweeps" / "seed-grid.yaml")
    plan = planner.plan(sweep, 3)
    cells = spaces.grid(sweep, 3)
    assert time.perf_counter() - began < 2
    assert (plan.settings, plan.trials, plan.processes) == (4096, 4096, 64)
    assert len({tuple(cell.values()) for cell in cells}) == 4096
    # 4 x 4 ways to cut the rows of a step are 7 different products: 9 of 16 are the same again.
    assert plan.duplicates == 4096 * 9 // 16
    few = planner.plan(sweep.model_copy(update={"duplicates": "skip"}), 3)
    assert (few.settings, few.skipped) == (1792, 2304)
    assert cells != spaces.grid(sweep, 4) and cells == spaces.grid(sweep, 3)


def test_with_dropout_the_cut_of_a_step_matters() -> None:
    space = {spaces.BATCH: [4, 8], spaces.TIMES: [1, 2]}
    grid = {"method": "grid", "budget": None, "space": space}
    assert planner.plan(sweep_of(**grid), 0).duplicates == 1
    wet = sweep_of(**grid, base={"overrides": {"lora.dropout": 0.1}})
    assert planner.plan(wet, 0).duplicates == 0


def test_a_condition_leaves_a_setting_at_its_base_value() -> None:
    space = {
        "optimizer.name": ["adamw_torch", "sgd"],
        "optimizer.momentum": {"low": 0.0, "high": 0.9, "step": 0.3,
                               "when": {"optimizer.name": ["sgd"]}},
    }  # fmt: skip
    cells = spaces.grid(sweep_of(method="grid", budget=None, space=space), 0)
    assert len(cells) == 1 + 4
    assert sorted(c["optimizer.momentum"] for c in cells if "optimizer.momentum" in c) == [
        0, 0.3, 0.6, 0.9,
    ]  # fmt: skip
    drawn = [spaces.suggest(sweep_of(space=space), 0, n, []) or {} for n in range(12)]
    assert {"optimizer.momentum" in v for v in drawn} == {True, False}
    assert all(("optimizer.momentum" in v) == (v["optimizer.name"] == "sgd") for v in drawn)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_rebuilt_study_suggests_what_an_undisturbed_one_does(method: str) -> None:
    sweep = sweep_of(method=method, budget="30 trials")

    def result(number: int, values: dict[str, Any]) -> Tried:
        score = -abs(values["training.learning_rate"] - 1e-3) + values["lora.r"] / 1000
        return Tried(number, values, optuna.trial.TrialState.COMPLETE, score, {})

    tried: list[Tried] = []
    for number in range(30):
        values = spaces.suggest(sweep, 7, number, tried)
        assert values
        # Another process, in which the trials came back in another order.
        assert spaces.suggest(sweep, 7, number, tried[::-1]) == values
        tried.append(result(number, values))
    assert len({tuple(one.values.items()) for one in tried}) == 30
    assert spaces.suggest(sweep, 8, 30, tried) != spaces.suggest(sweep, 7, 30, tried)


def test_a_small_space_ends_when_all_was_tried() -> None:
    sweep = sweep_of(space={"lora.r": [2, 4, 8]}, budget="90 trials")
    tried: list[Tried] = []
    while values := spaces.suggest(sweep, 0, len(tried), tried):
        tried.append(Tried(len(tried), values, optuna.trial.TrialState.RUNNING))
    assert sorted(one.values["lora.r"] for one in tried) == [2, 4, 8]


def test_seeds_of_a_setting_follow_each_other() -> None:
    sweep = sweep_of(seeds=3, budget="7 trials", base={"overrides": {"training.seed": 10}})
    base = spaces.base_config(sweep)
    configs = [spaces.trial_config(sweep, base, {"lora.r": 2}, number) for number in range(4)]
    assert [c.training.seed for c in configs] == [10, 11, 12, 10]
    assert [c.name for c in configs][:2] == ["small 0", "small 1"]
    assert planner.plan(sweep, 0).trials == 6  # whole settings only
    assert base.early_stopping.metric == "val/exact_match" and base.supervision.auto_resume == 2


BAD = {
    "an empty space": ({"space": {}}, "space: is empty"),
    "an unknown setting": ({"space": {"lora.rank": [1]}}, "space.lora.rank: no such setting"),
    "one without its section": (
        {"space": {"learning_rate": [1e-3]}}, "did you mean 'training.learning_rate'?"),
    "bounds upside down": (
        {"space": {"lora.r": {"low": 8, "high": 2}}}, "upside down: low 8 is above high 2"),
    "a bound out of bounds": ({"space": {"lora.r": {"low": 0, "high": 2}}}, "space.lora.r: input"),
    "a value out of bounds": ({"space": {"lora.r": [4, 0]}}, "greater than or equal to 1; got 0"),
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
    "the seed": ({"space": {"training.seed": [1, 2]}}, "is given by `seeds`"),
    "a metric that is not recorded": ({"metric": "val/exakt_match"}, "did you mean"),
    "an unknown field": ({"pruning": "asha"}, "pruning: no such field; did you mean 'pruner'?"),
    "an unknown method": ({"method": "bayes"}, "method: input should be 'grid', 'random' or 'tpe'"),
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
        planner.plan(sweep_of(**changes), 0)
    return str(found.value)


@pytest.mark.parametrize(
    ("text", "trials", "seconds"),
    [("200 trials", 200, None), ("45 minutes", None, 2700), ("45m", None, 2700),
     ("1.5 hours", None, 5400), ("90s", None, 90), ("1,000 trials", 1000, None)],
)  # fmt: skip
def test_budgets(text: str, trials: int | None, seconds: float | None) -> None:
    assert spaces.Budget.parse(text) == spaces.Budget(trials, seconds)


def test_values_are_those_that_a_run_has() -> None:
    """YAML reads 1e-4 as a text."""
    sweep = parse_sweep(
        "{name: s, method: grid, space: {training.learning_rate: [1e-4, 0.0001, 2e-4]}}", "s"
    )
    assert [cell["training.learning_rate"] for cell in spaces.grid(sweep, 0)] in (
        [1e-4, 2e-4], [2e-4, 1e-4],
    )  # fmt: skip
    assert with_overrides(load_config().model_dump(), {"training.learning_rate": "1e-4"})
