"""The score of always giving the most frequent answer, beside the scores of runs and of configs."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from src import store
from src.analysis import comparison, guessing
from src.cli.main import app
from src.panel.compare import scores
from tests.helpers.store import fill_predictions, fill_run

# Of five counts, `1` is right for three.
COUNTS = [(f"How many e's are in w{i}?", "1" if i % 5 < 3 else str(i % 5), "1") for i in range(100)]
WORDS = [(f"w{i}", f"word{i}", f"word{i}") for i in range(100)]


def test_the_most_frequent_answer_is_told_where_it_is_often_right() -> None:
    assert guessing.constant_share(pd.Series(["1", "1", "1", "2", "3"])) == 0.6
    assert guessing.frequent_answer(pd.Series(["1", "1", "1", "2", "3"])) == "1"
    assert guessing.constant_share(pd.Series([f"word{i}" for i in range(100)])) is None
    assert guessing.constant_share(pd.Series(["only"])) is None  # once is not often
    assert guessing.constant_share(pd.Series([], dtype=str)) is None


def scored(name: str, words: list[tuple[str, str, str]], seed: int, rank: int) -> str:
    run_id = fill_run(name=name, training__seed=seed, lora__r=rank, steps=40)
    fill_predictions(run_id, 40, words, rows=100, split="test")
    return run_id


@pytest.mark.parametrize(("words", "constant"), [(COUNTS, 0.6), (WORDS, None)])
def test_compare_tells_it_beside_the_score_of_each_config(
    home: Path, words: list[tuple[str, str, str]], constant: float | None
) -> None:
    ids = [scored(f"r{rank}", words, seed, rank) for rank in (4, 8) for seed in (1, 2)]
    with store.reading() as session:
        found = comparison.compare(session, store.runs_of(session, ids))
    assert [score["constant"] for score in found.scores.values()] == [constant] * 2
    page = scores.score_table(found)
    told = CliRunner().invoke(app, ["compare", *ids]).output
    document = json.loads(CliRunner().invoke(app, ["compare", *ids, "--json"]).stdout)
    assert [one["constant"] for one in document["configs"]] == [constant] * 2
    if constant is None:
        assert "most frequent" not in page and "most frequent" not in told
    else:
        assert "Always giving the most frequent answer scores 60.0%." in page
        assert "r4: 60.0%; always the most frequent answer: 60.0%" in told.replace("\n", " ")
