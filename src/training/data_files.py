"""Reads tables of questions and answers from files and folders.

The panel imports this module, so nothing here imports torch or transformers.
"""

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from src.errors import UserError, reason
from src.files import limited, retry
from src.training.data_faults import csv_problem, json_problem
from src.training.parquet_pages import MAX_FIELDS, Pages, pages_of

SPLITS = ("train", "validation", "test")

# What people call the splits in their own files and columns.
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation"} | {
    "valid": "validation", "val": "validation", "dev": "validation", "test": "test"
}  # fmt: skip


# More is no list of words, and could fill the memory of the machine that looks at it.
MAX_BYTES = 256 * 2**20  # of a file, and of the texts in it
MAX_ROWS = 2_000_000
MAX_CHUNKS = 100_000  # columns times row groups of a Parquet file
VALUE_BYTES = 8  # of a number, or of a reference to a text, in memory
TOO_MUCH = "it holds more than {rows:,} rows or {size} MiB of data"


IMPORT_IT = "import it: spelltune data import FILE"


class DataError(UserError, ValueError):
    """Data that cannot be trained on: one sentence with what arrived and what to do."""


def read_path(path: Path) -> dict[str, pd.DataFrame]:
    """{split: table} of a file or of a folder with a file a split; {"": table} without splits."""
    listed = list_folder(path)
    if listed is not None:
        files = [f for f in listed if f.suffix.lower() in READERS]
        of_split = [
            (SPLIT_NAMES[f.stem.lower()], f) for f in files if f.stem.lower() in SPLIT_NAMES
        ]
        named = dict(of_split)
        if len(named) < len(of_split):
            found = ", ".join(file.name for _, file in of_split)
            raise DataError(
                f"folder {path} has two files for one split ({found}); keep one of them"
            )
        if not named:
            raise DataError(
                f"folder {path} has no file called train, validation or test with one of the "
                f"endings {', '.join(READERS)}; one of another kind is imported: "
                "spelltune data import FOLDER"
            )
        return {split: _read_file(file) for split, file in named.items()}
    table = _read_file(path)
    if "split" not in table.columns:
        return {"": table}
    split = table["split"].map(lambda name: SPLIT_NAMES.get(str(name).strip().lower()))
    if split.isna().any():
        strange = table["split"][split.isna()].iloc[0]
        raise DataError(f"{path}: split {strange!r} is none of {', '.join(SPLITS)}")
    return {name: table[split == name] for name in SPLITS if (split == name).any()}


def _read_file(path: Path) -> pd.DataFrame:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        why = (
            " (a pickle can run code)" if path.suffix.lower() in (".pkl", ".pickle", ".pt") else ""
        )
        raise DataError(
            f"{path} is none of {', '.join(READERS)}{why}; save it as one of them, or {IMPORT_IT}"
        )
    content = read_content(path)
    if not content.strip():
        raise DataError(f"{path} is empty; it needs rows with the columns question and answer")
    try:
        table = reader(content)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    except MemoryError:
        raise DataError(f"{path} takes more memory than there is") from None
    except (ValueError, csv.Error, OSError) as error:  # OSError: pyarrow, for a damaged page
        raise DataError(f"{path} cannot be read: {reason(error)}") from None
    if table.empty:
        raise DataError(f"{path} has no rows")
    return table


def not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    """The DataError of a file whose bytes are no UTF-8 text."""
    line = error.object.count(b"\n", 0, error.start) + 1
    sign = error.object[error.start]
    return DataError(
        f"{path} is not UTF-8 text: line {line:,} has the byte 0x{sign:02X}; save it as UTF-8"
    )


def list_folder(path: Path) -> list[Path] | None:
    """The paths in a folder, sorted, or None if it is no folder. DataError if it cannot be read."""
    try:
        return limited(path, lambda: sorted(path.iterdir()) if path.is_dir() else None)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise DataError(f"cannot read {path}: {reason(error)}") from None


def read_content(path: Path) -> bytes:
    """The bytes of a regular file; DataError for anything else, which might never end."""

    def read() -> bytes:
        # Not blocking: the other end of a pipe may never come.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError(f"{path} is no regular file; copy its content into one")
            return file.read(MAX_BYTES + 1)

    try:
        content = limited(path, lambda: retry(read))
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} has more than {MAX_BYTES // 2**20} MiB; train on a part of it")
    return content


def _read_json(content: bytes) -> pd.DataFrame:
    try:
        document = parse_json(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise ValueError(
                f"line {error.lineno:,} begins another document, as in JSON Lines; name it "
                f".jsonl, or {IMPORT_IT}"
            ) from None
        raise ValueError(json_problem(error)) from None
    by_split = isinstance(document, dict) and set(document) <= set(SPLIT_NAMES)
    parts = document if by_split else {"": document}
    for rows in parts.values():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(
                'expected a list of objects, as in [{"question": "...", "answer": "..."}], or one '
                f"such list a split; or {IMPORT_IT}"
            )
    mark = [{"split": split} if by_split else {} for split in parts]
    rows = [row | m for m, part in zip(mark, parts.values(), strict=True) for row in part]
    return pd.DataFrame(rows, dtype=object)


def parse_json(text: str) -> Any:
    """The document of a JSON text; ValueError where it is none, too large or nested too deeply."""
    if text.count("[") + text.count("{") > 2 * MAX_ROWS:
        raise ValueError(f"it holds more than {2 * MAX_ROWS:,} lists and objects")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply for rows of questions and answers") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError where a key stands twice, of which only one would count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice[:80]!r} twice; keep one of them")
    return found


def _read_jsonl(content: bytes) -> pd.DataFrame:
    rows = []
    # Not splitlines: U+2028 and the like may stand inside a JSON text.
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise ValueError(json_problem(error, number)) from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"line {number} is not an object with question and answer; {IMPORT_IT}"
            )
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _read_csv(content: bytes) -> pd.DataFrame:
    # Not pandas: it takes a row with a cell too many for one with an index, and "null" for nothing.
    text = content.decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []  # in which each row begins
    line = 1
    try:
        for row in reader:
            if row and not names:
                names = row
                _check_header(names)
            elif row:
                if len(row) != len(names):
                    more = "more" if len(row) > len(names) else "fewer"
                    raise ValueError(f"line {line:,} has {more} cells than the header")
                rows.append(row)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(csv_problem(str(error), text, line, reader.line_num)) from None
    index = pd.Index(lines, name="line", dtype=int)
    return pd.DataFrame(rows, columns=names, index=index, dtype=object)


def _check_header(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    for sign, what in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if len(names) == 1 and sign in names[0]:
            raise ValueError(
                f"line 1 separates its cells by {what}; save it with commas, or {IMPORT_IT}"
            )


def _read_parquet(content: bytes) -> pd.DataFrame:
    import pyarrow.parquet as pq

    schema = parquet_schema(content)
    names = schema.names
    if not {"question", "answer"} <= set(names):  # the caller says so, with the names that it has
        there = pq.ParquetFile(io.BytesIO(content)).metadata.num_rows
        return pd.DataFrame(index=range(min(there, 1)), columns=names, dtype=object)
    wanted = [name for name in ("question", "answer", "split") if name in names]
    for name in wanted:
        if not _holds_text(kind := schema.field(name).type):
            raise ValueError(f"{name} holds {kind}; it must be text")
    if "task" in names and _holds_text(schema.field("task").type):
        wanted.append("task")
    parts = [batch.to_pandas().astype(object) for batch in parquet_batches(content, wanted)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def parquet_schema(content: bytes) -> Any:
    """The Arrow schema of a Parquet file; ValueError where two columns have one name."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(io.BytesIO(content))
    if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise ValueError(f"two columns are called {twice!r}; rename one")
    return schema


def _holds_text(kind: Any) -> bool:
    """True for the Arrow type of a column of texts."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def parquet_batches(content: bytes, columns: list[str] | None = None) -> Iterator[Any]:
    """The rows of a Parquet file as Arrow batches, texts as dictionaries; all columns for None.

    ValueError as soon as they are more than MAX_ROWS or MAX_BYTES.
    """
    import pyarrow.parquet as pq

    names = parquet_schema(content).names
    wanted = names if columns is None else columns
    about = pq.read_metadata(io.BytesIO(content))
    if about.num_row_groups * about.num_columns > MAX_CHUNKS:
        raise ValueError(f"it has more than {MAX_CHUNKS:,} parts; save it with larger row groups")
    leaves = [
        about.row_group(group).column(place)
        for group in range(about.num_row_groups)
        for place in range(about.num_columns)
        if about.schema.column(place).path.split(".")[0] in wanted
    ]
    # The footer may claim less than what the pages unpack to.
    pages: list[Pages] = []
    left = MAX_FIELDS
    for leaf in leaves:
        pages.append(pages_of(content, leaf, left))
        left -= pages[-1].fields
    size = max(sum(leaf.total_uncompressed_size for leaf in leaves),
               sum(max(p.unpacked_bytes, p.values * VALUE_BYTES) for p in pages))  # fmt: skip
    if about.num_rows > MAX_ROWS or size > MAX_BYTES:
        raise ValueError(TOO_MUCH.format(rows=MAX_ROWS, size=MAX_BYTES // 2**20))
    # As dictionaries: a short file may repeat a long text a million times.
    texts = {leaf.path_in_schema for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"}
    file = pq.ParquetFile(io.BytesIO(content), read_dictionary=sorted(texts))
    total = 0
    for batch in file.iter_batches(batch_size=10_000, columns=wanted):
        total += sum(map(_text_bytes, batch.columns))
        if total > MAX_BYTES:
            raise ValueError(f"its texts take more than {MAX_BYTES // 2**20} MiB")
        yield batch


def _text_bytes(column: Any) -> int:
    """The bytes of an Arrow array with each of its texts written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    if pa.types.is_struct(column.type) or pa.types.is_list(column.type):
        inner = column.flatten()
        return sum(map(_text_bytes, inner if isinstance(inner, list) else [inner]))
    return int(column.nbytes)


READERS: dict[str, Callable[[bytes], pd.DataFrame]] = {
    ".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet
}  # fmt: skip
