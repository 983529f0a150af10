"""Scores on a file: of seen and unseen words, with intervals, beside baselines."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from src import cli
from src.analysis import evaluating, evaluation
from src.config import load_config
from src.models.intervals import score_interval
from src.tasks.built_in.correct import CORRECT
from src.training import evaluate as scoring
from tests.helpers.store import fill_run


def test_the_interval_of_a_share_is_wilsons():
    # Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for right, rows, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                   (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]:  # fmt: skip
        assert score_interval(right, rows) == pytest.approx((low, high), abs=5e-5)
    assert all(bound != bound for bound in score_interval(0, 0))


def predictions() -> pd.DataFrame:
    """Two words that training has (one in another case), two that it does not have."""
    rows = [("recieve", "receive", "receive"), ("Adress", "Address", "Adres"),
            ("tzatzikki", "tzatziki", "x"), ("qwertyx", "qwerty", "qwerty")]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["question", "expected", "predicted"])
    frame["question"] = CORRECT + frame["question"]
    frame["correct"] = frame["expected"] == frame["predicted"]
    return frame.assign(
        word=frame["expected"], edit_distance=1, base_predicted="", base_correct=False
    )


@pytest.fixture
def trained_on(tmp_path: Path) -> Path:
    rows = [{"question": f"q{i}", "answer": answer, "split": split} for i, (answer, split) in
            enumerate([("receive", "train"), ("address", "train"), ("qwerty", "validation"),
                       ("qwerty", "test")])]  # fmt: skip
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_rows_are_told_apart_by_the_answers_of_training(trained_on):
    config = load_config(overrides={"data.path": str(trained_on)})
    seen, why = evaluation.unseen_or_note(config, predictions())
    assert seen is not None and seen.tolist() == [True, True, False, False] and why is None
    found = evaluation.scores(predictions(), seen)
    assert list(found) == ["model", "base", "dictionary"]
    shares = {group: (one["right"], one["rows"]) for group, one in found["model"].items()}
    assert shares == {"all": (2, 4), "seen": (1, 2), "unseen": (1, 2)}
    assert found["base"]["all"]["right"] == 0 and found["dictionary"]["seen"]["right"] == 1


def test_who_always_gives_the_most_frequent_answer_is_a_baseline_where_that_helps():
    counts = pd.DataFrame({"question": "How many?", "expected": ["1", "2", "1", "3", "1"]})
    found = evaluation.scores(counts.assign(correct=False), None)
    assert found["constant"]["all"]["right"] == 3 and found["model"]["all"]["right"] == 0
    rare = pd.DataFrame({"question": "q", "expected": ["x", *map(str, range(98)), "x"]})
    assert "constant" in evaluation.scores(rare.assign(correct=True), None)
    rare = pd.DataFrame({"question": "q", "expected": ["x", *map(str, range(99)), "x"]})
    assert "constant" not in evaluation.scores(rare.assign(correct=True), None)


def test_training_rows_that_cannot_be_read_are_a_sentence(tmp_path):
    config = load_config(overrides={"data.path": str(tmp_path / "gone.csv")})
    seen, why = evaluation.unseen_or_note(config, predictions())
    assert seen is None and why is not None and "training rows cannot be read (no file" in why
    assert list(evaluation.scores(predictions(), seen)["model"]) == ["all"]


def test_evaluate_prints_groups_kinds_and_baselines(home, trained_on, monkeypatch):
    run_id = fill_run(data__path=str(trained_on))
    monkeypatch.setattr(evaluating, "adapter_folder", lambda run, step: home)
    asked: list[object] = []

    def score(config, adapter, data, *, progress, with_base, examples, decoding):
        asked.append((config.model.name, adapter, with_base))
        frame = predictions()
        if not decoding.is_greedy:
            frame = frame.loc[frame.index.repeat(decoding.num_samples)]
            frame["sample"] = list(range(decoding.num_samples)) * 4
            frame = frame[sorted(frame, key=lambda name: name.startswith("base"))]
        return {"exact_match": 0.5}, frame if with_base else frame.iloc[:, :-2]

    monkeypatch.setattr(scoring, "evaluate", score)
    told = CliRunner().invoke(cli.app, ["evaluate", run_id, "--data", "a.csv", "--json"])
    document = json.loads(told.stdout)
    assert document["scores"]["model"]["seen"]["rows"] == 2 and len(document["errors"]) == 2
    assert sum(document["kinds"].values()) == 2
    told = CliRunner().invoke(cli.app, ["evaluate", run_id, "--data", "a.csv"])
    assert "answers seen in training" in told.stdout and "9.5% to 90.5%" in told.stdout
    assert document["decoding"] == {"method": "greedy"} and "decoding: greedy" in told.stdout
    sampled = ["evaluate", run_id, "--data", "a.csv", "--top-p", "0.9", "--num-samples", "3"]
    document = json.loads(CliRunner().invoke(cli.app, [*sampled, "--json"]).stdout)
    assert document["decoding"] == {"method": "sampling", "temperature": 1.0, "top_p": 0.9,
                                    "top_k": None, "num_samples": 3, "seed": 0}  # fmt: skip
    assert (document["rows"], document["answers"]) == (4, 12)
    share = document["scores"]["model"]["all"]
    assert (share["rows"], share["answers"], share["right"]) == (4, 12, 6)
    # Three times the same answers: as much is known as from one of each.
    assert share["ci_low"] == pytest.approx(0.15, abs=1e-3)
    told = CliRunner().invoke(cli.app, sampled)
    assert "sampling (temperature 1, top_p 0.9, 3 answers a question, seed 0)" in told.stdout
    wrong = CliRunner().invoke(cli.app, [*sampled, "--temperature", "-1"])
    assert wrong.exit_code == 2 and "temperature is -1; it is a number from 0" in wrong.output
    base = ["evaluate", "--base", "spelltune-tiny", "--data", "a.csv", "--no-baseline", "--json"]
    document = json.loads(CliRunner().invoke(cli.app, base).stdout)
    assert document["id"] is None and list(document["scores"]["model"]) == ["all"]
    assert asked[-1] == ("spelltune-tiny", None, False)
    both = CliRunner().invoke(cli.app, ["evaluate", run_id, "--base", "x", "--data", "a.csv"])
    assert both.exit_code == 2
