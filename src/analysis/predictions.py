"""The predictions of an evaluation as a Parquet file, with their kinds of error"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from src.analysis.kinds import describe_predictions
from src.files import retry

ADDED = pa.schema([("edits", pa.string()), ("kind", pa.string()), ("length", pa.int64())])


def write(predictions: pa.Table, file: Path) -> None:
    """Write predictions with the columns of `Description`, as one file that is whole or not there.
    Predictions of a suite that has kinds of its own have these columns already, with a kind that
    is null where the answer is to be described. OSError where the disk does not take the file.
    """
    read = {"question", "expected", "predicted", "correct", "task"} & set(predictions.column_names)
    columns = {name: predictions[name].to_pylist() for name in read}
    rows: list[tuple[Any, ...]] = [(None, None, None)] * len(predictions)
    if set(ADDED.names) <= set(predictions.column_names):
        rows = list(zip(*(predictions[name].to_pylist() for name in ADDED.names), strict=True))
        predictions = predictions.drop_columns(ADDED.names)
    left = [place for place, row in enumerate(rows) if row[1] is None]
    open_rows = {name: [values[place] for place in left] for name, values in columns.items()}
    for place, found in zip(left, describe_predictions(open_rows), strict=True):
        rows[place] = found
    for place, column in enumerate(ADDED):
        values = pa.array([one[place] for one in rows], column.type)
        predictions = predictions.append_column(column.name, values)
    staged = file.with_suffix(".writing")

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(predictions, staged)
        staged.replace(file)

    try:
        retry(write)
    except OSError:
        staged.unlink(missing_ok=True)
        raise
