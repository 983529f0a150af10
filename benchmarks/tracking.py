"""Measure the cost of each tracker: `python -m benchmarks.tracking`, a minute, no GPU, no network.

Logs points without a training and prints two costs of each: the call in the training thread, and
the total processor time of the process and its children.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from src.config import load_config
from src.workers.trackers import start_tracker
from src.workers.trackers.base import End, close

POINTS = 500
EVERY_SECONDS = 0.005
WAYS = {
    "off": {"mode": "off"},
    "W&B offline": {"mode": "offline"},
    "Trackio": {"mode": "offline", "tracker": "trackio"},
    "TensorBoard": {"mode": "off", "tensorboard": True},
}
VALUES = {"train/loss": 1.5, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_second": 9800.0}


def processor_seconds() -> float:
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


def main(way: str) -> None:
    config = load_config(overrides={f"tracking.{k}": v for k, v in WAYS[way].items()})
    tracker = start_tracker(config, "run", Path(os.environ["SPELLTUNE_HOME"]))
    tracker.log(0, VALUES)
    time.sleep(6)  # imports and init, which go on beside the loading of the model
    before, calls = processor_seconds(), []
    for step in range(1, POINTS + 1):
        began = time.perf_counter()
        tracker.log(step, VALUES)
        calls.append(time.perf_counter() - began)
        time.sleep(EVERY_SECONDS)
    time.sleep(1)
    took = processor_seconds() - before
    median, worst = statistics.median(calls) * 1e6, max(calls) * 1e6
    print(f"| {way} | {median:.1f} | {worst:.0f} | {took / POINTS * 1e3:.2f} |", flush=True)
    tracker.end(End())
    sys.stdout = sys.stderr
    close([tracker])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        print("| tracker | a call, us, median | slowest | all processor time a point, ms |")
        print("|---|---|---|---|", flush=True)
        for way in WAYS:
            # A process and a home for each: what one imports must not warm the next.
            with tempfile.TemporaryDirectory() as home:
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.tracking", way],
                    env=os.environ | {"SPELLTUNE_HOME": home}, stderr=subprocess.DEVNULL,
                )  # fmt: skip
