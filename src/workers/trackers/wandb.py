"""Weights & Biases: a tracker's sink."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from src.config import RunConfig
from src.workers.trackers.base import End, artifacts, within

# wandb waits 90 s by default where a key exists and no network.
INIT_SECONDS = 10
LOG_SECONDS = 10


class Wandb:
    """Weights & Biases: online, or into files that `wandb sync` sends later."""

    name = "W&B"

    def __init__(
        self,
        config: RunConfig,
        run_id: str,
        output_dir: Path,
        mode: Literal["online", "offline"],
        say: Callable[[str], None],
    ):
        self.config, self.run_id, self.output_dir = config, run_id, output_dir
        self.mode, self.say = mode, say
        self.run: Any = None
        self._folders: list[Path] = []  # what `wandb sync` takes

    def start(self) -> None:
        # Artifacts that wait for a sync must lie beside the run, not in the user's home.
        os.environ.setdefault("WANDB_DATA_DIR", str(self.output_dir))
        if self.mode == "offline":
            return self._begin(self.run_id)
        try:
            # A second more than wandb's own limit: its error says more than ours.
            within(INIT_SECONDS + 1, lambda: self._begin(self.run_id))
        except Exception as error:  # no network, a wrong key, a server's fault
            self._go_offline(error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # The steps of validation come after the training's: a step of its own axis never goes
        # backwards.
        self._do(lambda: self.run.log({**values, "step": step}))

    def finish(self, end: End) -> str:
        self._do(lambda: self._end(end))
        self._do(lambda: self.run.finish())
        if self.mode == "online":
            return f"W&B has run {self.run_id}"
        folders = " ".join(map(str, self._folders))
        return f"W&B saved locally; `wandb sync {folders}` sends it"

    def _do(self, call: Callable[[], None]) -> None:
        """Carry out a call, offline where it fails or hangs online."""
        if self.mode == "online":
            try:
                return within(LOG_SECONDS, call)
            except Exception as error:
                self._go_offline(error)
        call()

    def _go_offline(self, error: Exception) -> None:
        self.say(f"warning: W&B is out of reach ({type(error).__name__}); saving locally")
        self.mode = "offline"
        # wandb's service holds the first id as in use, and to end it would end the other runs of a
        # pack.
        self._begin(f"{self.run_id}-offline")

    def _begin(self, run_id: str) -> None:
        import wandb  # half a second, so not on the panel's way

        asked, mode = self.config.tracking, self.mode
        run = wandb.init(
            project=asked.project,
            name=self.run_id,
            id=run_id,
            group=asked.group,
            dir=self.output_dir,
            mode=mode,
            # The next attempt goes on in the same run there; without a network nobody knows it.
            resume="allow" if mode == "online" else None,
            # Else the runs of a pack, which share a process, would share one run there.
            reinit="create_new",
            config=self.config.model_dump(),
            tags=asked.tags,
            settings=wandb.Settings(
                init_timeout=INIT_SECONDS,
                silent=True,
                console="off",
                x_disable_stats=True,
                # Else the address of the git remote is sent, and a token may stand in that.
                disable_git=True,
            ),
        )
        if mode == self.mode:  # else it answered too late
            self.run = run
            self.run.define_metric("*", step_metric="step")
            self._folders.append(Path(run.dir).parent)

    def _end(self, end: End) -> None:
        import wandb

        self.run.summary.update(dict(end.summary))
        for kind, path in artifacts(self.config, self.run_id, end).items():
            artifact = wandb.Artifact(f"{self.run_id}-{kind}", type=kind)
            artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
            self.run.log_artifact(artifact)
