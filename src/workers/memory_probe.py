"""Tries a run before its launch: a few real steps on its longest rows, then an evaluation of the
longest, in a process of its own that may run out of memory.

`python -m src.workers.memory_probe` reads {"config": {...}, "adapters": 1} from standard input and
prints what it found as one JSON document, a `Measurement` of src/runs/estimate.py. With more
adapters than one, that many are trained at once by the packed engine.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from src.config import RunConfig, parse_config, with_overrides
from src.format import GIB
from src.runs.environment import leave
from src.runs.machine import free_memory
from src.training.data_loaders import Splits, splits_of
from src.training.utils import loading

if TYPE_CHECKING:
    import pyarrow as pa

STEPS = 3


class StepTimer:
    """A reporter that notes when what was done."""

    def __init__(self) -> None:
        self.begun_training: list[float] = []
        self.trained: dict[int, float] = {}  # {step: its end}
        self.scored: dict[int, float] = {}
        self.told: dict[str, Any] = {}

    def phase(self, text: str, *, scoring: bool = False) -> None:
        if text == "training":
            self.begun_training.append(time.perf_counter())

    def used(self, values: Mapping[str, Any]) -> None:
        self.told.update(values)

    def stop_requested(self) -> bool:
        return False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "train/loss" in values:
            self.trained[step] = time.perf_counter()
        # Not at `evaluation`, which comes from another thread, later.
        if "val/loss" in values:
            self.scored.setdefault(step, time.perf_counter())

    def evaluation(self, step: int, split: str, predictions: "pa.Table") -> None: ...
    def checkpoint(self, step: int, path: Path, is_best: bool) -> None: ...
    def checkpoint_removed(self, step: int) -> None: ...
    def warning(self, step: int, text: str) -> None: ...


def shorten(config: RunConfig, folder: Path, splits: Splits) -> RunConfig:
    """`config` for 2 x STEPS steps on its longest rows, which are written into `folder`. The first
    half warms up; the second is measured."""
    kept = {"train": config.rows_per_step, "validation": config.evaluation.batch_size, "test": 1}
    for split, count in kept.items():
        frame = splits[split]
        lengths = (frame["question"].str.len() + frame["answer"].str.len()).sort_values()
        longest = frame.loc[lengths.index[-count:], ["question", "answer"]]
        longest.to_json(folder / f"{split}.jsonl", orient="records", lines=True)
    changes: dict[str, Any] = {
        "data.path": str(folder),
        "data.hub_id": None,
        "data.mix": None,
        "training.max_steps": 2 * STEPS,
        "training.logging_steps": 1,
        "scheduler.warmup_steps": 0,
        "evaluation.eval_steps": STEPS,
        "evaluation.max_rows": None,
        "evaluation.suites": [],
        "checkpointing.save_steps": 2 * STEPS,
        "early_stopping.metric": "val/loss",
        "early_stopping.min_delta": 1e9,  # no better one that would be saved between the steps
        "early_stopping.patience": None,
        "early_stopping.target": None,
        "early_stopping.plateau_evaluations": None,
        "early_stopping.divergence_factor": None,
        "early_stopping.criteria": [],
        "supervision.self_heal": False,
    }
    return with_overrides(config.model_dump(), changes)


def probe(config: RunConfig, adapters: int) -> dict[str, Any]:
    """Memory and step times of `adapters` runs of this config at once."""
    started = time.perf_counter()
    room = _limit_memory()
    splits = splits_of(config)
    timers = [StepTimer() for _ in range(adapters)]
    found: dict[str, Any] = {
        "fits": False,
        "engine": None,
        "rows": {split: len(splits[split]) for split in ("validation", "test")},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = shorten(config, folder, splits)
        try:
            _train(short, timers, folder)
            timer, last = timers[0], 2 * STEPS
            warm = next(at for at in timer.begun_training if at >= timer.scored[STEPS])
            found |= {
                "fits": True,
                # With one evaluation of one batch.
                "start_seconds": timer.begun_training[0] - started,
                "step_seconds": (timer.trained[last] - warm) / STEPS,
                "evaluation_seconds": timer.scored[last] - timer.trained[last],  # of one batch
            }
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    found["engine"] = timers[0].told.get("engine")
    return found | _memory(room)


def _train(config: RunConfig, timers: list[StepTimer], folder: Path) -> None:
    with loading():
        from src.training.packed import engine
        from src.training.packed.run import RunSpec
        from src.training.train import load_libraries, train

        if len(timers) == 1:
            choice = load_libraries(config)
    if len(timers) == 1:
        train(
            config,
            timers[0],
            output_dir=folder / "out",
            checkpoints_dir=folder / "steps",
            engine=choice,
        )
        return
    specs = [
        RunSpec(config, timer, folder / f"out-{i}", folder / f"steps-{i}")
        for i, timer in enumerate(timers)
    ]
    for _, outcome in engine.train_pack(specs, slots=len(specs)):
        if isinstance(outcome, Exception):
            raise outcome
    if timers[0].told["slots"] < len(specs):
        raise MemoryError("out of memory for so many at once")


def is_out_of_memory(error: BaseException) -> bool:
    import torch

    texts = ("can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in texts
    )


def _limit_memory() -> int:
    """The bytes of memory that are free for a run now: the GPU's, or on a machine without one those
    of the machine, and then this process is kept within them, so that it fails where a run would
    drive the machine to swap or kill."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    free = free_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = min([free, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    return bound


def _memory(room: int) -> dict[str, float]:
    """GiB that were taken at most, and that there are."""
    import torch

    if torch.cuda.is_available():
        taken = torch.cuda.max_memory_reserved()
    else:
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_gib": taken / GIB, "room_gib": room / GIB}


def main() -> NoReturn:
    asked = json.load(sys.stdin)
    # Libraries print on standard output, which is for the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        found = probe(parse_config(asked["config"]), asked["adapters"])
    except (ValueError, OSError) as error:
        found = {"error": str(error)}
    json.dump(found, answer)
    answer.flush()
    leave(0)


if __name__ == "__main__":
    main()
