"""Trackers beside the run table: Weights & Biases or Trackio, and TensorBoard event files.

None can block, slow or fail a run: each has a thread of its own, the training only puts points in a
queue, and what a tracker raises or never answers is told in the run's log and otherwise left alone.
"""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from src import paths
from src.config import RunConfig
from src.training import checkpointing

CLOSE_SECONDS = 20


@dataclass(frozen=True)
class End:
    """The end of a run as a tracker is told it."""

    summary: Mapping[str, Any] = field(default_factory=dict)  # by name: status, best_step, scores
    best_step: int | None = None  # of the adapter that was kept; None where there is none


class Sink(Protocol):
    """Where a tracker's thread sends what it takes from the queue. Any method may block or
    raise."""

    name: str

    def start(self) -> None:
        """Begin, after the first step. Imports its library here: nothing else waits for it."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self, end: End) -> str:
        """End, and say in one line where the points are."""


class Tracker:
    """Sends a run's points to its sinks. No method waits. `say` writes a line to the run's log."""

    def __init__(self, sinks: Iterable[Sink], say: Callable[[str], None]):
        self.channels = [_Channel(sink, say) for sink in sinks]

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
        # Not before the first step: loading its library would hold up those that the training loads
        # meanwhile, and the evaluation at step 0.
        held: list[tuple[int, dict[str, float]]] = []
        while not isinstance(item := self.points.get(), End) and item[0] == 0:
            held.append(item)
        try:
            self.sink.start()
            for point in held:
                self.sink.log(*point)
            while not isinstance(item, End):
                self.sink.log(*item)
                item = self.points.get()
            self.say(self.sink.finish(item))
        except Exception as error:  # a tracker's failure of any kind must not end the run
            self.say(f"warning: {self.sink.name} gave up: {type(error).__name__}: {error}")


def artifacts(config: RunConfig, run_id: str, end: End) -> dict[str, Path]:
    """The kept adapter and a table of the words that it got wrong by their kind, where they are
    wanted; on the test split once that was scored."""
    if not config.tracking.artifacts or end.best_step is None:
        return {}
    from src.analysis import exports, misspellings

    adapter = paths.output_dir(run_id) / "final"
    found = {"adapter": adapter} if checkpointing.is_verified_adapter(adapter) else {}
    for split in ("test", "validation"):
        file = paths.predictions_file(run_id, end.best_step, split)
        if file.exists():
            frame = misspellings.read(file)
            found["errors"] = paths.output_dir(run_id) / "errors.csv"
            found["errors"].write_bytes(exports.to_csv(frame[~frame["correct"]]))
            break
    return found


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of `call`; TimeoutError if it takes longer, and the call is left to itself."""
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
