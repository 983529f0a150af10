"""A person's own data: files with every defect that people bring, labels, and tasks of rows."""

import json
from pathlib import Path

import pandas as pd
import pytest

from src.analysis import capsule
from src.models.prompt_format import raw_format
from src.paths import BASE_MODELS, ROOT
from src.tasks.built_in.correct import CORRECT
from src.tasks.words import misspellings, split_of
from src.training import data_loaders
from src.training.data_files import SPLITS, DataError
from src.training.data_loaders import Splits, load_rows, load_splits
from src.training.data_notes import preview_notes
from src.training.data_preview import preview
from src.training.rows import Row
from src.training.score_sheet import ScoreSheet

GOOD = [{"question": f"q{i}", "answer": f"word{i}"} for i in range(60)]


def own(path: Path) -> data_loaders.Splits:
    return load_splits(task="mine", path=str(path))


def notes_of(splits: data_loaders.Splits) -> list[str]:
    return preview_notes(
        preview(
            splits,
            tokenizer=BASE_MODELS / "spelltune-tiny" / "tokenizer.json",
            form=raw_format("{question}:"),
            max_length=96,
        )
    )


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        own(path)
    return str(caught.value)


# --- own data ---


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame(GOOD)
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, GOOD)) + "\n\n")
    frame.to_csv(tmp_path / "a.csv", index=False, encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "a.parquet")
    prints = {own(file).fingerprint for file in tmp_path.iterdir()}
    assert len(prints) == 1
    splits = own(tmp_path / "a.csv")
    assert sum(splits.rows.values()) == 60 and splits.leaks == {}
    assert len(load_rows(tmp_path / "a.csv")) == 60


def test_splits_by_column_by_key_and_by_file_agree(tmp_path: Path) -> None:
    parts = {"train": GOOD[:40], "val": GOOD[40:50], "test": GOOD[50:]}
    (tmp_path / "keys.json").write_text(json.dumps(parts))
    rows = [row | {"split": name} for name, part in parts.items() for row in part]
    pd.DataFrame(rows).to_csv(tmp_path / "column.csv", index=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in parts.items():
        pd.DataFrame(part).to_csv(folder / f"{name}.csv", index=False)
    splits = [own(tmp_path / name) for name in ("keys.json", "column.csv", "folder")]
    assert all(s.rows == {"train": 40, "validation": 10, "test": 10} for s in splits)
    assert len({s.fingerprint for s in splits}) == 1


def test_leaks_and_duplicates_are_counted(tmp_path: Path) -> None:
    parts = {
        "train": [*GOOD[:5], GOOD[0]],
        "validation": [{"question": "other", "answer": "WORD1"}, GOOD[2]],
        "test": [GOOD[9]],
    }
    (tmp_path / "a.json").write_text(json.dumps(parts))
    splits = own(tmp_path / "a.json")
    assert splits.leaks == {"train/validation": 2}
    assert splits.duplicates == 1 and splits.rows["train"] == 5


def test_words_that_look_like_nothing_stay_words(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    lines = "".join(f"null,{word}\n" for word in ("null", "nan", "NA", "true", "1e5"))
    file.write_text("question,answer\n" + lines)
    assert list(load_rows(file)["answer"]) == ["null", "nan", "NA", "true", "1e5"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "question,answer\n", "has no rows"),
        ("a.csv", "question,anwser\na,b\n", "no column 'answer'; it has question, anwser; did you"),
        ("a.csv", "question,answer\na,b\na,\n", "line 3: answer is empty"),
        ("a.csv", 'question,answer\n"a\nb",c\nd,\n', "line 4: answer is empty"),
        ("a.csv", "question,answer\na,b\na\n", "line 3 has fewer"),
        ("a.csv", 'question,answer\na,b\n"a"x,b\n', "line 3 has 'x' after a closing quote"),
        (
            "a.csv",
            'question,answer\na,b\n"a,b\nc,d\n',
            'begins with a quote (") in line 3 is never',
        ),
        (
            "a.csv",
            f"question,answer\na,{'b' * 200_000}\n",
            "line 2 has a cell of more than 131,072",
        ),
        ("a.csv", "question;answer\na;b\n", "line 1 separates its cells by semicolons"),
        ("a.json", "[" + "[]," * 4_000_001, "more than 4,000,000 lists"),
        ("a.csv", "question,answer\na,b\na,b,c\n", "line 3 has more"),
        ("a.json", '[{"question": "a", "answer": 5}]', "row 1: answer holds the int 5"),
        ("a.json", '[{"question": "a"}, {"question": "b", "answer": "c"}]', "row 1: answer holds"),
        ("a.json", '{"question": "a"}', "expected a list of objects"),
        ("a.json", "[1, 2]", "expected a list of objects"),
        ("a.json", '{"examples": []}', "such list a split; or import it: spelltune data import F"),
        ("a.json", '{"question": "a"}\n{"question": "b"}\n', "name it .jsonl, or import it: spell"),
        ("a.json", '[{"question": "a",]', "line 1 is not JSON: "),
        ("a.jsonl", '{"question": }', "line 1 is not JSON: expecting value at sign 14"),
        ("a.jsonl", '["a"]', "question and answer; import it: spelltune data import FILE"),
        ("a.csv", "foo,bar\na,b\n", "Other formats are imported: spelltune data import FILE"),
        ("a.json", '{"train": ["a"], "test": []}', "or one such list a split"),
        ("a.json", '{"train": null}', "or one such list a split"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.jsonl", '{"a": "b"}\n{"a": ' + "[" * 100_000, "line 2: it is nested too deeply"),
        ("a.json", '[{"question": "\\ud800", "answer": "a"}]', "question holds half a character"),
        ("a.csv", "question,answer,answer\na,b,c\n", "two columns have the same name"),
        ("a.json", "[", "cannot be read"),
        ("a.jsonl", '{"question": "a", "answer": "b"}\n{"question": ', "line 2 is not JSON"),
        ("a.jsonl", '["a"]', "line 1 is not an object"),
        ("a.parquet", "not parquet", "cannot be read"),
        ("a.pkl", "x", "a pickle can run code"),
        ("a.txt", "x", "none of .json, .jsonl, .csv, .parquet"),
        ("a.csv", "question,answer,split\na,b,trian\n", "split 'trian' is none of"),
        ("a.csv", "question,answer\na,b\n", "too few were there to cut 80/10/10"),
    ],
)
def test_a_defect_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    assert words in refusal(tmp_path / name)


def test_missing_folders_and_other_encodings_are_named(tmp_path: Path) -> None:
    assert "no file" in refusal(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("question,answer\ncaf\xe9,x\n".encode("latin-1"))
    assert "not UTF-8" in refusal(tmp_path / "latin.csv")
    (tmp_path / "folder").mkdir()
    told = refusal(tmp_path / "folder")
    assert "has no file called train" in told and "spelltune data import FOLDER" in told


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pd.DataFrame(GOOD).to_parquet(file)
    content = file.read_bytes()
    file.write_bytes(content[:10] + b"\xff" * 60 + content[70:])
    assert "cannot be read" in refusal(file)


def test_line_separators_inside_a_text_end_no_row(tmp_path: Path) -> None:
    rows = [row | {"question": f"a\u2028b\x85{i}"} for i, row in enumerate(GOOD)]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    assert len(load_rows(tmp_path / "a.jsonl")) == 60


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "validation", "test"):
        pd.DataFrame(GOOD[:9]).to_csv(tmp_path / f"{name}.csv", index=False)
    assert "two files for one split" in refusal(tmp_path)


def test_no_validation_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"train": GOOD[:5], "test": GOOD[5:]}))
    assert "has 0 validation rows" in refusal(tmp_path / "a.json")


@pytest.mark.parametrize(
    "hub_id", ["../etc/passwd", "http://169.254.169.254/x", "a/b/c", "tests", "csv"]
)
def test_only_hub_ids_are_looked_up_on_the_hub(
    hub_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(DataError, match="is not the id of a data set"):
        load_splits(task="mine", hub_id=hub_id)


def test_a_hub_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="someone/words is not on this machine, and.*check the id"):
        load_splits(task="mine", hub_id="someone/words")


# --- labels, and other data with few answers ---


def csv(folder: Path, rows: list[tuple[str, str]]) -> Path:
    file = folder / "rows.csv"
    pd.DataFrame(rows, columns=["question", "answer"]).to_csv(file, index=False)
    return file


LABELLED = {
    "five": [(f"Sort {i}", ("noun", "verb", "adverb", "pronoun", "article")[i % 5])
             for i in range(120)],
    "two, seldom one of them": [(f"Is it right? {i}", "yes" if i % 10 == 0 else "no")
                                for i in range(200)],
    "named in every question": [(f"noun or verb? word{i}", ("noun", "verb")[i % 2])
                                for i in range(100)],
    "a hundred": [(f"capital of place {i}", f"city{i * 7 % 100}") for i in range(400)],
}  # fmt: skip


@pytest.mark.parametrize("rows", LABELLED.values(), ids=LABELLED)
def test_labels_are_cut_by_question_so_that_training_has_them_all(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    splits = own(csv(tmp_path, rows))
    assert (splits.labels, splits.cut_by, splits.leaks) == (True, "question", {})
    assert sum(splits.rows.values()) == len(rows)
    known = set(splits.train["answer"])
    unseen = sum(len(set(splits[s]["answer"]) - known) for s in ("validation", "test"))
    assert unseen <= sum(splits.unseen_labels.values()) <= 0.05 * len(rows)
    notes = " ".join(notes_of(splits))
    assert f"{len({a for _, a in rows})} different answers look like labels" in notes
    assert "cut by question" in notes


def test_misspellings_of_few_words_are_cut_by_word(tmp_path: Path) -> None:
    pairs = [pair for pair in misspellings() if pair[1] < "b"][:600]
    rows = [(CORRECT + wrong, word) for wrong, word in pairs]
    splits = own(csv(tmp_path, rows))
    assert (splits.labels, splits.cut_by, splits.leaks) == (False, "answer", {})
    spelled = [(CORRECT + wrong, " ".join(word)) for wrong, word in pairs]
    assert own(csv(tmp_path, spelled)).cut_by == "answer"


def test_answers_too_few_for_three_splits_are_cut_by_question(tmp_path: Path) -> None:
    of_training = [pair for pair in misspellings() if split_of(pair[1]) == "train"]
    rows = [(CORRECT + wrong, word) for wrong, word in of_training if word < "abd"]
    assert len(rows) > 40
    splits = own(csv(tmp_path, rows))
    assert splits.cut_by == "question" and splits.leaks.keys() >= {"train/test"}
    assert any("too few different answers" in note for note in notes_of(splits))


def test_labels_that_training_lacks_are_told(tmp_path: Path) -> None:
    rows = [{"question": f"Sort {i}", "answer": ("noun", "verb")[i % 2]} for i in range(40)]
    never = [{"question": f"Sort {i}", "answer": "adverb"} for i in range(40, 50)]
    parts = {"train": rows[:30], "validation": rows[30:], "test": never}
    (tmp_path / "a.json").write_text(json.dumps(parts))
    splits = own(tmp_path / "a.json")
    assert splits.unseen_labels == {"test": 10} and splits.leaks == {}
    assert any("10 of 10 test rows have a label that no" in note for note in notes_of(splits))


# --- the task of a row ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_row_of_ones_own_that_names_a_built_in_task_is_judged_by_its_checker(
    kind: str, tmp_path: Path
) -> None:
    rows = pd.DataFrame(
        {
            "question": ["How many r's are in strawberry?", "Write it.", "Say it."],
            "answer": ["3", "three", "Q"],
            "task": ["count", "my own", ""],
        }
    )
    for split in SPLITS:
        file = tmp_path / f"{split}.{kind}"
        if kind == "jsonl":
            rows.to_json(file, orient="records", lines=True)
        else:
            getattr(rows, f"to_{kind}")(file, index=False)
    splits = load_splits(task="mine", path=str(tmp_path))
    assert splits.tasks == ("count", None, None) * 3
    assert load_rows(tmp_path / f"test.{kind}")["task"].tolist() == ["count", None, None]
    encoded = [
        Row(row.word, row.question, row.answer, [1], [2], row.task)
        for row in splits.test.itertuples()
    ]
    _, table = ScoreSheet.of(encoded).summary([0.0] * 3, ["Three.", "3", "q"], hits=0, tokens=3)
    assert table["correct"].to_pylist() == [True, False, False]


def test_a_row_of_ones_own_without_a_known_task_has_none(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("question,answer,task\n" + "".join(f"q{n},a{n},mine\n" for n in range(60)))
    splits = load_splits(task="mine", path=str(file))
    assert splits.tasks == () and "task" not in splits.train and splits.rows_by_task == {}


def test_the_rows_of_a_capsule_keep_their_task(tmp_path: Path) -> None:
    """And an older one, which has none, is read as it was."""
    packed = load_splits(task="", mix=(("count", 0.5), ("spell_out", 0.5)))
    few = Splits(*(packed[split].head(40) for split in SPLITS))
    capsule.write_rows(few, tmp_path / "data")
    again = load_splits(task="mine", path=str(tmp_path / "data"))
    assert again.fingerprint == few.fingerprint
    assert again.tasks == few.tasks and {"count", "spell_out"} == set(again.tasks)
    assert load_rows(tmp_path / "data/test.jsonl")["task"].tolist() == few.test["task"].tolist()
    for split in SPLITS:
        few[split][["question", "answer"]].to_json(
            tmp_path / "data" / f"{split}.jsonl", orient="records", lines=True
        )
    older = load_splits(task="mine", path=str(tmp_path / "data"))
    assert older.fingerprint == few.fingerprint and older.tasks == ()
