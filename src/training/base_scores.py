"""Scores of base models, kept on the disk: the first evaluation of each run asks for them again

Before its first step an adapter changes nothing, and its scores are those of the base model. They
are taken from the disk only while the files of the base, the rows, what decides the rounding,
Spelltune's code and the installed packages are the same.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from src.file_cache import FileCache, key_of
from src.files import code_stamp
from src.models import utils as machine
from src.training.rows import Row
from src.training.score_sheet import Scores

METRICS = b"spelltune.metrics"  # in the metadata of a file's table


class BaseScores:
    """The scores of one base model, as one engine computes them.

    They are kept for the other runs of this process, and in `cache_dir`/base_scores for those
    of others.
    """

    def __init__(self, cache_dir: Path | None, base: list[Any], **engine: Any):
        """`base` is that of `preloaded.key_of`, and `engine` what else decides how numbers are
        rounded, beside the device and the packages."""
        self._cache = FileCache(cache_dir and cache_dir / "base_scores")
        self._base = key_of(base, engine, machine.rounds_as(), machine.versions(), code_stamp())
        self._known: dict[str, Scores] = {}
        self._rows: dict[int, tuple[Sequence[Row], str]] = {}  # by id, which they keep as theirs

    def find(self, rows: Sequence[Row], **asked: Any) -> Scores | None:
        """The metrics and predictions of the base on these rows; `asked` are the settings of the
        evaluation. None if they are not known."""
        key = self._key(rows, asked)
        if key not in self._known and (found := self._cache.read(key, _read)):
            self._known[key] = found
        return self._known.get(key)

    def keep(self, rows: Sequence[Row], scores: Scores, **asked: Any) -> None:
        """Keep scores that `find` returns from now on."""
        key = self._key(rows, asked)
        self._known[key] = scores
        self._cache.write(key, partial(_write, scores))

    def _key(self, rows: Sequence[Row], asked: dict[str, Any]) -> str:
        if id(rows) not in self._rows:
            self._rows[id(rows)] = rows, key_of([astuple(row) for row in rows])
        return key_of(self._base, self._rows[id(rows)][1], asked)


def _read(file: Path) -> Scores:
    table = pq.read_table(file, page_checksum_verification=True)
    return json.loads((table.schema.metadata or {})[METRICS]), table.replace_schema_metadata()


def _write(scores: Scores, file: Path) -> None:
    metrics, table = scores
    pq.write_table(
        table.replace_schema_metadata({METRICS: json.dumps(metrics)}),
        file,
        write_page_checksum=True,
    )
