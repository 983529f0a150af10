"""The rows of the built-in tasks, their splits, and the preview of any data."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from src.models.prompt_format import raw_format
from src.paths import BASE_MODELS, ROOT
from src.tasks.built_in.correct import CORRECT, asks_right_word
from src.tasks.words import misspellings, real_words, split_of, training_words
from src.training import data_loaders
from src.training.data_files import SPLITS
from src.training.data_loaders import Splits, load_splits
from src.training.data_notes import preview_notes
from src.training.data_preview import preview

GOOD = [{"question": f"q{i}", "answer": f"word{i}"} for i in range(60)]


def own(path: Path) -> data_loaders.Splits:
    return load_splits(task="mine", path=str(path))


# Nothing here changes the frames of a task, whose words take a second to read.
built_in = cache(load_splits)


def first_rows(splits: data_loaders.Splits, rows: int = 400) -> data_loaders.Splits:
    """The splits with so many rows of each: to cut all of a task into tokens takes two seconds."""
    return replace(splits, **{split: splits[split].head(rows) for split in SPLITS})


# --- built-in tasks ---


@pytest.mark.parametrize("task", ("spell_out", "correct"))
def test_no_target_word_stands_in_two_splits(task: str) -> None:
    splits = built_in(task=task)
    assert splits.leaks == {} and splits.duplicates == 0
    assert min(splits[split]["word"].nunique() for split in ("validation", "test")) >= 1000
    for split in SPLITS:
        assert set(splits[split]["word"].map(split_of)) == {split}


def test_the_tasks_share_their_splits() -> None:
    spell, correct = (built_in(task=task) for task in ("spell_out", "correct"))
    for split in SPLITS:
        assert set(spell[split]["word"]) == set(correct[split]["word"])


def test_rows_read_as_promised() -> None:
    spell, correct = (built_in(task=task) for task in ("spell_out", "correct"))
    rows = pd.concat([spell[s] for s in SPLITS]).set_index("word")
    assert rows.loc["receive", "question"] == "Spell the word: receive"
    assert rows.loc["receive", "answer"] == "r e c e i v e"
    pairs = pd.concat([correct[s] for s in SPLITS])
    assert set(pairs["answer"]) == set(pairs["word"])
    assert ("recieve", "receive") in misspellings()
    held_out = pd.concat([correct.validation, correct.test])
    assert held_out["word"].is_unique  # one misspelling a word
    assert len(correct.train) > 3 * correct.train["word"].nunique()
    words = {word for _, word in misspellings()}
    assert not words & {wrong for wrong, _ in misspellings()}


def test_the_splits_never_change() -> None:
    # Base models and results rest on them: a change here is a new task.
    assert [split_of(w) for w in ("receive", " Receive", "beautiful", "science", "the")] == [
        "train", "train", "validation", "train", "train"
    ]  # fmt: skip
    assert built_in(task="spell_out").fingerprint[:12] == "618e7a624789"
    assert built_in(task="correct").fingerprint[:12] == "90de95d2132e"


NEW = {"right_words": 0.3, "length_spread": 1.0, "score_right_words": True}


@pytest.fixture(scope="module")
def corrections() -> data_loaders.Splits:
    """The task `correct` with right words and the lengths of frequent words."""
    return built_in(task="correct", **NEW)


def test_no_form_of_a_held_out_word_is_trained(corrections: data_loaders.Splits) -> None:
    held_out = {word for word in real_words() | {w for _, w in misspellings()}
                if split_of(word) != "train"}  # fmt: skip
    forms = held_out | {wrong for wrong, word in misspellings() if word in held_out}
    train = corrections.train
    assert not forms & {*train["answer"], *train["question"].str.removeprefix(CORRECT)}
    assert not forms & set(training_words())
    assert corrections.leaks == {} and not train["question"].duplicated().any()


def test_right_words_are_a_share_of_training_and_each_held_out_word_is_asked_right(
    corrections: data_loaders.Splits,
) -> None:
    def right(frame: pd.DataFrame) -> pd.Series:
        pairs = zip(frame["question"], frame["answer"], strict=True)
        return pd.Series([asks_right_word(*pair) for pair in pairs])

    assert right(corrections.train).mean() == pytest.approx(0.3, abs=0.001)
    before = built_in(task="correct")
    for split in ("validation", "test"):
        frame, asked = corrections[split], right(corrections[split]).to_numpy()
        assert sorted(frame["answer"][asked]) == sorted(before[split]["answer"])
        assert frame[~asked].reset_index(drop=True).equals(before[split])
    only_right = built_in(task="correct", right_words=0.3)
    assert only_right.validation.equals(before.validation) and only_right.rows["train"] > 60_000


def test_the_lengths_of_misspelled_words_become_those_of_frequent_words(
    corrections: data_loaders.Splits,
) -> None:
    train = corrections.train
    wrong = train[train["question"] != CORRECT + train["answer"]]
    want = pd.Series(sorted(map(len, real_words()))).value_counts(normalize=True)
    have = wrong["answer"].str.len().value_counts(normalize=True)
    assert (have - want).abs().max() < 0.005
    before = built_in(task="correct").train["answer"].str.len().value_counts(normalize=True)
    assert (before - want).abs().max() > 0.05
    asked = set(wrong["question"].str.removeprefix(CORRECT))
    assert not asked & real_words()


def test_the_corrections_with_right_words_never_change(corrections: data_loaders.Splits) -> None:
    assert corrections.fingerprint[:12] == "809f4ac614db"


def test_the_first_rows_are_a_sample_of_the_words() -> None:
    head = built_in(task="spell_out").validation["word"].head(200)
    assert head.str[0].nunique() > 15


# --- prompts and preview ---


def test_braces_in_a_question_stay() -> None:
    assert raw_format("Q: {question}\nA:").prompt("a {b} {question}") == "Q: a {b} {question}\nA:"


def test_the_preview_counts_tokens_and_shows_the_cuts() -> None:
    splits = first_rows(built_in(task="correct"))
    seen = preview(
        splits,
        tokenizer=BASE_MODELS / "spelltune-tiny" / "tokenizer.json",
        form=raw_format("<human>: {question}\n<assistant>:"),
        max_length=20,
    )
    assert seen["rows"] == splits.rows and seen["leaks"] == {}
    tokens = seen["tokens"]
    assert 5 < tokens["min"] <= tokens["median"] <= tokens["max"] < 96
    assert 0 < seen["too_long"] < sum(splits.rows.values())
    example = seen["examples"][0]
    prompt = f"<human>: {example['question']}\n<assistant>: {example['answer']}"
    assert "".join(example["pieces"]) == prompt


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_preview_shows_misspelled_words_and_right_ones_and_says_which(share: float) -> None:
    splits = first_rows(built_in(task="correct", right_words=share))
    seen = preview(
        splits,
        tokenizer=BASE_MODELS / "spelltune-tiny" / "tokenizer.json",
        form=raw_format("{question}:"),
        max_length=96,
    )
    # The form shows three.
    assert {e["kind"] for e in seen["examples"][:3]} == {"misspelled", "already right"}
    for example in seen["examples"]:
        is_right = example["question"].removeprefix(CORRECT) == example["answer"]
        assert example["kind"] == ("already right" if is_right else "misspelled")


def test_the_preview_of_other_rows_names_no_kind(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, GOOD)))
    for splits in (own(tmp_path / "own.jsonl"), first_rows(built_in(task="spell_out"))):
        seen = preview(
            splits,
            tokenizer=BASE_MODELS / "spelltune-tiny" / "tokenizer.json",
            form=raw_format("{question}:"),
            max_length=96,
        )
        first = splits.train.head(5)
        assert [e["question"] for e in seen["examples"]] == list(first["question"])
        assert {e["kind"] for e in seen["examples"]} == {None}


def test_reading_data_brings_no_torch() -> None:
    code = (
        "import sys; from src.training.data_loaders import load_splits; "
        "load_splits(task='correct'); "
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"


def test_the_settings_of_a_task_reach_its_rows() -> None:
    plain = load_splits(task="spell_out")
    dashed = load_splits(task="spell_out", separator="dash")
    assert dashed.train["answer"].tolist() == [
        answer.replace(" ", "-") for answer in plain.train["answer"]
    ]
    other = load_splits(task="spell_out", phrasings=3, held_out_phrasings=True)
    ways = {split: {q.split()[0] for q in other[split]["question"]} for split in SPLITS}
    assert ways == {"train": {"Spell", "Write", "Which"}, "validation": {"How"}, "test": {"How"}}


# --- right words ----------------------------------------------------------------------------------


def test_fewer_right_words_than_were_asked_for_are_told() -> None:
    """There are only so many; the share is of corrections alone, and own data ask for none."""
    tokenizer = BASE_MODELS / "spelltune-tiny" / "tokenizer.json"

    def told(splits: Splits) -> tuple[dict, list[str]]:
        seen = preview(splits, tokenizer=tokenizer, form=raw_format("{question}"), max_length=96)
        return seen["corrections"], [n for n in preview_notes(seen) if "right_words" in n]

    def rows(right: int, wrong: int, other: int = 0) -> pd.DataFrame:
        asked = [(CORRECT + "house", "house")] * right + [(CORRECT + "huose", "house")] * wrong
        frame = pd.DataFrame([*asked, *[("q", "a")] * other], columns=["question", "answer"])
        return frame.assign(word=frame["answer"])

    def of(frame: pd.DataFrame, asked: float | None) -> Splits:
        return Splits(frame, frame.head(1), frame.head(1), right_words=asked)

    counts, notes = told(of(rows(30, 70, other=50), 0.9))
    assert counts == {"misspelled": 70, "already right": 30, "asked": 0.9}
    assert notes == [
        "data.right_words asks for 90.0% of the corrections in training, and there are right words "
        "for 30.0%: 30 of 100 rows"
    ]
    assert told(of(rows(30, 70), 0.3))[1] == told(of(rows(0, 100), 0.0))[1] == []
    assert told(of(rows(30, 70), None)) == (
        {"misspelled": 70, "already right": 30, "asked": None}, []
    )  # fmt: skip
    assert told(of(rows(0, 0, other=5), None)) == ({}, [])
    assert load_splits(task="correct", right_words=0.25).right_words == 0.25
    assert load_splits(task="count", right_words=0.25).right_words is None
