"""Checkpoints: folders step-N that are complete and verified, or do not exist.

A checkpoint is written to a staging folder beside them; a manifest with the hash of every file is
added last; then the folder is renamed to its final name. Every reader verifies it first. The kept
adapter, in final/, has the same manifest.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import bytes_of, read_bytes, retry, sha256
from src.format import GIB, whole_number

STAGING = ".staging"
MANIFEST = "MANIFEST.json"
FORMAT = 2

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# Without one of these transformers resumes silently, to other weights.
REQUIRED = (
    *ADAPTER,
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)
OF_TRAINING = (*(name for name in REQUIRED if name not in ADAPTER), "training_args.bin")


class BrokenCheckpoint(UserError, ValueError):
    """A checkpoint or adapter that must not be used; the message names the file."""


def stage(checkpoints_dir: Path) -> Path:
    """An empty staging folder, without what a killed process left in it."""
    staging = checkpoints_dir / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def commit(written: Path, target: Path, about: Mapping[str, Any]) -> Path:
    """Rename the written folder to the checkpoint `target`, with `about` in its manifest."""
    _commit(written, target, about, REQUIRED)
    return target


def commit_adapter(written: Path, target: Path, about: Mapping[str, Any]) -> Path:
    """Rename a folder that holds no more than an adapter to `target`, with a manifest."""
    _commit(written, target, about, ADAPTER)
    return target


def _commit(written: Path, target: Path, about: Mapping[str, Any], required: Sequence[str]) -> None:
    if missing := [name for name in required if not (written / name).is_file()]:
        raise BrokenCheckpoint(f"{target.name} was written without {', '.join(missing)}")
    files = {
        str(file.relative_to(written)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(written.rglob("*"))
        if file.is_file()
    }
    manifest = {"format": FORMAT, "created_at": time.time(), **about, "files": files}
    write_manifest(written, manifest)
    replace_folder(written, target)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    retry(lambda: (folder / MANIFEST).write_bytes(_sealed(manifest)))


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest file; its last entry is the hash of the others."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    digest = hashlib.sha256(_as_json(content)).hexdigest()
    return _as_json(content | {"sha256": digest})


def _as_json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def verify(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; BrokenCheckpoint unless every file is as it was written."""
    return _verify(checkpoint, REQUIRED)


def verify_adapter(folder: Path) -> None:
    """BrokenCheckpoint if an adapter, maybe that of a checkpoint, is not as it was written. One
    without a manifest is of an earlier version, and only has to be complete."""
    if (folder / MANIFEST).exists():
        _verify(folder, ADAPTER, left_out=OF_TRAINING)
    elif missing := [name for name in ADAPTER if not (folder / name).is_file()]:
        raise BrokenCheckpoint(f"{folder.name}: {missing[0]} is missing")


def _verify(
    checkpoint: Path, all_required: Sequence[str], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    name = checkpoint.name
    try:
        content = read_bytes(checkpoint / MANIFEST)
        manifest = json.loads(content)
        files, format = manifest["files"], manifest["format"]
        damaged = content != _sealed(manifest)
    except FileNotFoundError:
        raise BrokenCheckpoint(f"{name} has no {MANIFEST}: it is not complete") from None
    except OSError as error:
        raise BrokenCheckpoint(f"{name}: {MANIFEST} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BrokenCheckpoint(f"{name}: {MANIFEST} is damaged") from None
    if format != FORMAT:
        raise BrokenCheckpoint(f"{name}: {MANIFEST} has format {format}; this reads {FORMAT}")
    if damaged:
        raise BrokenCheckpoint(f"{name}: {MANIFEST} is damaged")
    if missing := [required for required in all_required if required not in files]:
        raise BrokenCheckpoint(f"{name}: {MANIFEST} does not list {missing[0]}")
    for file, known in files.items():
        if file in left_out:
            continue
        try:
            same = retry((checkpoint / file).stat).st_size == known["bytes"]
            same = same and sha256(checkpoint / file) == known["sha256"]
        except FileNotFoundError:
            raise BrokenCheckpoint(f"{name}: {file} is missing") from None
        except OSError as error:
            raise BrokenCheckpoint(f"{name}: {file} cannot be read: {error.strerror}") from None
        if not same:
            raise BrokenCheckpoint(f"{name}: {file} is not as it was written")
    return dict(manifest)


def is_verified(checkpoint: Path) -> bool:
    try:
        return bool(verify(checkpoint))
    except BrokenCheckpoint:
        return False


def is_verified_adapter(folder: Path) -> bool:
    try:
        verify_adapter(folder)
    except BrokenCheckpoint:
        return False
    return True


def replace_folder(written: Path, target: Path) -> None:
    """Sync `written` to disk and rename it to `target`, replacing a folder of that name."""
    _sync_files(written)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        remove_folder(target)
    os.replace(written, target)
    folder = retry(lambda: os.open(target.parent, os.O_RDONLY))
    os.fsync(folder)
    os.close(folder)


def _sync_files(folder: Path) -> None:
    def sync(file: Path) -> None:
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())

    for file in folder.rglob("*"):
        if file.is_file():
            retry(partial(sync, file))


def remove_folder(folder: Path) -> None:
    """Remove a folder; it is renamed first, so that it is never seen half removed."""
    gone = folder.with_name(f".trash-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def step_dir(checkpoints_dir: Path, step: int) -> Path:
    return checkpoints_dir / f"step-{step}"


def steps(checkpoints_dir: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    names = (path.name.removeprefix("step-") for path in checkpoints_dir.glob("step-*"))
    return sorted(step for name in names if (step := whole_number(name)) is not None)


def keep_for_fork(checkpoints_dir: Path, step: int) -> None:
    """Exempt a checkpoint that another run starts from from retention."""
    (checkpoints_dir / f"step-{step}.fork").touch()


def is_kept_for_fork(checkpoints_dir: Path, step: int) -> bool:
    return (checkpoints_dir / f"step-{step}.fork").exists()


def retain(
    checkpoints_dir: Path, *, keep_last: int, best_step: int | None, max_gib: float | None = None
) -> list[int]:
    """Remove checkpoints that are not among the newest `keep_last`, the best or the start of a
    fork; returns their steps.

    Where all of them exceed `max_gib` the oldest are removed too, but never the last two. Newest by
    step: clocks and copies change a folder's time.
    """
    there = steps(checkpoints_dir)
    removable = [
        step for step in there if step != best_step and not is_kept_for_fork(checkpoints_dir, step)
    ]
    removed = [step for step in removable if step not in there[-keep_last:]]
    if max_gib is not None:
        sizes = {s: bytes_of(step_dir(checkpoints_dir, s)) for s in there if s not in removed}
        for step in [s for s in removable if s in sizes and s not in there[-2:]]:
            if sum(sizes.values()) > max_gib * GIB:
                removed.append(step)
                del sizes[step]
    for step in removed:
        remove_folder(step_dir(checkpoints_dir, step))
    return removed


def set_aside(checkpoints_dir: Path, *, after: int, name: str) -> list[int]:
    """Move checkpoints after a step into the folder `name` beside them; returns their steps."""
    later = [step for step in steps(checkpoints_dir) if step > after]
    for step in later:
        target = step_dir(checkpoints_dir / name, step)
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            remove_folder(target)
        os.replace(step_dir(checkpoints_dir, step), target)
    return later


def sweep(checkpoints_dir: Path) -> None:
    """Remove folders that a killed process left half written or half deleted."""
    for pattern in (STAGING, ".trash-*"):
        for folder in checkpoints_dir.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)
