"""Suites: their names and rows, what is left out of them, and what a launch refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from src import cli, paths
from src.analysis import predictions
from src.config import ConfigError, load_config, stored_config, with_absolute_paths
from src.models.prompt_format import raw_format
from src.panel.ui import charts
from src.runs import checks, reach
from src.tasks.words import split_of
from src.training import data_formats, suites
from src.training.data_files import DataError
from src.training.data_loaders import load_splits
from src.training.suite_scores import METRICS, judged
from src.training.suites import Suite, load
from tests.helpers.store import fill_run
from tests.helpers.suites import fill_suite


def words_file(folder: Path, name: str = "words.csv", rows: str = "cat,tac\ndog,god\n") -> Path:
    file = folder / name
    file.write_text(f"question,answer\n{rows}")
    return file


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["spell_out", "correct"])
def test_a_built_in_suite_has_held_out_words_only(task: str) -> None:
    suite = load(task).limited(50)
    assert len(suite.frame) == 50
    assert {split_of(word) for word in suite.frame["word"]} == {"test"}
    assert suite.fingerprint == load(task).limited(50).fingerprint
    marked = suite.marked(load_splits(task="spell_out").train["word"], keep=False)
    assert marked.seen == 0 and len(marked.frame) == 50


def test_a_file_is_a_suite_by_its_test_split_or_all_its_rows(tmp_path: Path) -> None:
    assert load(str(words_file(tmp_path))).frame["answer"].tolist() == ["tac", "god"]
    lines = [
        {"question": "a", "answer": "b", "split": "train"},
        {"question": "c", "answer": "d", "split": "test"},
    ]
    own = tmp_path / "split.jsonl"
    own.write_text("\n".join(map(json.dumps, lines)))
    assert load(str(own)).frame["question"].tolist() == ["c"]
    own.write_text(json.dumps(lines[0]))
    with pytest.raises(DataError, match="no test rows"):
        load(str(own))


def test_other_columns_are_named_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text("left,leaning\na,b\n")
    with pytest.raises(DataError, match=r"left, leaning.*suite add .*--map question=COLUMN"):
        load(str(file))


def test_general_is_running_text_of_our_own() -> None:
    suite = load("general")
    assert suite.is_text and 45 <= len(suite.frame) <= 60
    assert suite.frame["word"].is_unique
    assert suite.form(raw_format("<human>: {question}")) == raw_format("{question}")
    assert (suite.frame["question"] + " " + suite.frame["answer"]).tolist() == (
        suite.frame["word"].tolist()
    )


def test_cute_comes_from_the_folder_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ins_char.tsv").write_text(
        "input1\tinput2\tinput3\tlabel\nm\th\tthen\tthmen\nt\td\tand\tandt\n"
    )
    monkeypatch.setenv("SPELLTUNE_CUTE", str(tmp_path))
    suite = load("cute/ins_char")
    assert suite.frame["question"][0] == "Insert m after each h in the word: then"
    assert suite.split == "suite/cute/ins_char"
    with pytest.raises(DataError, match=r"has no file swap_char.tsv"):
        load("cute/swap_char")


def test_cute_comes_from_the_hub_as_it_is_kept_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {
        "spell": pd.DataFrame({"input1": ["then"], "label": ["t h e n"]}),
        "orth": pd.DataFrame({"prompt": ["Which is like then?"], "answer": ["them"]}),
    }
    monkeypatch.delenv("SPELLTUNE_CUTE", raising=False)
    monkeypatch.setattr(suites, "read_hub_tables", lambda hub_id, revision: tables)
    assert load("cute/spell").frame["answer"].tolist() == ["t h e n"]
    assert load("cute/orth").frame["question"].tolist() == ["Which is like then?"]
    with pytest.raises(DataError, match="has no 'swap_char'"):
        load("cute/swap_char")


# --- words of the training rows -------------------------------------------------------------------


def test_rows_about_words_that_are_trained_on_are_left_out(tmp_path: Path) -> None:
    rows = "".join(
        f"How many letters r are in the word {word}?,{word.count('r')}\n"
        for word in ("mirror", "Orange", "river", "pear", "berry", "rare")
    )
    suite = load(str(words_file(tmp_path, rows=rows)))
    assert suite.marked(["m i r r o r", "ORANGE", "word", "many"], keep=False).seen == 2
    kept = suite.marked(["mirror"], keep=True)
    assert kept.seen == 0 and kept.frame["seen"].tolist() == [True] + [False] * 5


def test_a_row_is_left_out_by_its_answer_too(tmp_path: Path) -> None:
    rows = "Which word is spelled c a t?,cat\nWhich word is spelled d o g?,dog\n"
    marked = load(str(words_file(tmp_path, rows=rows))).marked(["cat"], keep=False)
    assert marked.frame["answer"].tolist() == ["dog"]


def test_a_sentence_is_no_question_about_its_words(tmp_path: Path) -> None:
    rows = (
        "Delete each he from the sentence: he went to the old harbour,went to the old harbour\n"
        "Delete each a from the sentence: a bird sang in many tall trees,bird sang in many trees\n"
    )
    marked = load(str(words_file(tmp_path, rows=rows))).marked(["harbour", "bird"], keep=False)
    assert marked.seen == 0


def test_runs_of_other_words_are_asked_mostly_the_same_rows(tmp_path: Path) -> None:
    rows = "".join(f"Reverse word{chr(97 + i)},{chr(97 + i)}drow\n" for i in range(26))
    suite = load(str(words_file(tmp_path, rows=rows)))
    plain = set(suite.limited(10).frame["question"])
    others = suite.marked(["worda", "wordb"], keep=False).limited(10)
    assert others.seen == 2 and len(others.frame) == 10
    assert len(plain & set(others.frame["question"])) >= 8


# --- names ----------------------------------------------------------------------------------------


def test_a_suite_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    problem = suites.problem_of_names(["spell_uot"])
    assert problem and "no suite 'spell_uot'; did you mean 'spell_out'?" in problem
    assert "cute/ins_char" in (suites.problem_of_names(["cute/ins_chr"]) or "")
    assert suites.problem_of_names(["general", *(f"cute/{t}" for t in data_formats.CUTE)]) is None


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    problem = suites.problem_of_names([str(tmp_path / "a/general.csv"), "general"])
    assert problem and "two suites would be called 'general'" in problem


def test_a_suite_that_is_added_is_known_by_its_name(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text("left,right one\ncat,tac\n")
    mapping = {"question": "left", "answer": "right one"}
    assert suites.add(file, "back", mapping) == ("back", suites.folder() / "back.jsonl", 1)
    assert load("back").frame["answer"].tolist() == ["tac"]
    assert "back" in suites.known_names()
    assert suites.add(file, "back", mapping)[2] == 1  # the same again changes nothing
    with pytest.raises(DataError, match="there is a suite 'back' with other questions"):
        suites.add(words_file(tmp_path), "back", {})
    for name in ("general", "spell_out", "cute/mine", "a b"):
        with pytest.raises(DataError, match="cannot be the name of a suite"):
            suites.add(words_file(tmp_path), name, {})
    suites.remove("back")
    with pytest.raises(DataError, match="no suite 'back' was added"):
        suites.remove("back")


def test_a_path_is_made_absolute_and_found_again_in_a_home_that_moved(
    home: Path, tmp_path: Path
) -> None:
    (home / "data").mkdir(exist_ok=True)
    file = words_file(home / "data")
    config = load_config(overrides={"evaluation.suites": ["general", "data/words.csv"]})
    assert with_absolute_paths(config, home).evaluation.suites == ["general", str(file)]
    values = {"evaluation": {"suites": ["/elsewhere/home/data/words.csv"]}}
    assert stored_config(values).evaluation.suites == [str(file)]


@pytest.mark.parametrize("split", ["validation", "test", "suite/count", "suite/cute/ins-char"])
def test_a_file_of_predictions_tells_its_step_and_split(home: Path, split: str) -> None:
    file = paths.predictions_file("run", 40, split)
    assert file.parent == paths.predictions_dir("run")
    assert paths.evaluation_of(file) == (40, split)


# --- before a launch ------------------------------------------------------------------------------


def refused(**values: object) -> str:
    overrides = {name.replace("__", "."): value for name, value in values.items()}
    with pytest.raises(ConfigError) as error:
        checks.check(load_config(overrides=overrides))
    assert set(error.value.problems) == {"evaluation.suites"}
    return error.value.problems["evaluation.suites"]


def test_a_launch_is_refused_for_a_suite_that_cannot_be_scored(home: Path, tmp_path: Path) -> None:
    assert "did you mean 'general'" in refused(evaluation__suites=["generl"])
    assert "no file" in refused(evaluation__suites=[str(tmp_path / "none.csv")])
    long = words_file(tmp_path, rows=f"cat,{'x y ' * 300}\n")
    told = refused(evaluation__suites=[str(long)])
    assert "1 row of the suite words longer than 96 tokens, the longest has 910" in told


def test_a_preview_counts_what_is_left_out(home: Path, tmp_path: Path) -> None:
    training = load_splits(task="spell_out").train
    own = words_file(tmp_path, rows=f"{training['word'][0]},x\nqqqq,y\n")
    config = load_config(overrides={"evaluation.suites": [str(own), "correct"]})
    seen = checks.check(config)["suites"]
    assert seen["words"]["rows"] == 1 and seen["words"]["left_out"] == 1
    assert seen["correct"]["rows"] == 500
    assert "suites" not in checks.check(load_config())


def test_a_reader_of_the_panel_names_no_suite_outside_the_home(home: Path, tmp_path: Path) -> None:
    base = load_config()
    config = load_config(overrides={"evaluation.suites": ["general", str(words_file(tmp_path))]})
    assert set(reach.out_of_reach(config, base)) == {"evaluation.suites"}
    assert reach.out_of_reach(config, config) == {}


# --- commands -------------------------------------------------------------------------------------


def cli_of(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments))


def test_suites_are_listed_added_and_removed(home: Path, tmp_path: Path) -> None:
    added = json.loads(cli_of("suite", "add", str(words_file(tmp_path)), "--json").stdout)
    assert added["name"] == "words" and added["rows"] == 2
    listed = {one["name"]: one for one in json.loads(cli_of("suite", "list", "--json").stdout)}
    assert listed["words"]["source"] == "yours"
    assert {"spell_out", "correct", "general", "cute/ins_char"} <= set(listed)
    assert cli_of("suite", "remove", "words").exit_code == 0
    refused = cli_of("suite", "remove", "words")
    assert refused.exit_code == 2 and "no suite 'words' was added" in refused.stderr
    refused = cli_of("suite", "remove", "count")
    assert refused.exit_code == 2 and "count is built in" in refused.stderr
    assert listed["cute/ins_char"]["about"] == "Insert X after each Y in the word: Z"


def test_a_wrong_mapping_is_told(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text("Left,right\ncat,tac\n")
    for command in (("suite", "add"), ("data", "import")):
        for mapping, told in (
            ("question=Lefd", "no column 'Lefd'; did you mean 'Left'?"),
            ("question", "--map question: it takes question=COLUMN"),
            ("question=", "--map question: it takes question=COLUMN"),
            ("frage=Left", "--map frage=Left: it takes question=COLUMN"),
        ):
            refused = cli_of(*command, str(file), "--map", mapping, "--map", "answer=right")
            assert refused.exit_code == 2
            assert told in " ".join(refused.stderr.replace("│", " ").split()), refused.stderr


def test_a_base_model_that_is_not_there_is_a_sentence(home: Path, tmp_path: Path) -> None:
    told = cli_of("evaluate", "--base", str(tmp_path / "nowhere"), "--suite", "count")
    assert told.exit_code == 2 and told.stderr.startswith("error: ") and "nowhere" in told.stderr


def test_errors_and_exports_of_a_suite(home: Path) -> None:
    run_id = fill_run(name="first", steps=600)
    fill_suite(run_id, 600, np.array([True, False, False]))
    found = json.loads(cli_of("errors", run_id, "--split", "suite/count", "--json").stdout)
    assert [row["expected"] for row in found] == ["abc"] * 2
    told = cli_of("export", run_id, "--split", "suite/count", "--format", "json")
    assert {row["split"] for row in json.loads(told.stdout)} == {"suite/count"}
    for command in ("errors", "export"):
        refused = cli_of(command, run_id, "--split", "suite/cuont")
        assert refused.exit_code == 2
        assert "did you mean 'suite/count'? It was on suite/count, validation" in refused.stderr
        refused = cli_of(command, run_id, "--split", "train")
        assert (
            refused.exit_code == 2 and "it takes validation, test or suite/NAME" in refused.stderr
        )


def test_what_is_scored_is_a_file_or_a_suite(home: Path) -> None:
    for more in ((), ("--data", "a.csv", "--suite", "correct")):
        told = cli_of("evaluate", "--base", "spelltune-tiny", *more)
        assert told.exit_code == 2 and "either a file of questions (data) or a suite" in told.stderr
    told = cli_of("evaluate", "--base", "spelltune-tiny", "--suite", "")
    assert told.exit_code == 2 and "no suite ''" in told.stderr
    told = cli_of("evaluate", "--base", "spelltune-tiny", "--suite", "corect")
    assert told.exit_code == 2 and "did you mean 'correct'" in told.stderr
    told = cli_of("evaluate", "--base", "spelltune-tiny", "--suite", "general", "--examples", "2")
    assert told.exit_code == 2 and "takes no examples" in told.stderr


def test_a_suite_keeps_a_row_to_ask(tmp_path: Path) -> None:
    suite = load(str(words_file(tmp_path)))
    assert len(suites.few_shot(suite, 1, seed=0)[1].frame) == 1
    with pytest.raises(DataError, match="has 2 rows to draw .* left to ask; 2 are too many"):
        suites.few_shot(suite, 2, seed=0)


def test_examples_are_drawn_from_training_words_and_not_from_what_is_asked() -> None:
    suite = load("spell_out").limited(20)
    examples, rest = suites.few_shot(suite, 3, seed=4)
    assert len(rest.frame) == 20 and len(examples) == 3
    known = set(load_splits(task="spell_out").train["answer"])
    assert {answer for _, answer in examples} <= known


# --- judgements -----------------------------------------------------------------------------------


def answered(expected: list[str], predicted: list[str]) -> pa.Table:
    return pa.table(
        {
            "question": [f"How many r's are in word{n}?" for n in range(len(expected))],
            "expected": expected,
            "predicted": predicted,
            "correct": [e == p for e, p in zip(expected, predicted, strict=True)],
        }
    )


def test_a_misspelling_that_a_task_does_not_name_is_described(tmp_path: Path) -> None:
    table = answered(["receive", "cat"], ["recieve", "dog"])
    for name, values in (("edits", ["", ""]), ("kind", [None, "a guess"]), ("length", [7, 3])):
        table = table.append_column(name, pa.array(values))
    predictions.write(table, tmp_path / "step-0.parquet")
    frame = pd.read_parquet(tmp_path / "step-0.parquet")
    assert frame["kind"].tolist() == ["transposition", "a guess"]
    assert frame["edits"][0] and frame["length"].tolist() == [7, 3]


def test_a_suite_of_corrections_tells_mended_words_from_right_ones() -> None:
    """As the validation set of the task does; other suites have no such shares."""
    frame = pd.DataFrame({"question": ["q"], "answer": ["a"], "word": ["a"]})
    found = dict.fromkeys(METRICS, 0.5) | {"mends": 0.25, "leaves_alone": 0.75, "exact_match/x": 1}
    predictions = pa.table({"correct": [True]})
    values, _ = judged(Suite("mine", frame), found, predictions)
    assert values == dict.fromkeys(METRICS, 0.5) | {"mends": 0.25, "leaves_alone": 0.75}
    values, _ = judged(Suite("mine", frame), dict.fromkeys(METRICS, 0.5), predictions)
    assert values == dict.fromkeys(METRICS, 0.5)
    (chart,) = charts.charts(["suite/mine/exact_match", "suite/mine/leaves_alone"])
    assert chart.curves["suite/mine/leaves_alone"] == "kept"
