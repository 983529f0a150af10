"""Reads tables of questions and answers from files, folders and the Hugging Face hub.

The panel imports this module, so nothing here imports torch or transformers.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from src.errors import UserError

SPLITS = ("train", "validation", "test")

# What people call the splits in their own files and columns.
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation"} | {
    "valid": "validation", "val": "validation", "dev": "validation", "test": "test"
}  # fmt: skip


class DataError(UserError, ValueError):
    """Data that cannot be trained on: one sentence with what arrived and what to do."""


def read_path(path: Path) -> dict[str, pd.DataFrame]:
    """{split: table} of a file or of a folder with a file a split; {"": table} without splits."""
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in READERS]
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
                f"endings {', '.join(READERS)}"
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
        raise DataError(f"{path} is none of {', '.join(READERS)}{why}; save it as one of them")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if not content.strip():
        raise DataError(f"{path} is empty; it needs rows with the columns question and answer")
    try:
        table = reader(content)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start:,}); save it as UTF-8"
        ) from None
    except (ValueError, csv.Error, OSError) as error:  # OSError: pyarrow, for a damaged page
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if table.empty:
        raise DataError(f"{path} has no rows")
    return table


def _read_json(content: bytes) -> pd.DataFrame:
    document = _json_of(content.decode("utf-8-sig"))
    by_split = isinstance(document, dict) and set(document) <= set(SPLIT_NAMES)
    parts = document if by_split else {"": document}
    for rows in parts.values():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(
                'expected a list of objects, as in [{"question": "...", "answer": "..."}], or one '
                "such list a split"
            )
    mark = [{"split": split} if by_split else {} for split in parts]
    rows = [row | m for m, part in zip(mark, parts.values(), strict=True) for row in part]
    return pd.DataFrame(rows, dtype=object)


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply for rows of questions and answers") from None


def _read_jsonl(content: bytes) -> pd.DataFrame:
    rows = []
    # Not splitlines: U+2028 and the like may stand inside a JSON text.
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _json_of(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object with question and answer")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _read_csv(content: bytes) -> pd.DataFrame:
    # Not pandas: it takes a row with a cell too many for one with an index, and "null" for nothing.
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    reader = csv.DictReader(text, strict=True, skipinitialspace=True)
    rows = []
    for row in reader:
        if len(set(reader.fieldnames or [])) < len(reader.fieldnames or []):
            raise ValueError("two columns have the same name")
        if None in row:
            raise ValueError(f"line {reader.line_num} has more cells than the header")
        rows.append(row)
    return pd.DataFrame(rows, columns=list(reader.fieldnames or []), dtype=object)


def _read_parquet(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(content)).astype(object)


READERS: dict[str, Callable[[bytes], pd.DataFrame]] = {
    ".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet
}  # fmt: skip

# Builders of the datasets library that only read data. Others unpickle (CVE-2026-57845).
SAFE_BUILDERS = ("json", "csv", "parquet", "text")


def read_hub(hub_id: str, revision: str | None) -> dict[str, pd.DataFrame]:
    """{split: table} of a data set on the hub; scripts and builders that unpickle are refused."""
    # A bare name can be a builder's: load_dataset("csv") reads the files of the current folder.
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) or Path(hub_id).exists():
        raise DataError(f"{hub_id!r} is not the id of a data set on the hub, such as user/words")
    import datasets  # over a second, and only this source needs it

    try:
        builder = datasets.load_dataset_builder(hub_id, revision=revision)
        kind = type(builder).__module__.split(".")[-1]
        if kind not in SAFE_BUILDERS:
            raise DataError(f"{hub_id} is kept as {kind}; only {', '.join(SAFE_BUILDERS)} are read")
        # By this very builder: asked for again, the hub may give another one.
        builder.download_and_prepare()
        found = builder.as_dataset()
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"cannot load {hub_id} from the hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); check the id, the revision and the network"
        ) from None
    tables = {name: split.to_pandas().astype(object) for name, split in found.items()}
    named = {SPLIT_NAMES[n]: t for n, t in tables.items() if n in SPLIT_NAMES}
    # A lone train split is data without splits.
    return {"": next(iter(tables.values()))} if len(tables) == 1 else named
