"""Trackers beside the run table: Weights & Biases or Trackio, and TensorBoard event files.

None can block, slow or fail a run: each has a thread of its own, the training only puts points in a
queue, and what a tracker raises or never answers is told in the run's log and otherwise left alone.
"""

import importlib.util
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from src import paths
from src.config import RunConfig, TrackingConfig

# wandb waits 90 s by default where a key exists and no network.
INIT_SECONDS = 10
LOG_SECONDS = 10
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
    try:
        netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
        return b"wandb" in netrc.read_bytes()
    except (OSError, RuntimeError):  # no such file, or nobody knows where home is
        return False


def tracking_problems(asked: TrackingConfig) -> dict[str, str]:
    """A sentence for each tracker that was asked for and is not installed: {setting: sentence}."""
    wanted = {"tracking.tensorboard": "tensorboard"} if asked.tensorboard else {}
    if asked.tracker == "trackio" and resolve_mode(asked.mode) != "off":
        wanted["tracking.tracker"] = "trackio"
    return {
        setting: f"{package} is not installed here: `pip install {package}`, or do without it"
        for setting, package in wanted.items()
        if importlib.util.find_spec(package) is None
    }


# --- what all trackers share ----------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """What a tracker is told last."""

    summary: Mapping[str, Any] = field(default_factory=dict)  # by name: status, best_step, scores
    best_step: int | None = None  # of the adapter that was kept; None where there is none


class Sink(Protocol):
    """Where a tracker's thread sends what it takes from the queue. Any method may block or
    raise."""

    name: str

    def start(self) -> None:
        """Begin. Imports its library here, so that nothing else waits for it."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self, end: End) -> str:
        """End, and say in one line where the points are."""


class Tracker:
    """Everything that a run sends elsewhere. No method waits. `say` takes a line for its log."""

    def __init__(
        self, config: RunConfig, run_id: str, output_dir: Path, say: Callable[[str], None] = print
    ):
        self.channels = [_Channel(sink, say) for sink in sinks(config, run_id, output_dir, say)]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._put((step, dict(values)))

    def end(self, end: End) -> None:
        """Nothing is logged after this."""
        self._put(end)

    def _put(self, item: tuple[int, dict[str, float]] | End) -> None:
        for channel in self.channels:
            channel.points.put(item)


def close(trackers: Iterable[Tracker]) -> None:
    """Wait a little for what is left in trackers that have ended; then leave it behind. All of this
    process together: it ends what they share."""
    latest = time.monotonic() + CLOSE_SECONDS

    def left() -> float:
        return max(0.0, latest - time.monotonic())

    for channel in (channel for tracker in trackers for channel in tracker.channels):
        channel.thread.join(timeout=left())
        if channel.thread.is_alive():
            name = channel.sink.name
            channel.say(f"warning: {name} did not answer; its last points stay in the run table")
    if "wandb" in sys.modules:
        # Its service writes the last block of its files only after it has said that a run is
        # finished, and it is killed with this process.
        with suppress(Exception):
            within(left(), sys.modules["wandb"].teardown)


class _Channel:
    """One sink, its queue and its thread."""

    def __init__(self, sink: Sink, say: Callable[[str], None]):
        self.sink, self.say = sink, say
        self.points: queue.SimpleQueue[tuple[int, dict[str, float]] | End] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._send, name=sink.name, daemon=True)
        self.thread.start()

    def _send(self) -> None:
        try:
            self.sink.start()
            while not isinstance(item := self.points.get(), End):
                self.sink.log(*item)
            self.say(self.sink.finish(item))
        except Exception as error:  # a tracker's failure of any kind must not end the run
            self.say(f"warning: {self.sink.name} gave up: {type(error).__name__}: {error}")


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


def artifacts(config: RunConfig, run_id: str, end: End) -> dict[str, Path]:
    """The kept adapter and a table of the words that it got wrong by their kind, where they are
    wanted; on the test split once that was scored."""
    if not config.tracking.artifacts or end.best_step is None:
        return {}
    from src.analysis import exports, misspellings

    found = {"adapter": paths.output_dir(run_id) / "final"}
    for split in ("-test", ""):
        file = paths.predictions_dir(run_id) / f"step-{end.best_step}{split}.parquet"
        if file.exists():
            frame = misspellings.read(file)
            found["errors"] = paths.output_dir(run_id) / "errors.csv"
            found["errors"].write_bytes(exports.to_csv(frame[~frame["correct"]]))
            break
    return found


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns; TimeoutError where it takes longer, and it is left to itself."""
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put((call(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return value


# --- trackers -------------------------------------------------------------------------------------


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
