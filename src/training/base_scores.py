"""Scores of base models, kept on the disk: the first evaluation of each run asks for them again

Before its first step an adapter changes nothing, and its scores are those of the base model. They
are taken from the disk only while the files of the base, the rows, what decides the rounding,
Spelltune's code and the installed packages are the same.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from src.files import code_stamp
from src.models import utils as machine
from src.training.scoring import Row

KEPT = 64  # files, the latest ones
METRICS = b"spelltune.metrics"  # in the metadata of a file's table

Scores = tuple[dict[str, float], pa.Table]  # metrics by name, one prediction per row


class BaseScores:
    """The scores of one base model, as one engine computes them.

    They are kept for the other runs of this process, and in `folder` for those of others.
    """

    def __init__(self, folder: Path | None, base: list[Any], **engine: Any):
        """`base` is that of `preloaded.key_of`, and `engine` what else decides how numbers are
        rounded, beside the device and the packages."""
        self.folder = folder
        on_gpu = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if on_gpu else torch.backends.cpu.get_cpu_capability()
        parts = [base, engine, device, machine.versions(), code_stamp()]
        self._base = json.dumps(parts, sort_keys=True)
        self._known: dict[str, Scores] = {}
        self._digests: dict[int, tuple[Sequence[Row], str]] = {}  # by id; the rows live as long

    def find(self, rows: Sequence[Row], **asked: Any) -> Scores | None:
        """The metrics and predictions of the base on these rows; `asked` are the settings of the
        evaluation. None if they are not known."""
        key = self._key(rows, asked)
        if key not in self._known and self.folder is not None:
            found = _read(self.folder / f"{key}.parquet")
            if found is not None:
                self._known[key] = found
        return self._known.get(key)

    def keep(self, rows: Sequence[Row], scores: Scores, **asked: Any) -> None:
        """Keep scores that `find` returns from now on."""
        key = self._key(rows, asked)
        self._known[key] = scores
        if self.folder is not None:
            with suppress(OSError):  # a full disk, or one that can only be read
                _write(self.folder / f"{key}.parquet", scores)

    def _key(self, rows: Sequence[Row], asked: dict[str, Any]) -> str:
        if id(rows) not in self._digests:
            content = json.dumps([astuple(row) for row in rows])
            self._digests[id(rows)] = rows, hashlib.sha256(content.encode()).hexdigest()
        key = json.dumps([self._base, self._digests[id(rows)][1], asked], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()


def _read(file: Path) -> Scores | None:
    """The scores in a file; None if there are none, or it is damaged."""
    try:
        table = pq.read_table(file)
        metrics = json.loads((table.schema.metadata or {})[METRICS])
    except (OSError, ValueError, KeyError):
        return None
    return metrics, table.replace_schema_metadata()


def _write(file: Path, scores: Scores) -> None:
    """Write scores so that others see the whole file or none, and remove the oldest files."""
    metrics, table = scores
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = file.with_suffix(f".{os.getpid()}")
    try:
        pq.write_table(table.replace_schema_metadata({METRICS: json.dumps(metrics)}), staged)
        staged.replace(file)
    finally:
        staged.unlink(missing_ok=True)
    files = sorted(file.parent.glob("*.parquet"), key=lambda kept: kept.stat().st_mtime)
    for old in files[:-KEPT]:
        old.unlink(missing_ok=True)
