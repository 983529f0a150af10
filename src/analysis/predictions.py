"""The predictions of an evaluation as a Parquet file, with their kinds of error"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from src.analysis.kinds import Answer, Description, describe, describe_each

ADDED = pa.schema([("edits", pa.string()), ("kind", pa.string()), ("length", pa.int64())])


def write(
    predictions: pa.Table,
    file: Path,
    compute: Callable[[list[Answer]], Sequence[Description]] = describe_each,
) -> None:
    """Write predictions with the columns of `Description`, as one file that is whole or not there.
    Predictions of a suite that has kinds of its own have these columns already.

    `compute` describes the answers that this process has not described yet. OSError where the disk
    does not take the file.
    """
    if not set(ADDED.names) <= set(predictions.column_names):
        texts = (predictions[column].to_pylist() for column in ("expected", "predicted"))
        described = describe(list(zip(*texts, strict=True)), compute)
        for place, column in enumerate(ADDED):
            values = pa.array([one[place] for one in described], column.type)
            predictions = predictions.append_column(column.name, values)
    staged = file.with_suffix(".writing")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(predictions, staged)
        staged.replace(file)
    except OSError:
        staged.unlink(missing_ok=True)
        raise
