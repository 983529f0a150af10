"""Files of questions and answers as other programs write them."""

import json
import shlex
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from typer.testing import CliRunner

from src.cli.main import app
from src.config import load_config, parse_override
from src.tasks.built_in.correct import CORRECT
from src.training import data_formats
from src.training.data_files import DataError
from src.training.data_import import UnknownColumns, import_data, save
from src.training.data_loaders import load_splits

CAT = [{"question": "How is cat spelled?", "answer": "c a t"}]
CHAT = [
    {"role": "system", "content": "You spell."},
    {"role": "user", "content": [{"type": "text", "text": "How is cat spelled?"}]},
    {"role": "assistant", "content": "c a t"},
    {"role": "user", "content": "And dog?"},
    {"role": "assistant", "content": "d o g"},
]
SHARED = [{"from": "human", "value": "How is cat spelled?"}, {"from": "gpt", "value": "c a t"}]


def rows(tmp_path: Path, name: str, content: str | bytes, **options: Any) -> list[dict[str, str]]:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return import_data(file, **options).rows


# --- formats, found from the content --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("messages", {"messages": CHAT}),
        ("sharegpt", {"conversations": SHARED, "id": "x"}),
        ("alpaca", {"instruction": "How is cat spelled?", "input": "", "output": "c a t"}),
        ("prompt-completion", {"prompt": "How is cat spelled?", "completion": " c a t"}),
        ("prompt-completion", {"prompt": CHAT[1:2], "completion": CHAT[2:3]}),
        ("columns", {"question": "How is cat spelled?", "answer": "c a t", "id": 1}),
        ("columns", {" Question ": "How is cat spelled?", "ANSWER": "c a t"}),
    ],
)
@pytest.mark.parametrize("way", ["list", "lines", "lines in .json", "list in .jsonl", "examples"])
def test_a_format_is_found_whatever_the_ending_says(
    kind: str, record: dict[str, Any], way: str, tmp_path: Path
) -> None:
    other = {key: value for key, value in record.items() if key != "id"}
    document = json.dumps({"examples": [record, other]} if way == "examples" else [record, other])
    if way.startswith("lines"):
        document = f"{json.dumps(record)}\n\n{json.dumps(other)}\n"
    ending = "jsonl" if way in ("lines", "list in .jsonl") else "json"
    (tmp_path / f"mine.{ending}").write_text(document)
    found = import_data(tmp_path / f"mine.{ending}")
    assert (found.format, found.rows, found.notes) == (kind, CAT * 2, [])


def test_the_input_of_alpaca_follows_its_instruction(tmp_path: Path) -> None:
    record = {"instruction": "Spell the word.", "input": "cat", "output": "c a t"}
    found = rows(tmp_path, "a.json", json.dumps([record]))
    assert found == [{"question": "Spell the word.\ncat", "answer": "c a t"}]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_a_table_is_read_whatever_stands_between_its_cells(sign: str, tmp_path: Path) -> None:
    lines = [["", "Misspelling", "Right ", ""], ["", "", "", ""], ["1", "recieve", "receive", ""]]
    text = "\ufeff" + "\r\n".join(sign.join(cells) for cells in lines) + "\r\n\r\n"
    assert rows(tmp_path, "words.txt", text) == [{"question": "recieve", "answer": "receive"}]


def test_excel_and_parquet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in ([], ["Question", None, "Answer"], [], [*CAT[0].values()][:1] + [None, "c a t"]):
        book.active.append(row)
    book.save(tmp_path / "cat.xlsx")
    assert import_data(tmp_path / "cat.xlsx").rows == CAT
    pd.DataFrame({"conversations": [SHARED]}).to_parquet(tmp_path / "cat.parquet")
    assert import_data(tmp_path / "cat.parquet").rows == CAT


def test_a_folder_of_the_hub_has_its_splits_in_parts(tmp_path: Path) -> None:
    data = tmp_path / "words" / "data"
    data.mkdir(parents=True)
    for name, word in (("train-00000-of-00002", "a"), ("train-00001-of-00002", "b"),
                       ("validation-00000-of-00001", "c")):  # fmt: skip
        pd.DataFrame({"prompt": [word], "completion": [word]}).to_parquet(data / f"{name}.parquet")
    found = import_data(tmp_path / "words").rows
    assert [(row["question"], row["split"]) for row in found] == [
        ("a", "train"), ("b", "train"), ("c", "validation"),
    ]  # fmt: skip


def test_a_document_may_have_a_list_for_each_split(tmp_path: Path) -> None:
    document = {"train": CAT, "dev": [{"question": "dog", "answer": "d o g"}], "version": 2}
    found = rows(tmp_path, "splits.json", json.dumps(document))
    assert [row["split"] for row in found] == ["train", "validation"]


@pytest.mark.parametrize(
    "document",
    [
        {"question": ["How is cat spelled?"] * 2, "answer": ["c a t"] * 2},  # of datasets
        {"question": {"0": "How is cat spelled?", "1": "How is cat spelled?"},
         "answer": {"0": "c a t", "1": "c a t"}},  # of pandas
        {"prompt": CHAT[1:2], "completion": CHAT[2:3]},
        [{"question": "How is cat spelled?", "answer": ["c a t"]}] * 2,
    ],
)  # fmt: skip
def test_a_document_may_have_a_list_for_each_column(document: Any, tmp_path: Path) -> None:
    found = rows(tmp_path, "columns.json", json.dumps(document))
    assert found == CAT * (1 if "prompt" in document else 2)


def test_a_cell_with_several_texts_or_none_is_left_out(tmp_path: Path) -> None:
    records = [*CAT, {"question": "a", "answer": ["b", "c"]}, {"question": "a", "answer": {}},
               {"question": "a", "answer": []}]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(records))
    found = import_data(tmp_path / "a.json")
    assert found.rows == CAT
    assert found.notes == [
        "left out 1 row: several texts in answer (the first: row 2)",
        "left out 1 row: no text in answer (the first: row 3)",
        "left out 1 row: no answer (the first: row 4)",
    ]


def test_the_first_sheet_that_holds_something_is_read(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["question", "answer"], [*CAT[0].values()]):
        book.create_sheet("Words") if len(book.worksheets) == 1 else None
        book.worksheets[1].append(row)
    book.save(tmp_path / "cat.xlsx")
    assert import_data(tmp_path / "cat.xlsx").rows == CAT


def test_excel_may_name_the_sign_between_cells_in_a_first_line(tmp_path: Path) -> None:
    text = "sep=;\nquestion;answer\nHow is cat spelled?;c a t\n"
    assert rows(tmp_path, "cat.csv", text) == CAT


def parquet_folder(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(CAT).to_parquet(place / name)
    return place


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "a", "0000.parquet")
    (folder / "about.json").write_text('{"rows": 1}')
    found = import_data(folder, format="parquet-folder")
    assert (found.format, found.rows) == ("columns", CAT)
    (folder / "0000.parquet").unlink()
    with pytest.raises(DataError, match=r"a has no file that ends in \.parquet"):
        import_data(folder, format="parquet-folder")
    with pytest.raises(DataError, match=r"about\.json is a file; parquet-folder names a folder"):
        import_data(folder / "about.json", format="parquet-folder")


def test_a_folder_of_the_hub_may_have_one_folder_for_each_subset(tmp_path: Path) -> None:
    part = "train-00000-of-00001.parquet"
    one = parquet_folder(tmp_path / "one", f"main/{part}")
    assert import_data(one).rows == [CAT[0] | {"split": "train"}]
    two = parquet_folder(tmp_path / "two", f"data/main/{part}", f"data/socratic/{part}")
    with pytest.raises(DataError, match=r"folders that have: main, socratic; name one of them"):
        import_data(two)


# --- lists of misspellings ------------------------------------------------------------------------

LISTS = {
    "norvig": "receive: recieve reciave*3, receeve\nhope: hoep\n",
    "birkbeck": "$receive\nrecieve\nreciave\nreceeve 4\n$hope\nhoep\n",
    "arrow": "# a comment\nrecieve->receive\nreciave->receive\nreceeve->receive,\nhoep->hope\n",
    "symspell": "recieve receive 1\nreciave\treceive\t2\nreceeve receive 1\nhoep hope 1\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_misspellings(kind: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(LISTS[kind])
    found = import_data(tmp_path / "list.txt")
    assert found.format == kind
    assert [(row["question"], row["answer"]) for row in found.rows] == [
        (CORRECT + wrong, right)
        for wrong, right in [("recieve", "receive"), ("reciave", "receive"),
                             ("receeve", "receive"), ("hoep", "hope")]
    ]  # fmt: skip


def test_what_has_several_corrections_has_no_one_answer(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("adress->address\nhist->heist, his,\n")
    found = import_data(tmp_path / "list.txt")
    assert len(found.rows) == 1
    assert found.notes == ["left out 1 row: it offers several corrections (the first: line 2)"]


def test_an_underscore_of_birkbeck_is_a_space(tmp_path: Path) -> None:
    found = rows(tmp_path, "list.dat", "$a_lot\nalot\n")
    assert found == [{"question": CORRECT + "alot", "answer": "a lot"}]


# --- CUTE -----------------------------------------------------------------------------------------


def test_a_file_of_cute_asks_for_the_task_of_its_name(tmp_path: Path) -> None:
    assert rows(tmp_path, "ins_char.tsv", "input1\tinput2\tinput3\tlabel\nm\th\tthe\tthme\n") == [
        {"question": "Insert m after each h in the word: the", "answer": "thme"}
    ]
    assert rows(tmp_path, "spell.tsv", "input1\tlabel\nthe\tt h e\n") == [
        {"question": "Spell the word: the", "answer": "t h e"}
    ]
    text = "\t".join(f"input{n}" for n in range(1, 12)) + "\tlabel\n"
    text += "\t".join("abcdefghijk") + "\tx\n"
    assert rows(tmp_path, "many.tsv", text) == [
        {"question": "many: a, b, c, d, e, f, g, h, i, j, k", "answer": "x"}
    ]
    # null is a word of theirs, and so is a quote sign.
    assert rows(tmp_path, "spell_inverse.tsv", "input1\tlabel\nn u l l\tnull\n") == [
        {"question": "Which word is spelled n u l l?", "answer": "null"}
    ]


# --- columns --------------------------------------------------------------------------------------


def test_columns_of_other_names_are_asked_for_and_given(tmp_path: Path) -> None:
    with pytest.raises(UnknownColumns, match="no column is known to hold the question") as refused:
        rows(tmp_path, "own.csv", "Wort,Buchstaben\nKatze,K a t z e\n")
    assert refused.value.columns == ["Wort", "Buchstaben"]
    mapping = {"question": "wort", "answer": "Buchstaben"}
    assert import_data(tmp_path / "own.csv", mapping=mapping).rows == [
        {"question": "Katze", "answer": "K a t z e"}
    ]
    with pytest.raises(DataError, match=r"'Worte'; did you mean 'Wort'\?; it has Wort, B"):
        import_data(tmp_path / "own.csv", mapping={"question": "Worte", "answer": "Buchstaben"})
    with pytest.raises(DataError, match="--map takes question=COLUMN"):
        import_data(tmp_path / "own.csv", mapping={"frage": "Wort"})


@pytest.mark.parametrize(
    ("text", "guessed"),
    [
        ("alpha,beta,source\nwrod,word,me\ntow,two,me\n", ("alpha", "beta")),
        ("source,alpha,beta\nme,wrod,word\nme,tow,two\n", ("alpha", "beta")),
        ("id,frage,label\n1,is it?,yes\n2,is he?,yes\n", ("frage", "label")),
        ("a,b\nx,x\nx,x\n", ("a", "b")),
    ],
)
def test_what_says_the_same_in_all_rows_is_not_taken_for_the_question(
    tmp_path: Path, text: str, guessed: tuple[str, str]
) -> None:
    with pytest.raises(UnknownColumns) as refused:
        rows(tmp_path, "own.csv", text)
    assert data_formats.likely_columns(refused.value.columns, refused.value.first) == guessed


def test_rows_without_an_answer_are_left_out_and_told(tmp_path: Path) -> None:
    records = [{"messages": CHAT}, {"messages": CHAT[:2]}, {"messages": []}, {"messages": CHAT[:1]}]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert import_data(tmp_path / "chat.jsonl").notes == [
        "left out 1 row: no answer (the first: line 2)",
        "left out 2 rows: no message of a user (the first: line 3)",
    ]


def test_a_system_message_that_all_rows_have_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"role": "system", "content": "Spell,\nplease."}
    turns = [{"role": "user", "content": "cat?"}, {"role": "assistant", "content": "c a t"}]
    shared = [{"from": "system", "value": "Spell,\nplease."}]
    shared += [{"from": "human", "value": "cat?"}, {"from": "gpt", "value": "c a t"}]
    alpaca = {"instruction": "cat?", "output": "c a t", "system": "Spell,\nplease."}

    def imported(*records: dict[str, Any]) -> Any:
        (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, records)))
        return import_data(tmp_path / "chat.jsonl")

    chat = {"messages": [told, *turns]}
    for record in (chat, {"conversations": shared}, alpaca):
        found = imported(record, record)
        assert (found.system_prompt, found.notes) == ("Spell,\nplease.", [])
    assert imported({"messages": turns}).system_prompt is None
    other = {"messages": [told | {"content": "Else."}, *turns]}
    mixed = imported(chat, {"messages": turns}, other)
    assert mixed.system_prompt is None
    assert mixed.notes[0].startswith("2 rows with a system message, which is left out")

    monkeypatch.setenv("SPELLTUNE_HOME", str(tmp_path / "home"))
    imported(chat)
    told_next = CliRunner().invoke(app, ["data", "import", str(tmp_path / "chat.jsonl")]).stdout
    words = shlex.split(told_next.partition("Next: spelltune ")[2])
    changes = dict(parse_override(text) for text in words[2::2])
    assert words[1::2] == ["--set"] * 4
    assert load_config(overrides=changes).data.system_prompt == "Spell,\nplease."


def test_one_question_with_two_answers_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\na,b\na,c\nd,e\n")
    assert import_data(tmp_path / "a.csv").notes == [
        "more than one answer stands there for 1 question; only one of them can be scored as right"
    ]


def test_text_of_windows(tmp_path: Path) -> None:
    text = "question;answer\r\nnaïve;n a ï v e\r\n"
    assert rows(tmp_path, "a.csv", text.encode("utf-16")) == [
        {"question": "naïve", "answer": "n a ï v e"}
    ]


def test_a_quote_between_tabs_is_a_sign_like_others(tmp_path: Path) -> None:
    found = rows(tmp_path, "a.tsv", "question\tanswer\n\"\tquote\n'\tapostrophe\n")
    assert [row["question"] for row in found] == ['"', "'"]
    found = rows(tmp_path, "b.tsv", 'question\tanswer\n"a\tb"\tc\n')  # as Excel saves a tab
    assert found == [{"question": "a\tb", "answer": "c"}]


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", '[{"question": "a",]', "line 1 is not JSON: .* at sign 1"),
        ("a.jsonl", '{"a": 1}\n{"a": }\n', "line 2 is not JSON: expecting value at sign 7"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2 holds no object with named fields"),
        ("a.csv", "question,answer\na,b\na,b,c\n", "line 3 has more cells .*','"),
        ("a.csv", 'question,answer\na,"b\nc,d\n', "begins with a quote .* line 2 is never closed"),
        ("a.csv", "question,Question,answer\na,b,c\n", "two columns are called 'question'"),
        ("a.csv", b"question,answer\na,\xff\n", "line 2 has the byte 0xFF"),
        ("a.txt", b"\x00\x01\x02", "it is no text"),
        ("a.txt", " \n", "is empty"),
        ("a.xlsx", b"PK\x03\x04 and then nothing", "cannot be read"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read"),
        ("a.csv", "question,answer\n", "has no rows"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00", "is compressed; unpack it first"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1", "of an old Excel; save it as .xlsx"),
    ],
)
def test_a_fault_is_told_by_file_and_line(
    name: str, content: str | bytes, told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=told) as refused:
        rows(tmp_path, name, content)
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "line", "told"),
    [
        ("norvig", "hope hoep", "line 2 has no ':' after the right word: 'hope hoep'"),
        ("arrow", "hope", "line 2 has no '->' after the misspelling: 'hope'"),
        ("symspell", "hoep hope", "line 2 is not a misspelling, a word and a number: 'hoep hope'"),
    ],
)
def test_a_line_of_another_format_is_named(kind: str, line: str, told: str, tmp_path: Path) -> None:
    first = LISTS[kind].splitlines()[1 if kind == "arrow" else 0]
    with pytest.raises(DataError) as refused:
        rows(tmp_path, "list.txt", f"{first}\n{line}\n", format=kind)
    assert told in str(refused.value) and kind in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("norvig", "receive: recieve\nhope hoep\nred: rad\n",
         "line 2 has no ':' after the right word: 'hope hoep'"),
        ("birkbeck", "receive\nrecieve\n$hope\nhoep\n",
         "line 1 comes before any right word ('$word'): 'receive'"),
        ("arrow", "recieve->receive\nhoep hope\nrad->red\n",
         "line 2 has no '->' after the misspelling: 'hoep hope'"),
        ("symspell", "recieve receive 1\nhoep hope\nrad red 1\n",
         "line 2 is not a misspelling, a word and a number: 'hoep hope'"),
    ],
)  # fmt: skip
def test_a_bad_line_of_a_list_is_named_without_its_format(
    kind: str, text: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as refused:
        rows(tmp_path, "list.txt", text)
    assert str(refused.value).endswith(f"list.txt is not in the format {kind}: {told}")


def test_a_table_without_header_is_no_list_of_misspellings(tmp_path: Path) -> None:
    text = "Correct the spelling: recieve,receive\nCorrect the spelling: hoep,hope\n"
    with pytest.raises(UnknownColumns):
        rows(tmp_path, "words.csv", text)


def test_an_unknown_format_has_a_neighbour(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no format 'alpacca'; did you mean 'alpaca'"):
        rows(tmp_path, "a.json", "[]", format="alpacca")
    with pytest.raises(DataError, match="not in the format alpaca: it has no column 'instruction'"):
        rows(tmp_path, "a.json", '[{"question": "a", "answer": "b"}]', format="alpaca")
    with pytest.raises(DataError, match="no file"):
        import_data(tmp_path / "nothing.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="has no file that ends in"):
        import_data(tmp_path / "folder")


def test_a_row_with_half_a_character_is_left_out(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        r'[{"question": "\ud800", "answer": "a"}, {"question": "b", "answer": "c"}]'
    )
    found = import_data(tmp_path / "a.json")
    assert found.notes == ["left out 1 row: a cell holds half a character (the first: row 1)"]
    assert save(found, "a").read_text() == '{"question": "b", "answer": "c"}\n'


# --- what is written ------------------------------------------------------------------------------


def test_a_run_can_train_on_what_was_imported(home: Path, tmp_path: Path) -> None:
    records = [{"instruction": f"Spell w{n}", "output": f"w {n}"} for n in range(60)]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    path = save(import_data(tmp_path / "mine.json"), "mine")
    assert path == home / "data" / "mine.jsonl"
    splits = load_splits(task="mine", path=str(path))
    assert sum(splits.rows.values()) == 60
    assert save(import_data(tmp_path / "mine.json"), "mine") == path
