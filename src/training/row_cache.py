"""Rows in tokens, kept on the disk: most runs train on rows that an earlier one tokenized

They are taken from the disk only while the rows, the prompt format, the files of the tokenizer,
Spelltune's code and the installed packages are the same.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from src.file_cache import FileCache, key_of
from src.files import code_stamp
from src.models import preloaded
from src.models.prompt_format import PromptFormat
from src.training.rows import Row
from src.training.scoring import encode

if TYPE_CHECKING:
    import pandas as pd

KEPT = 24  # files: three for each run's data, one for each suite
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("word", "question", "answer")),
        *((name, pa.list_(pa.int32())) for name in ("prompt_ids", "answer_ids")),
        ("task", pa.string()),
    ]
)


class RowCache:
    """`scoring.encode` for one base model, whose results are kept in `cache_dir`/rows."""

    def __init__(self, cache_dir: Path | None, name: str, revision: str | None):
        self._cache = FileCache(cache_dir and cache_dir / "rows", KEPT)
        self._base = preloaded.stamp_of(name, revision), code_stamp()

    def encode(self, tokenizer: Any, frame: "pd.DataFrame", form: PromptFormat) -> list[Row]:
        """The rows of a frame, as `scoring.encode` returns them."""
        columns = [column for column in ("word", "question", "answer", "task") if column in frame]
        content = [frame[column].tolist() for column in columns]
        key = key_of(self._base, tokenizer.eos_token_id, repr(form), columns, content)
        rows = self._cache.read(key, _read)
        if rows is None:
            rows = encode(tokenizer, frame, form)
            self._cache.write(key, partial(_write, rows))
        return rows


def _read(file: Path) -> list[Row]:
    columns = pq.read_table(file, schema=SCHEMA, page_checksum_verification=True).to_pydict()
    return [Row(*row) for row in zip(*(columns[name] for name in SCHEMA.names), strict=True)]


def _write(rows: list[Row], file: Path) -> None:
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    pq.write_table(pa.table(columns, schema=SCHEMA), file, write_page_checksum=True)
