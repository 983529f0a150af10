"""A training of a step or two before there is a run, whose kernels are compiled and loaded by then

A process compiles its kernels at their first use, for 10 s and more on a machine that has none of
them, and loads them and those of the libraries. A standby trainer has the time for it. The rows of
its data and the scores of the base stay on the disk besides.
"""

import gc
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from src.config import RunConfig
from src.models import preloaded
from src.training.packed.eligibility import files_of
from src.training.packed.engine import train_one
from src.training.packed.run import RunSpec

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 512  # of the validation set that are scored, at most
NOWHERE = Path(os.devnull)  # no file is written


def rehearse(config: RunConfig, cache_dir: Path | None, stop: Callable[[], bool]) -> None:
    """Train the first steps of a run like this, and leave nothing but what is kept in `cache_dir`
    and what this process has loaded. The base that is preloaded stays so. Ends early once `stop`
    returns True. What goes wrong is printed: the run that comes tells of it itself.

    Only with what is on this machine: a download waits for its run.
    """
    if config.data.hub_id or not files_of(config).is_here:
        return
    asked = config.evaluation
    rows = {"max_rows": min(asked.max_rows or ROWS, ROWS), "suites": []}
    config = config.model_copy(update={"evaluation": asked.model_copy(update=rows)})
    spec = RunSpec(config, _FirstSteps(stop), NOWHERE, NOWHERE, None, cache_dir)
    problem = ""
    with _process_as_before(), preloaded.restored():
        try:
            train_one(spec)
        except _Over:
            pass
        except Exception:
            problem = traceback.format_exc()  # the error itself would keep the GPU's memory
    if problem:
        print(problem, file=sys.stderr)


class _Over(Exception):
    """Ends a rehearsal: a run that is stopped would write a checkpoint."""


class _FirstSteps:
    """A Reporter that keeps nothing and ends the training at the first logged step."""

    def __init__(self, stop: Callable[[], bool]):
        self._stop = stop

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "train/loss" in values:
            raise _Over

    def phase(self, text: str, *, scoring: bool = False) -> None:
        if self._stop():
            raise _Over

    def stop_requested(self) -> bool:
        return False

    def evaluation(self, step: int, split: str, predictions: "pa.Table") -> None: ...

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None: ...

    def checkpoint_removed(self, step: int) -> None: ...

    def used(self, values: Mapping[str, Any]) -> None: ...

    def warning(self, step: int, text: str) -> None: ...


@contextmanager
def _process_as_before() -> Iterator[None]:
    """Leave random numbers, threads and GPU memory after the block as they were before it."""
    states = random.getstate(), np.random.get_state()
    threads, switching = torch.get_num_threads(), sys.getswitchinterval()
    on_gpu = torch.cuda.is_available()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_num_threads(threads)
        sys.setswitchinterval(round(switching, 6))  # Python cuts it to whole microseconds
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
