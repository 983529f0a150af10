"""One Unicode form wherever texts are compared, and answers that a tokenizer does not give back."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src import store
from src.analysis import kinds, misspellings, paired, verdicts
from src.models import metrics
from src.models.prompt_format import raw_format
from src.panel.errors import filters
from src.panel.ui import find_box
from src.paths import BASE_MODELS
from src.tasks import TASKS, task_of
from src.tasks.registry import separator_of
from src.tasks.words import split_of
from src.text import caseless, composed_columns
from src.training import scoring
from src.training.data_import import import_data
from src.training.data_loaders import load_splits
from src.training.data_notes import preview_notes
from src.training.data_preview import preview
from src.training.score_sheet import ScoreSheet
from src.training.suites import Suite
from tests.helpers import tiny
from tests.helpers.store import fill_run

WORDS = ["café", "naïve", "résumé", "Ångström", "señor", "crème brûlée", "Zoë", "straße", "ḍ̇"]
TEMPLATE = "<human>: {question}\n<assistant>:"


def apart(text: str) -> str:
    """Letters and their accents as characters of their own."""
    return unicodedata.normalize("NFD", text)


def rows_of(answers: list[str], folder: Path) -> Path:
    file = folder / "rows.jsonl"
    rows = [
        {"question": f"Correct the spelling: {answer}", "answer": answer, "split": split}
        for split in ("train", "validation", "test")
        for answer in answers
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def tokenizer(normalizer: str | None = None) -> Any:
    from tokenizers import normalizers

    made = tiny.tokenizer()
    if normalizer:
        made.backend_tokenizer.normalizer = getattr(normalizers, normalizer)()
    return made


# --- answers and tokenizers -----------------------------------------------------------------------


@pytest.mark.parametrize("normalizer", [None, "NFC", "NFD"])
def test_the_right_answer_is_right_whatever_the_tokenizer_makes_of_accents(normalizer, tmp_path):
    answers = [*WORDS, *map(apart, WORDS)]
    words = tokenizer(normalizer)
    frame = pd.DataFrame({"question": answers, "answer": answers, "word": answers})
    rows = scoring.encode(words, frame, raw_format(TEMPLATE))
    given = [scoring.until(row.answer_ids, words.eos_token_id) for row in rows]
    texts = scoring.texts_of(words, given)
    values, predictions = ScoreSheet.of(rows).summary([0.0] * len(rows), texts, hits=1, tokens=1)
    assert values["exact_match"] == 1 and values["cer"] == 0
    assert predictions["expected"].to_pylist() == 2 * [
        unicodedata.normalize("NFC", w) for w in WORDS
    ]


def test_an_answer_with_a_special_token_is_scored_by_what_can_be_answered():
    words = tokenizer()
    answers = ["one<|pad|>two", "one<|end|>two", "plain"]
    frame = pd.DataFrame({"question": answers, "answer": answers, "word": answers})
    rows = scoring.encode(words, frame, raw_format(TEMPLATE))
    assert [row.answer for row in rows] == ["onetwo", "one", "plain"]


def test_answers_that_do_not_survive_are_counted_and_shown(tmp_path):
    splits = load_splits(task="mine", path=str(rows_of(["a<|endoftext|>b", "plain"], tmp_path)))
    file = BASE_MODELS / "spelltune-tiny" / "tokenizer.json"
    seen = preview(splits, tokenizer=file, form=raw_format(TEMPLATE), max_length=96)
    assert seen["lost"]["count"] == 3
    assert seen["lost"]["examples"][0] == {"answer": "a<|endoftext|>b", "returned": "ab"}
    (note,) = (n for n in preview_notes(seen) if "tokenizer" in n)
    assert "does not give back 3 answers" in note and "'a<|endoftext|>b', of which 'ab'" in note


@pytest.mark.parametrize("normalizer", [None, "NFC"])
def test_accents_survive_and_their_form_is_told(normalizer, tmp_path):
    file = tmp_path / "tokenizer.json"
    tokenizer(normalizer).backend_tokenizer.save(str(file))
    splits = load_splits(task="mine", path=str(rows_of([apart("café"), "plain"], tmp_path)))
    seen = preview(splits, tokenizer=file, form=raw_format(TEMPLATE), max_length=96)
    assert seen["lost"]["count"] == 0 and seen["not_composed"] == 3
    assert any("Unicode form" in note for note in preview_notes(seen))


@pytest.mark.parametrize("normalizer", [None, "NFC"])
@pytest.mark.parametrize("answer", ["café", apart("café"), "日本語", "🙂 ok", "plain"])
def test_the_preview_shows_each_letter_once(normalizer, answer, tmp_path):
    file = tmp_path / "tokenizer.json"
    tokenizer(normalizer).backend_tokenizer.save(str(file))
    splits = load_splits(task="mine", path=str(rows_of([answer], tmp_path)))
    seen = preview(splits, tokenizer=file, form=raw_format(TEMPLATE), max_length=96)
    text = TEMPLATE.replace("{question}", f"Correct the spelling: {answer}") + f" {answer}"
    assert "".join(seen["examples"][0]["pieces"]) == text


# --- data -----------------------------------------------------------------------------------------


def test_forms_of_one_word_share_a_split_and_a_leak(tmp_path):
    for word in WORDS:
        assert split_of(word) == split_of(apart(word)) == split_of(word.upper().lower())
    rows = {
        "train": [{"question": w, "answer": w} for w in WORDS],
        "validation": [{"question": apart(w), "answer": apart(w)} for w in WORDS],
        "test": [{"question": "other", "answer": "other"}, {"question": "x", "answer": "é"},
                 {"question": "x", "answer": apart("é")}],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(rows))
    splits = load_splits(task="mine", path=str(tmp_path / "a.json"))
    assert splits.leaks == {"train/validation": len(WORDS)}
    assert splits.duplicates == 1 and splits.rows["test"] == 2


def test_letters_with_marks_that_are_spelled_out_are_letters() -> None:
    """Of x and a caron no Unicode form makes one character, nor of a consonant and its vowel."""
    for text in (apart("c a f é"), "x\u030c, y, é", "n-x\u030c", "न म स् ते"):
        assert separator_of(text) == (", " if "," in text else text[1] if "-" in text else " ")
        assert task_of(text) == "spell out"
    for text in ("café au lait", "é", apart("é"), "क", "x\u030cy", "a é,b"):
        assert separator_of(text) is None, text
    assert kinds.letters(apart("c a f é"), "c a f é") == "café"


def test_a_word_that_training_spells_out_is_seen_in_any_form() -> None:
    frame = pd.DataFrame({"question": ["How is it written?", "And this?"], "answer": WORDS[:2]})
    suite = Suite("mine", frame.assign(word=frame["answer"]))
    marked = suite.marked([apart("c a f é"), apart("n-a-ï-v-e")], keep=True)
    assert marked.frame["seen"].tolist() == [True, True]


def test_labels_of_one_question_leak_whatever_its_spaces_and_form(tmp_path) -> None:
    questions = [f"{word} {n}" for word in ("né", "zoë", "mañana", "año") for n in range(8)]
    rows = [(question, f"kind {n % 3}") for n, question in enumerate(questions)]
    by_split = {
        "train": [{"question": q, "answer": a} for q, a in rows],
        "validation": [{"question": f" {apart(q)}", "answer": a} for q, a in rows],
        "test": [{"question": f"{q} other", "answer": a} for q, a in rows],
    }
    (tmp_path / "a.json").write_text(json.dumps(by_split))
    splits = load_splits(task="mine", path=str(tmp_path / "a.json"))
    assert splits.labels and splits.leaks == {"train/validation": len(rows)}


@pytest.mark.parametrize("form", [str, apart])
def test_checkers_and_columns_take_either_form(form, tmp_path) -> None:
    assert TASKS["position"].is_right("What is the last letter of café?", "é", form("É."))
    file = tmp_path / "a.csv"
    file.write_text(f"{form('Frage é')},{apart('Réponse')}\nq,a\n")
    mapping = {"question": "frage é", "answer": form("réponse")}
    assert import_data(file, mapping=mapping).rows == [{"question": "q", "answer": "a"}]


def test_a_run_is_found_by_its_name_in_either_form(home) -> None:
    ids = [fill_run(name="café"), fill_run(name=apart("Zoë"))]
    with store.reading() as session:
        for run_id, name in zip(ids, ("café", "Zoë"), strict=True):
            for form in (str, apart):
                assert store.find(session, form(name)).id == run_id


# --- results --------------------------------------------------------------------------------------


def predictions(form: Any) -> pd.DataFrame:
    rows = [(form(w), form(w), "x" if w == WORDS[1] else form(w)) for w in WORDS]
    frame = pd.DataFrame(rows, columns=["question", "expected", "predicted"])
    right = frame["expected"] == frame["predicted"]
    return frame.assign(word=frame["expected"], correct=right, edit_distance=0)


def test_two_runs_pair_whatever_the_form_of_their_files(tmp_path):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file, form in zip(files, (str, apart), strict=True):
        predictions(form).to_parquet(file)
    frames = [misspellings.read(file) for file in files]
    both = paired.pair_answers(*frames)
    assert len(both) == len(WORDS)
    assert set(both["outcome"]) == {"right in both", "same mistake"}
    for file in files:
        assert paired.answer(file, "café") == paired.answer(file, apart("café"))
    assert paired.answer(files[1], "café") == ("café", "café", True)
    a, b = (verdicts.answers(predictions(f), name="a", split="test") for f in (str, apart))
    assert a.fingerprint == b.fingerprint and (a.correct == b.correct).all()


def test_find_takes_either_form(tmp_path):
    predictions(apart).to_parquet(tmp_path / "a.parquet")
    frame = misspellings.read(tmp_path / "a.parquet")
    edits = misspellings.edit_table(frame)
    for text in ("CAFÉ", apart("caf\u00e9")):
        assert filters.masks(frame, edits, {"find": text})["find"].sum() == 1
    assert find_box.parse(apart("Café"))[0] == [caseless("CAFÉ")]
    (found,) = find_box.parse("suite/my-words/exact_match>=5E-1")[1]
    assert (found.column, found.holds(0.5)) == ("suite/my-words/exact_match", True)
    assert not found.holds(float("nan")) and not found.holds(None)


def test_scores_and_kinds_do_not_see_the_form():
    judged = metrics.judge([apart("café")], ["café"])
    assert metrics.share_right([one.correct for one in judged]) == 1
    assert metrics.character_error_rate(judged) == 0
    assert metrics.edit_distance(apart("cafe"), "café") == 1
    assert kinds.kind_of("café", apart("café")) == ""
    assert kinds.edits("café", apart("cafè")) == kinds.edits("café", "cafè")
    wrong = predictions(apart).assign(predicted=[*map(apart, WORDS[1:]), "x"], correct=False)
    lengths = misspellings.with_kinds(wrong)["length"].tolist()
    assert lengths == [len(unicodedata.normalize("NFC", word)) for word in WORDS]


def test_columns_are_composed_where_they_are_not_ascii() -> None:
    frame = pd.DataFrame({"word": ["cafe\u0301", "tea"], "question": ["x", "y"], "other": [1, 2]})
    found = composed_columns(frame, ("word", "question"))
    assert list(found["word"]) == ["caf\u00e9", "tea"] and list(frame["word"])[0] == "cafe\u0301"
    assert composed_columns(frame, ("question",)) is frame
    empty = frame.head(0)
    assert composed_columns(empty, ("word", "question")).equals(empty)
