"""Reads records from JSON, JSON Lines, tables of text, Excel and Parquet, each with its place.

The panel imports this module, so nothing here imports torch.
"""

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from src.training.data_faults import csv_problem, json_problem
from src.training.data_files import (
    MAX_BYTES,
    MAX_ROWS,
    SPLIT_NAMES,
    parquet_batches,
    parse_json,
)

MAX_COLUMNS = 1_000  # of a sheet of Excel
MAX_RATIO = 100  # of an Excel file; sheets of words shrink to a fifth or a twentieth
SMALL_BYTES = 16 * 2**20  # unpacked, that are read at any ratio
_SAMPLE = 40  # lines that the sign between the cells of a table is found from


@dataclass
class Record:
    """The fields of one record, and its place in its file (`line 3`)."""

    fields: dict[str, Any]
    place: str


def read_json(text: str) -> list[Record]:
    """The objects of a JSON document or of JSON Lines, whatever the ending of the file says."""
    try:
        return list(_objects(parse_json(text), ""))
    except json.JSONDecodeError as error:
        if "Extra data" not in error.msg or text.lstrip()[0] == "[":
            raise ValueError(json_problem(error)) from None
    records = []
    # Not splitlines: U+2028 and the like may stand inside a JSON text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except json.JSONDecodeError as error:
            raise ValueError(json_problem(error, number)) from None
        except ValueError as error:
            raise ValueError(f"line {number:,}: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"line {number:,} holds no object with named fields")
        records.append(Record(value, f"line {number:,}"))
    return records


def _objects(document: Any, split: str) -> Iterator[Record]:
    """The objects of a list; of an object, those of the lists in it (`examples`, a split), or the
    rows of its columns."""
    if isinstance(document, dict) and (columns := _columns(document)):
        values = zip(*columns.values(), strict=True)
        document = [dict(zip(columns, row, strict=True)) for row in values]
    if isinstance(document, dict):
        lists = {
            name: part for name, part in document.items() if isinstance(part, list) and part
            and all(isinstance(one, dict) for one in part)
        }  # fmt: skip
        chats = {name for name, part in lists.items() if {"role", "from"} & part[0].keys()}
        if not lists or chats:
            yield Record(document, "row 1")
        for name, part in lists.items():
            if name not in chats:
                yield from _objects(part, SPLIT_NAMES.get(name.lower(), ""))
        return
    for number, row in enumerate(document if isinstance(document, list) else [document], start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number:,} is no object with named fields")
        yield Record(row | ({"split": split} if split else {}), f"row {number:,}")


def _columns(document: dict[str, Any]) -> dict[str, list[Any]] | None:
    """The values of each column of an object that holds columns, as `datasets` (a list each) and
    pandas (an object each, by row numbers) write them; None for any other."""
    parts = list(document.values())
    if len(parts) < 2 or not all(parts):
        return None
    first = parts[0]
    if isinstance(first, dict) and all(key.isdecimal() for key in first):
        if all(isinstance(part, dict) and part.keys() == first.keys() for part in parts):
            return {name: list(part.values()) for name, part in document.items()}
    elif all(isinstance(part, list) and len(part) == len(first) for part in parts):
        nested = any(isinstance(value, dict | list) for part in parts for value in part)
        return None if nested else document
    return None


def read_table(text: str) -> list[Record]:
    """The rows of a table whose cells stand between commas, semicolons, tabs or bars."""
    named = re.match(r"sep=([\t;,|])\n", text)  # as Excel writes and reads it
    # The line stays, empty: the places of all others are theirs in the file.
    text = text[named.end() - 1 :] if named else text
    delimiter = named[1] if named else _delimiter(text)
    try:
        return _table(text, delimiter, csv.QUOTE_MINIMAL)
    except csv.Error:
        if delimiter != "\t":
            raise
        return _table(text, delimiter, csv.QUOTE_NONE)  # a quote is a sign like others there


def _table(text: str, delimiter: str, quoting: Literal[0, 3]) -> list[Record]:
    rows: list[Record] = []
    names: list[str] = []
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=delimiter != "\t",
    )  # fmt: skip
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if not names:
                    names = _header(cells)
                elif any(cell.strip() for cell in cells[len(names) :]):
                    raise ValueError(
                        f"line {line:,} has more cells ({len(cells)}) than the header "
                        f"({len(names)}); put quotes around a cell that contains {delimiter!r}"
                    )
                else:
                    rows.append(_record(names, cells, f"line {line:,}"))
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(csv_problem(str(error), text, line, reader.line_num)) from None
    return rows


def _delimiter(text: str) -> str:
    """The sign that stands equally often in the first lines, or most often in the first one."""
    lines = [line for line in text[: 1 << 16].split("\n") if line.strip()][:_SAMPLE]
    counts = {sign: [line.count(sign) for line in lines] for sign in "\t;,|"}
    even = [sign for sign, found in counts.items() if found[0] and len({*found}) == 1]
    return max(even or counts, key=lambda sign: counts[sign][0])


def read_excel(content: bytes) -> list[Record]:
    """The rows of the first sheet of an Excel file that holds something."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(part.file_size for part in archive.infolist())
        if size > MAX_BYTES or size > max(SMALL_BYTES, MAX_RATIO * len(content)):
            raise ValueError(
                f"it unpacks to {size // 2**20:,} MiB; more than {MAX_BYTES // 2**20} MiB, or "
                f"{MAX_RATIO} times the size of the file, are not read; save the sheet as CSV"
            )
        if "xl/workbook.xml" not in archive.namelist():
            raise ValueError("it is a zip archive, not an Excel file; unpack it first")
    rows: list[Record] = []
    names: list[str] = []
    for number, row in enumerate(_sheet(content), start=1):
        if len(row) > MAX_COLUMNS:  # a cell far to the right, in each row, is filled up to
            raise ValueError(f"row {number:,} has more than {MAX_COLUMNS:,} columns")
        cells = ["" if cell is None else str(cell) for cell in row]
        if not any(cell.strip() for cell in cells):
            continue
        if names:
            rows.append(_record(names, cells, f"row {number:,}"))
        else:
            names = _header(cells)
        if len(rows) > MAX_ROWS:
            raise ValueError(f"it has more than {MAX_ROWS:,} rows")
    return rows


def _sheet(content: bytes) -> Iterator[Sequence[Any]]:
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        for sheet in book.worksheets:
            rows = sheet.iter_rows(values_only=True)
            first = next((n for n, row in enumerate(rows) if any(c is not None for c in row)), None)
            if first is not None:
                yield from sheet.iter_rows(values_only=True)
                return
    except Exception as error:  # of many kinds, for damaged parts of the archive
        raise ValueError(f"its sheet is damaged ({type(error).__name__}: {error})") from None


def read_parquet(content: bytes) -> list[Record]:
    """The rows of a Parquet file."""
    rows = (row for batch in parquet_batches(content) for row in batch.to_pylist())
    return [Record(row, f"row {number:,}") for number, row in enumerate(rows, start=1)]


def _header(cells: Sequence[str]) -> list[str]:
    """The names of the columns; an empty one has none and is left out with its cells."""
    names = [cell.strip().removeprefix("\ufeff") for cell in cells]
    plain = [name.casefold() for name in names if name]
    if twice := next((name for name in plain if plain.count(name) > 1), None):
        raise ValueError(f"two columns are called {twice!r}; rename one")
    return names


def _record(names: Sequence[str], cells: Sequence[str], place: str) -> Record:
    return Record({n: c for n, c in zip(names, cells, strict=False) if n}, place)
