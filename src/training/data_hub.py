"""Reads data sets of the Hugging Face hub.

The panel imports this module, so nothing here imports torch or transformers.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from src.models import hub
from src.training.data_files import MAX_BYTES, MAX_ROWS, SPLIT_NAMES, TOO_MUCH, DataError

# Builders of the datasets library that only read data. Others unpickle (CVE-2026-57845).
SAFE_BUILDERS = ("json", "csv", "parquet", "text")


def read_hub(hub_id: str, revision: str | None) -> dict[str, pd.DataFrame]:
    """{split: table} of a data set on the hub; {"": table} where it has one table alone."""
    tables = read_hub_tables(hub_id, revision)
    named = {SPLIT_NAMES[n]: t for n, t in tables.items() if n in SPLIT_NAMES}
    # A lone train split is data without splits.
    return {"": next(iter(tables.values()))} if len(tables) == 1 else named


def read_hub_tables(hub_id: str, revision: str | None) -> dict[str, pd.DataFrame]:
    """{name of a split as the data set has it: table}; scripts and builders that unpickle are
    refused."""
    # A bare name can be a builder's: load_dataset("csv") reads the files of the current folder.
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) or Path(hub_id).exists():
        raise DataError(f"{hub_id!r} is not the id of a data set on the hub, such as user/words")
    import datasets  # over a second, and only this source needs it

    try:
        with hub.quiet():
            found = _read(hub_id, revision)
    except DataError:
        raise
    except ConnectionError:
        raise DataError(
            f"{hub_id} is not on this machine, and {hub.NOT_REACHED}; connect this machine, or "
            "check the id and the revision"
        ) from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"cannot load {hub_id} from the hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); check the id, the revision and the network"
        ) from None
    return {str(name): split.to_pandas().astype(object) for name, split in found.items()}


def _read(hub_id: str, revision: str | None) -> Any:
    """The splits of a data set of the hub, in files."""
    import datasets

    builder = datasets.load_dataset_builder(hub_id, revision=revision)
    kind = type(builder).__module__.split(".")[-1]
    if kind not in SAFE_BUILDERS:
        raise DataError(f"{hub_id} is kept as {kind}; only {', '.join(SAFE_BUILDERS)} are read")
    _check_hub_size(hub_id, *_claimed_size(builder))
    # By this very builder: asked for again, the hub may give another one.
    builder.download_and_prepare()
    found = builder.as_dataset()
    # Before they are taken into memory: the data set lies in files until then.
    held = [(split.num_rows, split.data.nbytes) for split in found.values()]
    _check_hub_size(hub_id, sum(rows for rows, _ in held), sum(size for _, size in held))
    return found


def _claimed_size(builder: Any) -> tuple[int, int]:
    """Rows and bytes of a data set on the hub before its download, as far as they are known."""
    from datasets.utils.file_utils import xgetsize

    about = builder.info
    splits = (about.splits or {}).values()
    sizes = [about.download_size, about.dataset_size, sum(s.num_bytes or 0 for s in splits)]
    files = [file for part in (builder.config.data_files or {}).values() for file in part]
    with suppress(OSError, ValueError):  # then the size is seen after the download
        sizes.append(sum(xgetsize(file) for file in files))
    return sum(s.num_examples or 0 for s in splits), max(size or 0 for size in sizes)


def _check_hub_size(hub_id: str, rows: int, size: int) -> None:
    if rows > MAX_ROWS or size > MAX_BYTES:
        told = TOO_MUCH.format(rows=MAX_ROWS, size=MAX_BYTES // 2**20)
        raise DataError(f"{hub_id} is too large: {told}; train on a part of it")
