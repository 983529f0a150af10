"""Weights & Biases beside the run table. It can never block, slow or fail a run."""

import os
import queue
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from src.config import RunConfig

# wandb waits 90 s by default where a key exists and no network.
INIT_SECONDS = 10
CLOSE_SECONDS = 20


def resolve_mode(mode: str) -> Literal["online", "offline", "off"]:
    """online, offline or off: online only where it was asked for and a key exists."""
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "offline")
    if mode in ("off", "disabled"):
        return "off"
    return "online" if mode == "online" and has_key() else "offline"


def has_key() -> bool:
    """Whether wandb would find an API key, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return "wandb" in netrc.read_text()
    except OSError:
        return False


class Tracker:
    """Sends metrics from a thread of its own: the training only puts them in a queue."""

    def __init__(self, config: RunConfig, run_id: str, output_dir: Path):
        self.mode = resolve_mode(config.tracking.mode)
        self._points: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._send, args=(config, run_id, output_dir), name="tracker", daemon=True
        )
        if self.mode != "off":
            if self.mode == "offline" and config.tracking.mode == "online":
                print("W&B has no key here, so this run is saved locally", flush=True)
            self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.mode != "off":
            self._points.put((step, dict(values)))

    def close(self) -> None:
        """Wait a little for what is left; then leave it behind."""
        if self.mode != "off":
            self._points.put(None)
            self._thread.join(timeout=CLOSE_SECONDS)

    def _send(self, config: RunConfig, run_id: str, output_dir: Path) -> None:
        try:
            run = self._init(config, run_id, output_dir)
            run.define_metric("*", step_metric="step")
            while (point := self._points.get()) is not None:
                step, values = point
                # The steps of validation come after the training's: a step of its own axis never
                # goes backwards.
                run.log(values | {"step": step})
            run.finish()
            if self.mode == "offline":
                print(
                    f"W&B saved locally; `wandb sync {Path(run.dir).parent}` sends it", flush=True
                )
        except Exception as error:  # a tracker's failure of any kind must not end the run
            print(
                f"warning: W&B gave up: {type(error).__name__}: {error}",
                file=sys.stderr,
                flush=True,
            )
            self.mode = "off"

    def _init(self, config: RunConfig, run_id: str, output_dir: Path) -> Any:
        import wandb  # half a second, so not on the panel's way

        def init(mode: Literal["online", "offline"]) -> Any:
            settings = wandb.Settings(
                init_timeout=INIT_SECONDS, silent=True, console="off", x_disable_stats=True
            )
            return wandb.init(
                project=config.tracking.project,
                name=run_id,
                id=run_id,
                dir=output_dir,
                mode=mode,
                config=config.model_dump(),
                tags=config.tracking.tags,
                settings=settings,
            )

        if self.mode == "online":
            try:
                return init("online")
            except Exception as error:  # no network, a wrong key, a server's fault
                cause = type(error).__name__
                print(f"warning: W&B is out of reach ({cause}); saving locally", flush=True)
                self.mode = "offline"
                wandb.teardown()  # its service holds the run's id as in use
        return init("offline")
