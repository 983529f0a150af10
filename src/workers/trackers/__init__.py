"""Trackers beside the run table: Weights & Biases, Trackio and TensorBoard, one file each."""

from collections.abc import Callable
from pathlib import Path

from src.config import RunConfig
from src.runs.checks import resolve_mode
from src.workers.trackers.base import Sink, Tracker
from src.workers.trackers.tensorboard import TensorBoard
from src.workers.trackers.trackio import Trackio
from src.workers.trackers.wandb import Wandb


def start_tracker(
    config: RunConfig, run_id: str, output_dir: Path, say: Callable[[str], None] = print
) -> Tracker:
    """Start the threads of the trackers that a config asks for. `say` writes a line to the run's
    log."""
    return Tracker(sinks(config, run_id, output_dir, say), say)


def sinks(
    config: RunConfig, run_id: str, output_dir: Path, say: Callable[[str], None]
) -> list[Sink]:
    """The trackers that a config asks for."""
    asked = config.tracking
    found: list[Sink] = []
    mode = resolve_mode(asked.mode)
    if mode != "off" and asked.tracker == "trackio":
        found.append(Trackio(config, run_id))
    elif mode != "off":
        if mode == "offline" and asked.mode == "online":
            say("W&B has no key here, so this run is saved locally")
        found.append(Wandb(config, run_id, output_dir, mode, say))
    if asked.tensorboard:
        found.append(TensorBoard(output_dir / "tensorboard"))
    return found
