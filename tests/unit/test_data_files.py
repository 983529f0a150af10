"""Files of data that nobody made for training: without end, far too large once read, no files."""

import json
import os
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from src import files
from src.config import ConfigError, load_config
from src.models import hub
from src.models.base_files import BaseFiles, BaseModelError
from src.training import data_files, data_hub, parquet_pages
from src.training.data_files import DataError, read_path
from src.training.data_import import import_data
from tests.helpers.hung_disk import hung_disk


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_path(path)
    return str(caught.value)


def test_a_pipe_without_a_writer_and_a_device_are_refused(tmp_path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    assert "is no regular file" in refusal(pipe)
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    assert "is no regular file" in refusal(tmp_path / "zero.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "has no file called train" in refusal(tmp_path / "folder.csv")


def test_a_file_is_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "MAX_BYTES", 2**20)
    (tmp_path / "a.csv").write_text("question,answer\n" + "a,b\n" * 300_000)
    assert "has more than 1 MiB" in refusal(tmp_path / "a.csv")


def test_a_small_parquet_file_that_becomes_gigabytes_is_refused(tmp_path):
    file = tmp_path / "a.parquet"
    long = pa.array(["x" * 10_000]).dictionary_encode().dictionary
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 120_000, pa.int32()), long)
    pq.write_table(pa.table({"question": same, "answer": same}), file, compression="zstd")
    assert file.stat().st_size < 300_000
    assert "its texts take more than 256 MiB" in refusal(file)


def test_a_parquet_file_is_read_for_its_texts_alone(tmp_path):
    rows = {"question": ["a", "é"], "answer": ["b", None], "split": ["train", "test"]}
    file = tmp_path / "a.parquet"
    pd.DataFrame(rows | {"more": [[1], [2]]}).to_parquet(file)
    tables = read_path(file)
    assert tables["train"].to_dict("records") == [
        {"question": "a", "answer": "b", "split": "train"}
    ]
    assert tables["test"]["question"].tolist() == ["é"]
    pd.DataFrame({"question": [1], "answer": ["b"]}).to_parquet(file)
    assert "question holds int64; it must be text" in refusal(file)
    pd.DataFrame({"prompt": ["a"]}).to_parquet(file)
    assert list(read_path(file)[""].columns) == ["prompt"]


def test_a_text_in_another_encoding_is_named_by_line_and_byte(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,answer\na,b\ncaf\xe9,x\n".encode("latin-1"))
    assert "line 3 has the byte 0xE9" in refusal(tmp_path / "a.csv")


def varint(number: int) -> bytes:
    """A number as Thrift writes it, zigzag, in as few bytes as it takes."""
    rest, written = number << 1, b""
    while rest > 127:
        written, rest = written + bytes([rest & 127 | 128]), rest >> 7
    return written + bytes([rest])


def test_a_parquet_file_whose_footer_lies_is_refused_by_its_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "MAX_BYTES", 2**20)
    file = tmp_path / "a.parquet"
    table = pa.table({"question": ["x" * 2_000_000], "answer": ["b"]})
    pq.write_table(table, file, compression="zstd", use_dictionary=False, write_statistics=False)
    about = pq.read_metadata(file).row_group(0)
    content = file.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:]
    for size in (about.total_byte_size, about.column(0).total_uncompressed_size):
        true = varint(size)
        small = bytes([100 << 1 & 127 | 128, 1 | 128] + [128] * (len(true) - 3) + [0])
        assert footer.count(true) == 1
        footer = footer.replace(true, small)
    file.write_bytes(content[:start] + footer)
    assert pq.read_metadata(file).row_group(0).total_byte_size == 100
    monkeypatch.setattr(pq, "ParquetFile", None)  # refused before a page is unpacked
    assert "holds more than 2,000,000 rows or 1 MiB of data" in refusal(file)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_pages_of_a_parquet_file_are_counted_by_their_headers(tmp_path, version):
    rows = [{"role": "user", "content": str(n)} for n in range(3_000)]
    table = pa.table({"question": [str(n) for n in range(3_000)], "messages": [[r] for r in rows]})
    options = {"data_page_version": version, "data_page_size": 500, "write_page_checksum": True}
    pq.write_table(table, tmp_path / "a.parquet", **options)
    content, about = (tmp_path / "a.parquet").read_bytes(), pq.read_metadata(tmp_path / "a.parquet")
    for place in range(about.num_columns):
        column = about.row_group(0).column(place)
        pages = parquet_pages.pages_of(content, column)
        assert pages.values == column.num_values
        # The footer counts the headers too, which take most of it where all values are equal.
        assert 0 < pages.unpacked_bytes < column.total_uncompressed_size
    assert parquet_pages.pages_of(content, about.row_group(0).column(0)).unpacked_bytes > 10_000
    with pytest.raises(ValueError, match="cut off|damaged|outside"):
        parquet_pages.pages_of(content[: column.data_page_offset + 5], column)


@pytest.mark.parametrize(
    "header",
    [
        b"\x19\xf3" + b"\xff" * 8 + b"\x7f",  # a list of 2**63 values that take no room
        b"\x19" * 50_000,
        b"\x1c" * 50_000,
        b"\x11" * 1_000_000,
        b"\x25\0\x15\0\0" * 300_000,
    ],
    ids=["list", "deep lists", "deep structures", "flags", "pages"],
)
def test_headers_of_pages_that_would_take_for_ever_are_refused(header: bytes) -> None:
    content = header + b"\0" * 50
    column = SimpleNamespace(
        data_page_offset=0, dictionary_page_offset=None, total_compressed_size=len(content)
    )
    with pytest.raises(ValueError, match="too long or nested too deeply"):
        parquet_pages.pages_of(content, column)


def test_many_small_parts_of_a_parquet_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "MAX_CHUNKS", 10)
    rows = {"question": [f"q{n}" for n in range(6)], "answer": ["a"] * 6}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=1)
    assert "has more than 10 parts; save it with larger row groups" in refusal(
        tmp_path / "a.parquet"
    )


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_key_that_stands_twice_in_json_is_refused(name: str, tmp_path: Path) -> None:
    row = '{"question": "q", "answer": "a", "answer": "b"}'
    (tmp_path / name).write_text(f"[{row}]" if name == "a.json" else f"{row}\n")
    told = "an object has the key 'answer' twice; keep one of them"
    assert told in refusal(tmp_path / name)
    with pytest.raises(DataError, match=told):
        import_data(tmp_path / name)


def test_the_hub_is_asked_again_once_all_who_found_no_network_have_left(monkeypatch):
    """Of two threads of the panel the second one begins before, and ends after the first one."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_is_known", lambda endpoint: False)
    one, other = hub.quiet(), hub.quiet()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE
    other.__exit__(None, None, None)
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_is_out_of_reach_is_one_sentence_at_once(tmp_path, monkeypatch, capfd):
    """Its libraries would try again for half a minute, with two lines each time."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(hub, "getproxies", dict)
    waits: list[float] = []
    this, sleep = threading.get_ident(), time.sleep

    def waiting(seconds: float) -> None:
        if threading.get_ident() == this:  # a thread of another test may go on
            waits.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", waiting)
    with pytest.raises(DataError) as refused:
        data_hub.read_hub("someone/words", None)
    assert str(refused.value) == (
        "someone/words is not on this machine, and the Hugging Face hub cannot be reached; connect "
        "this machine, or check the id and the revision"
    )
    with pytest.raises(BaseModelError, match="model 'someone/words' is not on this machine, and"):
        BaseFiles("someone/words", None).download()
    assert waits == [] and capfd.readouterr().err == ""
    assert constants.HF_HUB_OFFLINE is False


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], ["c"]], names=["question", "question", "answer"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "two columns are called 'question'; rename one" in refusal(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns are called 'question'"):
        import_data(tmp_path / "a.parquet")


def test_two_fields_of_one_name_are_refused_unless_they_say_the_same(tmp_path: Path) -> None:
    rows = [{"Answer": "a", "question": "q"}, {"answer": "a", "Answer": "a", "Question": "r"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [row["answer"] for row in import_data(tmp_path / "a.json").rows] == ["a", "a"]
    (tmp_path / "a.json").write_text(
        json.dumps([*rows, {"question": "q", "ANSWER ": "b", "answer": "a"}])
    )
    with pytest.raises(DataError, match=r"row 3: two fields are one name \(ANSWER , answer\)"):
        import_data(tmp_path / "a.json")


def test_a_long_text_that_repeats_inside_of_lists_is_counted_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "MAX_BYTES", 2**20)
    messages = [[{"role": "user", "content": "x" * 10_000}] * 2] * 100
    pq.write_table(pa.table({"messages": messages}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="its texts take more than 1 MiB"):
        import_data(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("column", "wrong"),
    [([b"a"], "binary"), ([["a"]], "list"), ([{"a": 1}], "struct"), ([None], "null")],
)
def test_a_column_of_a_parquet_file_that_is_no_text_is_not_read(tmp_path, column, wrong):
    pq.write_table(pa.table({"question": column, "answer": ["b"]}), tmp_path / "a.parquet")
    assert f"question holds {wrong}" in refusal(tmp_path / "a.parquet")


def test_a_sheet_that_unpacks_to_far_more_than_its_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<a>" + " " * 20 * 2**20)
    with pytest.raises(DataError, match="unpacks to 20 MiB; more than 256 MiB, or 100 times"):
        import_data(tmp_path / "a.xlsx")


def test_a_sheet_with_a_cell_far_to_the_right_is_refused(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["question", "answer"])
    book.active["XFD2"] = "far"
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="has more than 1,000 columns"):
        import_data(tmp_path / "a.xlsx")


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_ROWS"])
@pytest.mark.parametrize("known", [True, False])
def test_a_data_set_of_the_hub_that_is_too_large_is_refused(tmp_path, monkeypatch, limit, known):
    file = tmp_path / "words.csv"
    file.write_text("question,answer\n" + "a,b\n" * 100)
    builder = datasets.load_dataset_builder(
        "csv", data_files=str(file), cache_dir=str(tmp_path / "cache")
    )
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    monkeypatch.setattr(data_hub, limit, 90)
    if known:  # refused before it is downloaded
        builder.info.splits = {"train": datasets.SplitInfo("train", num_examples=100)}
        monkeypatch.setattr(builder, "download_and_prepare", None)
    elif limit == "MAX_BYTES":  # the disk says it, as the hub's list of files does
        monkeypatch.setattr(builder, "download_and_prepare", None)
    with pytest.raises(DataError, match="someone/words is too large: it holds more than"):
        data_hub.read_hub("someone/words", None)


def test_a_disk_that_does_not_answer_is_named_and_not_waited_for(tmp_path, monkeypatch):
    if not (os.access("/dev/fuse", os.W_OK) and os.geteuid() == 0):
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    monkeypatch.setattr(files, "ANSWER_SECONDS", 0.5)
    silent = "its disk did not answer for 0.5 s"
    with hung_disk(tmp_path / "disk"):
        assert silent in refusal(tmp_path / "disk/words.csv")
        assert silent in refusal(tmp_path / "disk/folder")
        for name in ("words.tsv", "folder"):
            with pytest.raises(DataError, match=silent):
                import_data(tmp_path / "disk" / name)
        with pytest.raises(ConfigError, match=f"run.yaml: {silent}$"):
            load_config(tmp_path / "disk/run.yaml")
        with pytest.raises(BaseModelError, match=silent):
            BaseFiles(str(tmp_path / "disk/base")).json("config.json")
