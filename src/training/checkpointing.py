"""Checkpoints: directories step-N that are complete or not there.

A checkpoint is written into a staging folder beside them and renamed when it is whole.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAGING = ".staging"
PROGRESS = "progress.json"


def stage(checkpoints_dir: Path) -> Path:
    """An empty staging folder; what a killed process left in it is gone."""
    staging = checkpoints_dir / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def commit(written: Path, target: Path, progress: Mapping[str, Any]) -> Path:
    """Make the written folder the checkpoint `target`, with `progress` as its progress.json."""
    (written / PROGRESS).write_text(json.dumps(progress, indent=2) + "\n")
    replace_folder(written, target)
    return target


def replace_folder(written: Path, target: Path) -> None:
    """`written` under the name `target`, in place of a folder of that name; its bytes are on disk
    first."""
    for file in written.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        remove_folder(target)
    os.replace(written, target)
    folder = os.open(target.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def remove_folder(folder: Path) -> None:
    """Take a folder away under another name first, so that no half of it is ever seen as whole."""
    gone = folder.with_name(f".removing-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def step_dir(checkpoints_dir: Path, step: int) -> Path:
    return checkpoints_dir / f"step-{step}"


def steps(checkpoints_dir: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    names = (path.name.removeprefix("step-") for path in checkpoints_dir.glob("step-*"))
    return sorted(int(name) for name in names if name.isdigit())


def retain(checkpoints_dir: Path, *, keep_last: int, best_step: int | None) -> list[int]:
    """Remove all but the newest `keep_last` checkpoints and the best one; the removed steps.

    Newest by step: clocks and copies change a folder's time.
    """
    there = steps(checkpoints_dir)
    removed = [step for step in there[:-keep_last] if step != best_step]
    for step in removed:
        remove_folder(step_dir(checkpoints_dir, step))
    return removed
