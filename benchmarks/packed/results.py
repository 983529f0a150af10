"""Measurements of a run of the benchmark, as JSON and as Markdown tables."""

import json
import time
from pathlib import Path
from typing import Any

STARTED = time.time()


class Results:
    """Rows of measurements, each written to disk as soon as it is made."""

    def __init__(self, folder: Path, shape: str):
        self.file = folder / f"{shape}.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text())["rows"]

    def add(self, **row: Any) -> None:
        self.rows.append({"at_seconds": round(time.time() - STARTED, 1), **row})
        print(json.dumps(self.rows[-1], default=str), flush=True)
        self.file.write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1))
        self.file.with_suffix(".md").write_text(markdown(self.rows))

    def value(self, name: str, key: str) -> Any:
        found = [row[key] for row in self.rows if row.get("name") == name and key in row]
        return found[-1] if found else None


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table per phase, with a column for each key of its rows."""
    parts = []
    for phase in dict.fromkeys(row["phase"] for row in rows):
        mine = [{k: v for k, v in row.items() if k != "phase"} for row in rows
                if row["phase"] == phase]  # fmt: skip
        keys = list(dict.fromkeys(key for row in mine for key in row))
        lines = [f"## {phase}", "", "| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
        lines += ["| " + " | ".join(str(row.get(key, "")) for key in keys) + " |" for row in mine]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def machine() -> dict[str, Any]:
    import torch

    from src.models.utils import versions

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "versions": versions()}
