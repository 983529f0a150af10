"""Files of data that nobody made for training: without end, far too large once read, no files."""

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.training import data_files
from src.training.data_files import DataError, read_path


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
