"""What a typed text is asked as, what is right there, and the file of those missed."""

from pathlib import Path
from typing import Any

import pytest

from src.config import RunConfig, load_config
from src.training.data_loaders import load_rows
from src.training.questions import (
    MAX_LETTERS,
    MAX_TEXTS,
    QuestionError,
    Speller,
    keep_questions,
    question_of,
    texts_of,
    with_bases,
)


def config(**changes: Any) -> RunConfig:
    return load_config(overrides={name.replace("__", "."): v for name, v in changes.items()})


@pytest.mark.parametrize(
    ("settings", "text", "question", "expected"),
    [
        ({}, "receive", "Spell the word: receive", "r e c e i v e"),
        ({"data__separator": "dash"}, "tea", "Spell the word: tea", "t-e-a"),
        ({}, "How do you spell tea?", "How do you spell tea?", "t e a"),
        ({}, "Hello there, who are you?", "Hello there, who are you?", None),
        ({}, "Hello there\tGood day", "Hello there", "Good day"),
        ({}, "café", "Spell the word: café", "c a f é"),
        ({"data__task": "correct"}, "recieve", "Correct the spelling: recieve", "receive"),
        ({"data__task": "correct"}, "receive", "Correct the spelling: receive", "receive"),
        ({"data__task": "correct"}, "zzxqy", "Correct the spelling: zzxqy", None),
        ({"data__task": "correct"}, "Correct the spelling: recieve",
         "Correct the spelling: recieve", "receive"),
        ({"data__task": "reverse"}, "tea", "Write tea backwards.", "aet"),
        ({"data__task": "reverse"}, "level", "level", None),
        ({"data__mix": {"correct": 2, "spell_out": 1}}, "recieve",
         "Correct the spelling: recieve", "receive"),
        ({"data__mix": {"correct": 2, "spell_out": 1}}, "Spell the word: tea",
         "Spell the word: tea", "t e a"),
        ({"data__path": "own.csv"}, "tea", "tea", None),
        ({"data__path": "own.csv"}, "tea\tt e a", "tea", "t e a"),
    ],
)  # fmt: skip
def test_a_text_is_asked_as_the_run_asks_it(
    settings: dict[str, Any], text: str, question: str, expected: str | None
) -> None:
    asked = question_of(config(data__score_right_words=False, **settings), text)
    assert (asked.question, asked.expected) == (question, expected)


def test_each_task_judges_its_own_answer_and_no_other() -> None:
    from src.tasks import TASKS

    for task in TASKS:
        asked = question_of(config(data__task=task), "receive")
        assert asked.expected and "receive" in asked.question.replace(" ", ""), task
        assert asked.is_right(f" {asked.expected} ") is True
        assert asked.is_right("xyz") is False
    assert question_of(config(), "no question of a task").is_right("x") is None
    # The checker of a task takes an answer in another case.
    contains = question_of(config(data__task="contains"), "receive")
    assert contains.expected and contains.is_right(contains.expected.upper())


def test_lines_are_texts_once_each_and_bounded() -> None:
    assert texts_of(["tea\n\n  cup \ntea", "pot"]) == ["tea", "cup", "pot"]
    with pytest.raises(QuestionError, match="no word to try"):
        texts_of([" \n"])
    with pytest.raises(QuestionError, match="201 words are too many"):
        texts_of([f"w{i}" for i in range(MAX_TEXTS + 1)])
    with pytest.raises(QuestionError, match="1,001 letters"):
        texts_of(["x" * (MAX_LETTERS + 1)])


def test_a_base_is_asked_once_for_each_way_to_ask() -> None:
    one, same, other = config(), config(lora__r=4), config(data__task="correct", name="fix")
    folder = Path("adapter")
    spellers = [Speller("a", one, folder), Speller("b", same, folder)]
    base = one.model.name
    assert [s.name for s in with_bases(spellers)] == [base, "a", "b"]
    assert [s.name for s in with_bases(spellers, baseline=False)] == ["a", "b"]
    names = [s.name for s in with_bases([*spellers, Speller("c", other, folder)])]
    assert names == [f"{base}, asked as {one.name}", f"{base}, asked as fix", "a", "b", "c"]
    assert Speller.of(spellers[0].document()) == spellers[0]


def test_what_failed_is_kept_once_in_a_file_that_can_be_scored(tmp_path: Path) -> None:
    file = tmp_path / "data" / "missed.jsonl"
    assert keep_questions(file, [("Spell the word: café", "c a f é"), ("q", "a")]) == 2
    assert keep_questions(file, [("q", "a"), ("r", "b")]) == 1
    rows = load_rows(file)
    assert rows["question"].tolist() == ["Spell the word: café", "q", "r"]
    assert rows["answer"].tolist() == ["c a f é", "a", "b"]
    assert keep_questions(tmp_path / "none.jsonl", []) == 0
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("content", ["no json\n", "[1]\n", '{"word": "tea"}\n', '"tea"\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(content)
    with pytest.raises(QuestionError, match="name another file"):
        keep_questions(file, [("q", "a")])
    assert file.read_text() == content
    with pytest.raises(QuestionError, match=r"has to end in \.jsonl"):
        keep_questions(tmp_path / "own.csv", [("q", "a")])
