"""The forms in which a run's model leaves Spelltune, where they lie, and the process that writes
them."""

import json
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from src import paths
from src.files import read_text, write_atomic
from src.runs.locks import holder
from src.runs.spawn import Worker, start_detached
from src.runs.timeouts import TIMEOUTS


class Form(StrEnum):
    """A form of a run's model that is written once."""

    MERGED = "merged"  # base and adapter as one model, a folder of transformers
    F16 = "f16"  # that model as a GGUF file in 16 bits
    Q8_0 = "q8_0"  # quantized to 8

    @property
    def is_gguf(self) -> bool:
        return self is not Form.MERGED


HUB = "hub"  # the export that is uploaded, not kept


@dataclass(frozen=True)
class Export:
    """An export as it is now."""

    path: Path | None = None  # where it lies, once it is written
    url: str | None = None  # where it was uploaded to
    writing: bool = False
    problem: str | None = None  # why the last try failed


def path_of(run_id: str, step: int | None, form: Form) -> Path:
    """The folder or file of an export of a step, None being the kept adapter."""
    if form.is_gguf:
        return paths.gguf_file(run_id, step, form)
    return paths.merged_dir(run_id, step)


def look(run_id: str, step: int | None, what: str) -> Export:
    """The state of an export, a Form or HUB, of a step."""
    told = _record(run_id, step, what)
    began = told.get("writing")
    if began and (is_busy(run_id) or 0 <= time.time() - began < TIMEOUTS.start):
        return Export(writing=True)
    if what != HUB and (path := path_of(run_id, step, Form(what))).exists():
        return Export(path=path)
    if url := told.get("url"):
        return Export(url=url)
    if began:
        return Export(problem="the process that wrote it ended early; start it again")
    return Export(problem=told.get("problem"))


def is_busy(run_id: str) -> bool:
    """True while an export of the run is written: one at a time, as each loads the model."""
    return holder(paths.export_lock(run_id)) is not None


_starting = threading.Lock()


def start(run_id: str, step: int | None, what: str, **options: str) -> None:
    """Start a process that writes or uploads an export; nothing where one does already."""
    with _starting:  # two tabs may ask at once
        if look(run_id, step, what).writing:
            return
        note(run_id, step, what, writing=time.time())
    place = [] if step is None else ["--step", str(step)]
    more = [f"--{name}={value}" for name, value in options.items()]
    log = paths.export_record(run_id, step, what).with_suffix(".log")
    start_detached(Worker.EXPORT, run_id, what, *place, *more, log=log)


def note(run_id: str, step: int | None, what: str, **told: Any) -> None:
    """Write down how an export goes, for `look`."""
    write_atomic(paths.export_record(run_id, step, what), json.dumps(told) + "\n")


def _record(run_id: str, step: int | None, what: str) -> dict[str, Any]:
    try:
        told = json.loads(read_text(paths.export_record(run_id, step, what)))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
