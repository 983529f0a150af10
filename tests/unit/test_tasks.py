"""The built-in tasks: answers that are right by other means, and no word in two splits."""

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from rapidfuzz.distance import Levenshtein

from src.analysis import misspellings, predictions
from src.analysis.kinds import kind_of
from src.paths import ROOT
from src.tasks import (
    SEPARATORS,
    TASKS,
    Example,
    TaskError,
    TaskSettings,
    built_in,
    examples,
    mixed,
)
from src.tasks.letters import are_neighbours
from src.tasks.numbers import ORDINALS, times
from src.tasks.registry import found, task_of
from src.tasks.words import real_words, split_of
from src.training.rows import Row
from src.training.score_sheet import ScoreSheet

SPLITS = ("train", "validation", "test")


@cache
def rows_of(name: str) -> dict[str, list[Example]]:
    """All rows of a task, by split."""
    return {split: examples(name, split) for split in SPLITS}


def place(text: str, word: str) -> int:
    return len(word) - 1 if text == "last" else ORDINALS.index(text)


def expected(row: Example) -> str:
    """The right answer, worked out letter by letter from what the question says."""
    fields = TASKS[row.task].read(row.question)
    assert fields is not None, row
    letters = list(row.word)
    match row.task:
        case "spell_out":
            return " ".join(letters)
        case "spell_inverse":
            return "".join(fields["letters"].split(" "))
        case "correct":
            return row.word
        case "reverse":
            return "".join(reversed(letters))
        case "contains":
            return "yes" if set(fields["letter"]) <= set(letters) else "no"
        case "delete":
            return "".join(one for one in letters if one != fields["letter"])
        case "substitute":
            return "".join(fields["other"] if x == fields["letter"] else x for x in letters)
        case "insert":
            letters.insert(place(fields["place"], row.word) + 1, fields["letter"])
            return "".join(letters)
        case "swap":
            i, j = (place(fields[name], row.word) for name in ("place", "other"))
            letters[i], letters[j] = letters[j], letters[i]
            return "".join(letters)
        case "count":
            if "letter" in fields:
                return str(sum(one == fields["letter"] for one in letters))
            return str(len(set(letters) if "different" in row.question else letters))
        case "position":
            if "place" in fields:
                return letters[place(fields["place"], row.word)]
            (at,) = (i for i, one in enumerate(letters, 1) if one == fields["letter"])
            return str(at)
        case "orthographic_neighbour":
            options = fields["options"].split(", ")
            (near,) = (one for one in options if Levenshtein.distance(one, row.word) == 1)
            assert len(options) == len(set(options)) == 4 and set(options) <= real_words()
            return near
    raise AssertionError(f"no independent answer of {row.task}")


@pytest.mark.parametrize("name", TASKS)
def test_each_answer_is_right_and_the_only_one(name: str) -> None:
    task, answers = TASKS[name], {}
    for row in [row for split in SPLITS for row in rows_of(name)[split][:2000]]:
        assert row.answer == expected(row), row
        assert answers.setdefault(row.question, row.answer) == row.answer
        assert task.is_right(row.question, row.answer, f" {row.answer} ")
        assert not task.is_right(row.question, row.answer, row.answer + "x")


@pytest.mark.parametrize("name", TASKS)
def test_no_word_of_one_split_is_in_another(name: str) -> None:
    for split, rows in rows_of(name).items():
        assert {split_of(row.word) for row in rows} == {split}
        assert len(rows) == len({row.question for row in rows}) >= 150
        if TASKS[name].answers == "word":
            real = {row.answer for row in rows} & real_words()
            assert {split_of(word) for word in real} <= {split}
        if name == "orthographic_neighbour":
            fields = [TASKS[name].read(row.question) or {} for row in rows]
            options = {one for found in fields for one in found["options"].split(", ")}
            assert {split_of(word) for word in options} == {split}


@pytest.mark.parametrize("name", TASKS)
def test_the_last_phrasing_is_never_trained_and_held_out_ones_are_scored(name: str) -> None:
    every = TaskSettings(phrasings=9, held_out_phrasings=True)
    last = {texts[-1] for texts in TASKS[name].variants.values()}
    assert all(len(texts) >= 3 for texts in TASKS[name].variants.values())

    def phrased(rows: list[Example], *, held_out: bool) -> bool:
        ours = [any(_fits(text, row.question) for text in last) for row in rows]
        return all(ours) if held_out else not any(ours)

    assert phrased(examples(name, "train", settings=every), held_out=False)
    assert phrased(examples(name, "test", settings=every), held_out=True)


def _fits(text: str, question: str) -> bool:
    parts = [part.partition("}")[2] for part in f"}}{text}".split("{")]
    return question.startswith(parts[0]) and all(part in question for part in parts)


def test_rows_and_those_of_a_mixture_are_the_same_in_each_process() -> None:
    code = (
        "import hashlib; from src.tasks import TASKS, examples, mixed; "
        "rows = [examples(n, 'test', seed=3) for n in TASKS]; "
        "rows += [mixed({'spell_out': 0.5, 'reverse': 0.5}, 'test')]; "
        "print(hashlib.sha256(repr(rows).encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    rows = [examples(name, "test", seed=3) for name in TASKS]
    rows += [mixed({"spell_out": 0.5, "reverse": 0.5}, "test")]
    assert seen == {hashlib.sha256(repr(rows).encode()).hexdigest()}
    assert examples("count", "test", seed=4) != examples("count", "test", seed=3)


def test_a_module_of_five_lines_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echo.py").write_text(
        "from src.tasks.task import Asked, Task\n"
        "TASK = Task(name='echo', summary='the word itself', make=lambda word, rng: Asked(word),\n"
        "            phrasings=('Repeat {word}', 'Say {word}'))\n"
    )
    monkeypatch.setattr(built_in, "__path__", [*built_in.__path__, str(tmp_path)])
    tasks = found()
    assert set(tasks) == {*TASKS, "echo"}
    row = tasks["echo"].examples("test")[0]
    assert row == Example(f"Repeat {row.word}", row.word, row.word, "echo")


@pytest.mark.parametrize("name", SEPARATORS)
def test_letters_are_separated_as_asked(name: str) -> None:
    asked = TaskSettings(separator=name)
    spelled = {row.word: row for row in examples("spell_out", "test", settings=asked)}
    assert spelled["destroy"].answer == SEPARATORS[name].join("destroy")
    assert task_of(spelled["destroy"].answer) == ("word" if name == "none" else "spell out")
    joined = examples("spell_inverse", "test", settings=asked)
    assert all(SEPARATORS[name].join(row.answer) in row.question for row in joined)


@pytest.mark.parametrize(
    ("name", "question", "answer", "said", "kind"),
    [
        ("count", "How many r's are in strawberry?", "3", "2", "off by one"),
        ("count", "How many r's are in strawberry?", "3", "5", "off by more"),
        ("count", "How many r's are in strawberry?", "3", "r", "not a number"),
        ("position", "What is the third letter of receive?", "c", "e", "neighbouring letter"),
        ("position", "What is the last letter of word?", "d", "o", "another letter of the word"),
        ("position", "What is the first letter of word?", "w", "d", "another letter of the word"),
        ("position", "What is the first letter of word?", "w", "x", "not in the word"),
        ("position", "What is the first letter of word?", "w", "wo", "not one letter"),
        ("position", "Which place has the letter d in word?", "4", "3", "off by one"),
        ("contains", "Does word contain the letter w?", "yes", "No", "the opposite"),
        ("contains", "Does word contain the letter w?", "yes", "w", "neither yes nor no"),
    ],
)
def test_kinds_of_wrong_answers(
    name: str, question: str, answer: str, said: str, kind: str
) -> None:
    task = TASKS[name]
    assert task.kind is not None and not task.is_right(question, answer, said)
    assert task.kind(question, answer, said) == kind and kind in task.kinds


def test_numbers_may_be_words() -> None:
    count = TASKS["count"]
    for said in ("3", "three", "Three.", "03"):
        assert count.is_right("How many r's are in strawberry?", "3", said), said
    assert not count.is_right("How many r's are in strawberry?", "3", "33")


def test_what_cannot_be_asked_is_a_sentence() -> None:
    with pytest.raises(TaskError, match="'wo' is not one letter; ask for a single one"):
        times("word", "wo")
    with pytest.raises(TaskError, match="no task 'cuont'; did you mean 'count'"):
        examples("cuont", "train")


def test_neighbours_are_one_letter_apart() -> None:
    words = sorted(word for word in real_words() if len(word) <= 4)[::29]
    for a in words:
        for b in [*words[:200], a + "s", a[1:], a[:1] + "q" + a[2:]]:
            assert are_neighbours(a, b) == (Levenshtein.distance(a, b) == 1), (a, b)


def test_predictions_are_judged_and_described_by_the_task_of_their_row(tmp_path: Path) -> None:
    asked = "How many r's are in strawberry?"
    rows = [Row("strawberry", asked, "3", [1], [2, 3], "count") for _ in range(3)]
    rows.append(Row("abc", "Spell the word: abc", "a b c", [1], [2, 3], "spell_out"))
    said = ["three", "2", "r", "a c b"]
    values, table = ScoreSheet.of(rows).summary([0.0] * 4, said, hits=0, tokens=8)
    assert values["exact_match"] == 1 / 4
    assert (values["exact_match/count"], values["exact_match/spell_out"]) == (1 / 3, 0)
    predictions.write(table, tmp_path / "rows.parquet")
    kept = misspellings.read(tmp_path / "rows.parquet")
    assert list(kept["task"]) == ["count"] * 3 + ["spell_out"]
    assert list(kept["kind"]) == ["", "off by one", "not a number", "transposition"]
    assert list(kept["correct"]) == [True, False, False, False]


def test_letters_with_other_separators_are_described_letter_by_letter() -> None:
    assert kind_of("a-b-c-d", "a-c-b-d") == kind_of("a, b, c, d", "a, c, b, d") == "transposition"
    assert kind_of("a-b-c-d", "a b c d") == "wrong format"


def test_the_table_of_the_documentation_lists_the_tasks() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    section = text.partition("\n## Tasks\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[:2] for line in section.splitlines() if line.startswith("| `")]
    assert rows == [[f"| `{task.name}`", task.summary] for task in TASKS.values()]
