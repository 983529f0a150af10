"""Tables as files for other programs: CSV, JSON, Parquet and Excel.

What a model answers is untrusted text: it may hold control characters or a formula.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

import pandas as pd

from src.analysis import misspellings
from src.store.tables import Evaluation

SHEET_ROWS = 1_048_575  # of an Excel sheet, below its head
# Excel refuses a file with any of these; XML cannot hold them.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def predictions(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """All predictions of some scorings, each row with its run, split and step."""
    frames = []
    for scored in evaluations:
        frame = misspellings.read(scored.path).copy()
        for place, column in enumerate(("run_id", "split", "step")):
            frame.insert(place, "run" if column == "run_id" else column, getattr(scored, column))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def to_csv(frame: pd.DataFrame) -> bytes:
    """CSV in which no cell is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.itertuples(index=False):
        writer.writerow([_harmless(_listed(cell)) for cell in row])
    return out.getvalue().encode()


def to_json(frame: pd.DataFrame) -> bytes:
    """A list of objects, one a row."""
    text: str = frame.to_json(orient="records", indent=2, force_ascii=False, double_precision=15)
    return text.encode()


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as JSON values, nan as null."""
    return cast("list[dict[str, Any]]", json.loads(to_json(frame)))


def to_parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def to_xlsx(frame: pd.DataFrame) -> bytes:
    """One sheet, or as many as its rows need, in which every text is text."""
    out = io.BytesIO()
    safe = frame.map(_listed)
    safe = safe.map(lambda cell: _printable(cell) if isinstance(cell, str) else cell)
    with pd.ExcelWriter(out, engine="openpyxl") as writer:
        for number, start in enumerate(range(0, max(len(safe), 1), SHEET_ROWS), start=1):
            name = "predictions" if number == 1 else f"predictions {number}"
            part = safe.iloc[start : start + SHEET_ROWS]
            part.to_excel(writer, sheet_name=name, index=False, freeze_panes=(1, 0))
            for row in writer.sheets[name].iter_rows(min_row=2):
                for cell in row:
                    if cell.data_type == "f":
                        cell.data_type = "s"
    return out.getvalue()


def _listed(cell: object) -> object:
    """Tags in one cell."""
    return ", ".join(map(str, cell)) if isinstance(cell, list) else cell


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    risky = cell.startswith(("\t", "\r", "\n")) or cell.lstrip()[:1] in ("=", "+", "-", "@")
    return f"'{cell}" if risky else cell


def _printable(cell: str) -> str:
    return CONTROL.sub(lambda sign: f"\\u{ord(sign[0]):04x}", cell)


# Ending of a file -> what a reader calls it, its media type, and what writes it.
FORMATS: dict[str, tuple[str, str, Callable[[pd.DataFrame], bytes]]] = {
    "csv": ("CSV", "text/csv", to_csv),
    "json": ("JSON", "application/json", to_json),
    "parquet": ("Parquet", "application/vnd.apache.parquet", to_parquet),
    "xlsx": (
        "Excel",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        to_xlsx,
    ),
}
