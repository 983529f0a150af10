"""TensorBoard event files: a tracker's sink."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.workers.trackers.base import End


class TensorBoard:
    """Event files in the run's folder."""

    name = "TensorBoard"

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer: Any = None

    def start(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, end: End) -> str:
        self.writer.close()
        return f"TensorBoard saved locally; `tensorboard --logdir {self.folder}` shows it"
