"""Trackio: a tracker's sink."""

import os
from collections.abc import Mapping
from typing import Any

from src import paths
from src.config import RunConfig
from src.workers.trackers.base import End, artifacts


class Trackio:
    """Trackio, in results/trackio on this machine; `trackio sync` sends it to a Space."""

    name = "Trackio"

    def __init__(self, config: RunConfig, run_id: str):
        self.config, self.run_id = config, run_id
        self.run: Any = None

    def start(self) -> None:
        # Read when it is imported.
        os.environ["TRACKIO_DIR"] = str(paths.results() / "trackio")
        import trackio

        self.run = trackio.init(
            project=self.config.tracking.project,
            name=self.run_id,
            group=self.config.tracking.group,
            config=self.config.model_dump(),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, end: End) -> str:
        for kind, path in artifacts(self.config, self.run_id, end).items():
            self.run.log_artifact(path, name=f"{self.run_id}-{kind}", type=kind)
        self.run.finish()
        folder, project = os.environ["TRACKIO_DIR"], self.config.tracking.project
        return f"Trackio saved locally; `TRACKIO_DIR={folder} trackio show --project {project}`"
