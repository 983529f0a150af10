"""Saves a run's checkpoints: errors of the disk are warnings, and retention removes old ones."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from src.config.schema import CheckpointingConfig
from src.files import retry
from src.training import checkpointing


def write_checkpoint(
    checkpoints_dir: Path, step: int, manifest: Mapping[str, Any], write: Callable[[Path], None]
) -> Path | str:
    """Save the files that `write` puts into the folder it is given as the checkpoint of `step`.

    Returns the checkpoint, or why the disk cannot take it: then nothing is left of it. It is
    written again where that may pass.
    """

    def save() -> Path:
        staging = checkpointing.stage(checkpoints_dir)
        folder = staging / f"checkpoint-{step}"
        write(folder)
        path = checkpointing.commit(folder, checkpointing.step_dir(checkpoints_dir, step), manifest)
        staging.rmdir()
        return path

    try:
        return retry(save)
    except Exception as error:
        if not is_write_error(error):
            raise
        shutil.rmtree(checkpoints_dir / checkpointing.STAGING, ignore_errors=True)
        # Told here: an error that another process brings forgets those that it came from.
        return why_not_written(error)


def write_final(output_dir: Path, step: int, write: Callable[[Path], None]) -> None:
    """Save the files that `write` puts into the folder it is given as the adapter of `step` in
    final/. They are written again where an error of the disk may pass."""

    def save() -> None:
        staging = checkpointing.stage(output_dir)
        write(staging / "final")
        checkpointing.commit_adapter(staging / "final", output_dir / "final", {"step": step})
        staging.rmdir()

    retry(save)


def copy_adapter(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint's adapter, and the tokenizer beside it, to a new folder."""
    left_out = shutil.ignore_patterns(*checkpointing.OF_TRAINING, checkpointing.MANIFEST)
    shutil.copytree(checkpoint, folder, ignore=left_out, copy_function=shutil.copyfile)


def remove_old(
    checkpoints_dir: Path, settings: CheckpointingConfig, best_step: int | None
) -> str | None:
    """Remove the checkpoints that retention drops; what prevented it."""
    try:
        checkpointing.retain(
            checkpoints_dir,
            best_step=best_step,
            keep_last=settings.keep_last,
            max_gib=settings.max_gib,
        )
    except OSError as error:
        return str(error)
    return None


def is_write_error(error: Exception) -> bool:
    """True for what the libraries raise where a file cannot be written: torch's zip writer a
    RuntimeError, safetensors and tokenizers errors of their own."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return False
    # tokenizers raises Exception itself.
    return isinstance(error, OSError | RuntimeError | SafetensorError) or type(error) is Exception


def why_not_written(error: BaseException) -> str:
    """The operating system's reason where there is one: torch speaks of positions in a stream."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    text = str(cause or error).strip().split("\n")[0][:300]
    full = "iostream" in text or "inline_container" in text
    return "No space left on device, or it cannot be written" if full else text
