"""Imports files of questions and answers in the formats that people have, as one JSON Lines file.

The panel imports this module, so nothing here imports torch.
"""

import csv
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from src import files, paths
from src.errors import did_you_mean, reason
from src.format import counted
from src.tasks.built_in.correct import CORRECT
from src.text import composed
from src.training import data_formats as formats
from src.training.data_files import SPLIT_NAMES, DataError, list_folder, not_utf8, read_content
from src.training.data_loaders import cell_problem
from src.training.data_records import Record, read_excel, read_json, read_parquet, read_table

PARQUET_FOLDER = "parquet-folder"  # reads the Parquet files of a folder alone, whatever they hold
FORMATS = (*formats.RECORDS, "columns", *formats.LINES, PARQUET_FOLDER)
ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".dat", ".parquet", ".xlsx")
_FIRST = 10  # rows of a table that is refused
_SAMPLE = 40  # lines of a text that its format is found from
# Hub folders cut a split into parts: train-00000-of-00001.parquet
_SPLIT_FILE = re.compile(r"([A-Za-z]+)(-\d+-of-\d+)?")


class UnknownColumns(DataError):
    """A table of which nobody has said what holds the question and what the answer; with its first
    rows."""

    def __init__(self, text: str, columns: list[str], first: list[dict[str, Any]]):
        self.columns = columns
        self.first = first
        super().__init__(text)


@dataclass
class Imported:
    """Questions and answers in their order, with what was left out on the way."""

    format: str
    rows: list[dict[str, str]] = field(default_factory=list)  # question, answer and maybe split
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)  # why: how many, the first
    system_messages: dict[str, int] = field(default_factory=dict)  # with their rows; "" for none
    several_answers: int = 0  # questions that stand there with more than one

    def add(
        self, question: str, answer: str, place: str, split: str | None = None, system: str = ""
    ) -> None:
        """Take a row, or leave it out where no run could train on it."""
        if why := cell_problem(question) or cell_problem(answer):
            self.leave_out(f"a cell {why}", place)
        else:
            row = {"question": question, "answer": answer}
            self.rows.append(row | ({"split": split} if split else {}))
            self.system_messages[system] = self.system_messages.get(system, 0) + 1

    @property
    def system_prompt(self) -> str | None:
        """The system message that all rows have; None where there is no such one."""
        return next(iter(self.system_messages)) or None if len(self.system_messages) == 1 else None

    def leave_out(self, why: str, place: str) -> None:
        count, first = self.left_out.get(why, (0, place))
        self.left_out[why] = count + 1, first

    @property
    def notes(self) -> list[str]:
        """Sentences on what was left out."""
        told = [
            f"left out {counted(count, 'row')}: {why} (the first: {place})"
            for why, (count, place) in self.left_out.items()
        ]
        if len(self.system_messages) > 1:
            rows = sum(count for text, count in self.system_messages.items() if text)
            told.append(
                f"{counted(rows, 'row')} with a system message, which is left out: only one that "
                "all rows have can be kept, as data.system_prompt"
            )
        if self.several_answers:
            told.append(
                f"more than one answer stands there for {counted(self.several_answers, 'question')}"
                "; only one of them can be scored as right"
            )
        return told


def import_data(
    source: Path, *, format: str | None = None, mapping: Mapping[str, str] | None = None
) -> Imported:
    """The questions and answers of a file, or of a folder with a file for each split or task.

    `format` is one of FORMATS, found from the content if None; `mapping` names the columns of the
    question and the answer. Raises DataError with file, line and sign.
    """
    mapping = dict(mapping or {})
    if format is not None and format not in FORMATS:
        near = did_you_mean(format, FORMATS)
        raise DataError(f"no format {format!r}{near} ({', '.join(FORMATS)})")
    if mapping.keys() - {"question", "answer"}:
        raise DataError("--map takes question=COLUMN and answer=COLUMN")
    endings: Sequence[str] = ENDINGS
    if format == PARQUET_FOLDER:
        if list_folder(source) is None:
            raise DataError(
                f"{source} is {'a file' if source.exists() else 'not there'}; {PARQUET_FOLDER} "
                "names a folder"
            )
        format, endings = None, (".parquet",)
    found: Imported | None = None
    for split, file in _files(source, endings):
        part = _import_file(file, format, mapping)
        for row in part.rows:
            row |= {"split": split} if split else {}
        if found is None:
            found = part
        else:
            found.rows += part.rows
            for system, count in part.system_messages.items():
                found.system_messages[system] = found.system_messages.get(system, 0) + count
            for why, (count, place) in part.left_out.items():
                before, first = found.left_out.get(why, (0, f"{file.name}, {place}"))
                found.left_out[why] = before + count, first
    assert found is not None  # _files names at least one
    found.several_answers = _asked_twice(found.rows)
    if not found.rows:
        why = "; ".join(found.notes) or "it has no rows"
        raise DataError(f"{source} holds no question with an answer: {why}")
    return found


def of_table(table: pd.DataFrame, source: str) -> Imported:
    """The questions and answers of a table; the last part of `source` is its name."""
    rows = table.to_dict("records")
    records = [Record({str(k): v for k, v in row.items()}, f"row {number:,}")
               for number, row in enumerate(rows, start=1)]  # fmt: skip
    return _records(Path(source), records, None, {})


def save(imported: Imported, name: str) -> Path:
    """Write the rows under SPELLTUNE_HOME/data and return the path for data.path.

    A file of that name with other content stays: the new one gets a number.
    """
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in imported.rows)
    return files.keep("".join(lines).encode(), paths.home() / "data", f"{name}.jsonl")


def _files(source: Path, endings: Sequence[str]) -> list[tuple[str, Path]]:
    """(split, file) of each file to read; no split where the names tell none."""
    listed = list_folder(source)
    if listed is None:
        return [("", source)]
    listed = list_folder(source / "data") or listed  # as in many repositories of the hub
    there = _readable(listed, endings) or _of_subset(listed, endings)
    if not there:
        raise DataError(f"folder {source} has no file that ends in {', '.join(endings)}")
    named = [
        (SPLIT_NAMES[match[1].lower()], file)
        for file in there
        if (match := _SPLIT_FILE.fullmatch(file.stem)) and match[1].lower() in SPLIT_NAMES
    ]
    return named or [("", file) for file in there]


def _readable(paths: Sequence[Path], endings: Sequence[str]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in endings]


def _of_subset(paths: Sequence[Path], endings: Sequence[str]) -> list[Path]:
    """The files of the one folder among paths that has any, as data of the hub with one subset
    have; none where no folder has. DataError where several have."""
    subsets = {path.name: _readable(list_folder(path) or [], endings) for path in paths}
    subsets = {name: found for name, found in subsets.items() if found}
    if len(subsets) > 1:
        raise DataError(
            f"{paths[0].parent} has no file that ends in {', '.join(endings)}, but folders that "
            f"have: {', '.join(subsets)}; name one of them"
        )
    return next(iter(subsets.values()), [])


def _asked_twice(rows: Sequence[Mapping[str, str]]) -> int:
    """Questions that stand there with more than one answer."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(composed(row["question"]), set()).add(composed(row["answer"]))
    return sum(len(different) > 1 for different in answers.values())


# --- one file -------------------------------------------------------------------------------------


def _import_file(path: Path, format: str | None, mapping: Mapping[str, str]) -> Imported:
    content = read_content(path)
    try:
        if content.startswith(b"PAR1"):
            return _records(path, read_parquet(content), format, mapping)
        if content.startswith(b"PK\x03\x04"):
            return _records(path, read_excel(content), format, mapping)
        if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise DataError(f"{path} is compressed; unpack it first")
        if content.startswith(b"\xd0\xcf\x11\xe0"):
            raise DataError(f"{path} is a file of an old Excel; save it as .xlsx")
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as some Windows programs save
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if not text.strip():
            raise DataError(f"{path} is empty")
        if text.count("\0") > len(text) // 10:
            raise ValueError("it is no text; save it as UTF-8")
        lines = format if format in formats.LINES else None
        if text.lstrip()[0] in "[{":
            return _records(path, read_json(text), format, mapping)
        if lines is None and format is None and not mapping:
            lines = formats.line_format(_sample(text))
        if lines:
            return _misspellings(path, text, lines)
        return _table_or_list(path, text, format, mapping)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    except DataError:
        raise
    except (ValueError, OSError, csv.Error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from None


def _table_or_list(
    path: Path, text: str, format: str | None, mapping: Mapping[str, str]
) -> Imported:
    """The pairs of a table. What is none, and nearly a list of misspellings, is read as that, so
    that an error names the line that is not of its format."""
    try:
        return _records(path, read_table(text), format, mapping)
    except (ValueError, csv.Error):
        nearly = formats.line_format(_sample(text), nearly=True)
        if format or mapping or not nearly:
            raise
    return _misspellings(path, text, nearly)


def _records(
    path: Path, records: Sequence[Record], format: str | None, mapping: Mapping[str, str]
) -> Imported:
    """The pairs of records, by the format that most tells of their columns."""
    if not records:
        raise DataError(f"{path} has no rows")
    own = list(dict.fromkeys(name for record in records for name in record.fields))
    # Headers as people write them: with spaces around, and in capitals.
    plain = {name: formats.plain_name(name) for name in own}
    columns = list(plain.values())
    kind = format or ("columns" if mapping else formats.record_format(columns))
    if kind in formats.LINES:
        raise DataError(f"{path} is not in the format {kind}: it holds records with fields")
    needed = formats.RECORDS.get(kind, ())
    if missing := [name for name in needed if name not in columns]:
        raise DataError(
            f"{path} is not in the format {kind}: it has no column {missing[0]!r} "
            f"({', '.join(own)})"
        )
    try:
        shown = dict(zip(columns, own, strict=True))
        found_columns = formats.find_columns(shown, mapping) if kind == "columns" else {}
    except ValueError as error:
        first = [dict(record.fields) for record in records[:_FIRST]]
        raise UnknownColumns(f"{path}: {error}", own, first) from None
    pair = formats.pair_of(kind, found_columns, path.stem)
    found = Imported(kind)
    for record in records:
        fields = _plain_fields(record, plain, path)
        if not any(value not in (None, "") for value in fields.values()):
            continue
        try:
            question, answer = pair(fields)
        except formats.NoPair as why:
            found.leave_out(str(why), record.place)
            continue
        split = SPLIT_NAMES.get(str(fields.get("split", "")).strip().lower())
        # A table of columns may well have one that is called `system`.
        system = "" if kind in ("columns", "cute") else formats.system_message(fields)
        found.add(question, answer, record.place, split, system)
    return found


def _plain_fields(record: Record, plain: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The fields of a record by their plain names; DataError where two of them have the same and
    hold different values."""
    fields: dict[str, Any] = {}
    for name, value in record.fields.items():
        if fields.get(plain[name]) in (None, "", value):
            fields[plain[name]] = value
        elif value not in (None, ""):
            both = ", ".join(one for one in record.fields if plain[one] == plain[name])
            raise DataError(f"{path}, {record.place}: two fields are one name ({both}); keep one")
    return fields


def _misspellings(path: Path, text: str, kind: str) -> Imported:
    """The pairs of a list of misspellings, each asked as a question of the task `correct`."""
    lines = (
        (number, line.strip())
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.startswith("#")
    )
    found = Imported(kind)
    try:
        for number, wrong, right in formats.LINES[kind](lines):
            if not right:
                found.leave_out("it offers several corrections", f"line {number:,}")
            elif wrong:
                found.add(CORRECT + wrong, right, f"line {number:,}")
    except formats.BadLine as error:
        raise DataError(f"{path} is not in the format {kind}: {error}") from None
    return found


def _sample(text: str) -> list[str]:
    """The first lines that hold something, comments aside."""
    lines = [line.strip() for line in text[: 1 << 16].split("\n")]
    return [line for line in lines if line and not line.startswith("#")][:_SAMPLE]
