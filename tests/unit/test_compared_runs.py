"""Runs that are compared: which are one config, which seeds and split count, and the command."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from src import cli, store
from src.analysis import comparison, verdicts
from src.paths import CONFIGS
from src.store.tables import Status
from tests.helpers.speed import slowness
from tests.helpers.store import fill_predictions, fill_run, fill_sweep
from tests.helpers.verdicts import seeds


def scored(name: str, seed: int, right: np.ndarray, *, split: str = "test", **overrides) -> str:
    """A completed run that answered so."""
    run_id = fill_run(name=name, training__seed=seed, steps=20, rows=12, **overrides)
    score(run_id, right, split=split)
    return run_id


def score(run_id: str, right: np.ndarray, *, split: str = "test") -> None:
    words = [(f"wrod{i}", f"word{i}", f"word{i}" if ok else "?") for i, ok in enumerate(right)]
    fill_predictions(run_id, 20, words, rows=len(words), split=split)


def compared(*ids: str) -> comparison.Comparison:
    with store.reading() as session:
        return comparison.compare(session, [store.find(session, i) for i in ids])


def test_runs_that_differ_in_seed_name_and_tags_are_one_config(home):
    right = seeds(3)
    ids = [scored("first", 0, right[0]), scored("second", 1, right[1], tracking__tags=["x"])]
    wide = scored("wide", 0, right[2], lora__r=64)
    found = compared(*ids, wide)
    assert [[r.id for r in g.runs] for g in found.groups] == [ids, [wide]]
    assert [g.name for g in found.groups] == ["first", "wide"]
    assert found.differing["lora.r"] == {ids[0]: 16, ids[1]: 16, wide: 64}
    assert set(found.differing) == {"name", "training.seed", "tracking.tags", "lora.r"}
    (verdict,) = found.configs
    assert verdict.claim.startswith("cannot tell yet: 2 seeds of first and one seed of wide")
    assert len(found.adapters) == 3


def test_configs_of_one_name_are_told_apart_by_what_differs(home):
    right = seeds(2)
    ids = [scored("spell", 0, right[0]), scored("spell", 0, right[1], lora__r=64)]
    assert [g.name for g in compared(*ids).groups] == ["spell (rank 16)", "spell (rank 64)"]


def test_only_completed_runs_of_different_seeds_count(home):
    right = seeds(4)
    ids = [scored("a", seed, right[i]) for i, seed in enumerate((0, 1, 1))]
    ids.append(fill_run(name="a", training__seed=7, steps=20, status=Status.STOPPED))
    score(ids[-1], right[3])
    (group,) = compared(*ids).groups
    assert len(group.runs) == 4
    assert [r.id for r in group.seeds] == [ids[0], ids[2]], "the newest of a seed"


def test_other_data_under_the_same_settings_are_another_config(home):
    ids = [scored("a", seed, seeds(1)[0]) for seed in range(3)]
    with store.writing() as session:
        store.find(session, ids[0]).used = {"data_fingerprint": "old"}
        store.find(session, ids[1]).used = {"data_fingerprint": "new"}
    assert [len(g.runs) for g in compared(*ids).groups] == [2, 1]


def test_the_test_split_counts_once_all_have_it_else_validation(home):
    right = seeds(6)
    ids = [scored("a", i, right[i]) for i in range(3)]
    ids += [scored("b", i, right[3 + i], lora__r=64, split="validation") for i in range(3)]
    for run_id in ids[:3]:
        score(run_id, right[0], split="validation")
    found = compared(*ids)
    assert (
        found.configs[0].split == "validation" and "validation questions" in found.configs[0].claim
    )
    assert found.scores["a"]["split"] == "validation"
    for i, run_id in enumerate(ids[3:]):
        score(run_id, right[3 + i])
    found = compared(*ids)
    assert found.configs[0].split == "test" and found.scores["b"]["split"] == "test"


def test_all_pairs_and_the_ranking_speak_of_one_split(home):
    right = seeds(6)
    ids = [scored(n, i, right[i], lora__r=r) for n, r in (("a", 8), ("b", 4)) for i in range(3)]
    for i, run_id in enumerate(ids):
        score(run_id, right[i % 3], split="validation")
    third = [scored("c", i, right[3 + i], lora__r=64, split="validation") for i in range(3)]
    found = compared(*ids, *third)
    assert {v.split for v in found.configs} == {"validation"}
    assert {score["split"] for score in found.scores.values()} == {"validation"}


def test_no_config_is_the_best_where_questions_differ(home):
    ids = [scored("a", i, row) for i, row in enumerate(seeds(3, better=1))]
    ids += [scored("b", i, row, lora__r=64) for i, row in enumerate(seeds(3, seed=1))]
    other = scored("c", 0, np.ones(20), lora__r=4)
    found = compared(*ids, other)
    assert found.summary.startswith("no config is named the best")
    assert sum(v.claim == verdicts.OTHER_QUESTIONS for v in found.configs) == 2
    # On which split it was scored is also a matter of the questions.
    assert compared(*ids[:3], unlike(lora__r=4)).configs[0].claim == verdicts.OTHER_QUESTIONS


def unlike(**overrides) -> str:
    """A completed run that was scored on its validation questions and not on its test questions."""
    return scored("v", 0, np.ones(20), split="validation", **overrides)


def test_the_summary_names_configs_without_a_scored_seed(home):
    ids = [scored("a", 0, np.ones(20)), scored("b", 0, np.zeros(20), lora__r=64)]
    ids += [scored("c", 0, np.zeros(20), lora__r=4), fill_run(name="d", lora__r=2, steps=0)]
    assert compared(*ids).summary == (
        "a is ahead, but cannot be told from b and c; there is no scored seed of d"
    )


def test_predictions_that_are_gone_leave_the_seed_out(home):
    right = seeds(6)
    ids = [scored("a", i, right[i]) for i in range(3)]
    ids += [scored("b", i, right[3 + i], lora__r=64) for i in range(3)]
    with store.reading() as session:
        Path(
            store.final_evaluation(session, store.find(session, ids[0]), split="test").path
        ).unlink()
    found = compared(*ids)
    assert found.configs[0].claim.startswith("cannot tell yet: 2 seeds of a")
    assert "not compared" in found.adapters[0].claim


def test_more_seeds_are_new_ones_whatever_runs_are_shown(home):
    right = seeds(3)
    ids = [scored("a", seed, right[0]) for seed in (0, 2, 3)]
    with store.reading() as session:
        runs = store.list_runs(session)
        (group,) = comparison.grouped([store.find(session, ids[0])])
        there, new = comparison.up_to(group, runs, 5)
    assert sorted(there) == sorted(ids)
    assert [config.training.seed for config in new] == [1, 4]
    assert {config.lora.r for config in new} == {16}


def test_the_look_comes_from_the_table(home):
    right = {"a": seeds(8), "b": seeds(8, better=0.3, seed=1)}
    now = time.time() - 5000

    def train(count: int, launched: float) -> list[str]:
        return [
            scored(name, seed, right[name][seed], lora__r=r, created_at=launched)
            for name, r in (("a", 8), ("b", 64))
            for seed in range(count - 3 if count > 3 else 0, count)
        ]

    ids = train(3, now)
    assert compared(*ids).configs[0].look == 1
    ids += train(6, now + 1000)
    (verdict,) = compared(*ids).configs
    assert verdict.look == 2 and "6 and 6 seeds, look 2" in verdict.claim
    waits = fill_run(name="a", training__seed=9, lora__r=8, steps=0, status=Status.QUEUED)
    (verdict,) = compared(*ids, waits).configs
    assert (verdict.look, verdict.under_way, verdict.seeds) == (2, 1, (6, 6))
    assert "1 more seed is under way" in verdict.claim


@pytest.mark.timed
def test_verdicts_of_many_runs_are_ready_at_once(home):
    right = seeds(9)
    ids = [scored(f"c{i // 3}", i % 3, right[i], lora__r=8 * (1 + i // 3)) for i in range(9)]
    compared(*ids)
    start = time.perf_counter()
    compared(*ids)
    assert time.perf_counter() - start < 0.3 * slowness()


def run_cli(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["compare", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_compare_prints_one_document(home):
    a, b = seeds(3), seeds(3, better=0.8, seed=1)
    ids = [scored("a", i, a[i]) for i in range(3)]
    ids += [scored("b", i, b[i], lora__r=64) for i in range(3)]
    code, printed, _ = run_cli(*ids, "--json")
    document = json.loads(printed)
    assert code == 0
    config, *adapters = document["verdicts"]
    assert (config["a"], config["b"], config["metric"]) == ("a", "b", "exact_match")
    assert config["ci_low"] < config["difference"] < config["ci_high"]
    assert config["p_holm"] == config["p_value"] < 0.05 and config["winner"] == "b"
    assert len(adapters) == 15 and {v["about"] for v in adapters} == {"adapters"}
    assert {v["a"] for v in adapters} <= set(ids)
    assert [c["runs"] for c in document["configs"]] == [ids[:3], ids[3:]]
    assert document["settings"]["lora.r"][ids[3]] == 64


def test_compare_of_two_runs_says_what_is_missing_and_what_is_not(home):
    a, b = scored("a", 0, seeds(1)[0]), scored("b", 0, seeds(1, better=1)[0], lora__r=64)
    document = json.loads(run_cli("a", "b", "--json")[1])
    assert [v["about"] for v in document["verdicts"]] == ["configs", "adapters"]
    assert "cannot tell yet: one seed" in document["verdicts"][0]["claim"]
    assert (document["verdicts"][1]["a"], document["verdicts"][1]["b"]) == (a, b)
    code, printed, _ = run_cli(a, b)
    assert code == 0 and "these two adapters only" in printed


def test_compare_takes_two_runs_that_are_there(home):
    a = scored("a", 0, seeds(1)[0])
    assert run_cli(a, a)[0] == 2 and run_cli(a, "nothing")[0] == 2
    assert "two or more different runs" in run_cli(a, a)[2]


def test_the_runs_of_a_sweep_are_compared_by_its_name(home):
    sweep_id = fill_sweep(CONFIGS / "sweeps" / "transfer.yaml", trials=15)
    right = seeds(1)[0]
    with store.reading() as session:
        trials = store.runs_of_sweep(session, sweep_id)
        steps = {run.id: run.max_steps for run in trials}
    for place, (run_id, step) in enumerate(steps.items()):
        # Each arm is asked other questions, as its own test set is.
        words = [(f"wrod{place // 5}{i}", f"word{i}", f"word{i}" if ok else "?")
                 for i, ok in enumerate(right)]  # fmt: skip
        fill_predictions(run_id, step, words, rows=len(words), split="test")
    document = json.loads(run_cli("--sweep", "transfer", "--json")[1])
    assert sorted(run for one in document["configs"] for run in one["runs"]) == sorted(steps)
    code, printed, _ = run_cli("--sweep", "transfer")
    assert code == 0 and "3 pairs of configs are not compared" in printed
    assert "75 pairs of adapters are not compared" in printed
    assert run_cli("--sweep", "other")[0] == 2
