"""Compare the packed engine with TRL, with random weights and without a network.

`python -m benchmarks.packed --out FOLDER --shape gpt2 --phases check,peak,packed,baselines`
writes FOLDER/SHAPE.json and SHAPE.md, and again after each measurement, so that nothing measured is
lost; the profiles are written next to them. `--tiny` uses a model that a CPU trains in seconds.
Each phase ends after `--seconds`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.packed.baselines import PEFT_STEPS, baseline, phase_baselines, phase_processes
from benchmarks.packed.decode import phase_decode
from benchmarks.packed.engines import engine_run, phase_engines, phase_seeds, seed_run
from benchmarks.packed.models import ROW_KINDS, SHAPES
from benchmarks.packed.results import STARTED, Results
from benchmarks.packed.steps import phase_check, phase_packed, phase_peak
from benchmarks.packed.sweep import phase_solo, phase_sweep, solo_run, sweep_run

PHASES: dict[str, Callable[[Results, argparse.Namespace], None]] = {
    "check": phase_check,
    "peak": phase_peak,
    "packed": phase_packed,
    "baselines": phase_baselines,
    "processes": phase_processes,
    "decode": phase_decode,
    "sweep": phase_sweep,
    "solo": phase_solo,
    "engines": phase_engines,
    "seeds": phase_seeds,
}


def phases(names: str) -> Iterator[tuple[str, Callable[[Results, argparse.Namespace], None]]]:
    for name in names.split(","):
        yield name, PHASES[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--tiny", action="store_true", help="the tiny model of the shape")
    parser.add_argument("--phases", default="check,peak,packed", help=", ".join(PHASES))
    parser.add_argument("--variants", help="of the packed engine; those of the table without it")
    parser.add_argument("--seconds", type=float, default=240, help="a baseline process may take")
    parser.add_argument("--seconds-each", type=float, default=3, help="of timing a variant")
    parser.add_argument("--baseline", nargs=2, metavar=("BACKEND", "SETTING"))
    parser.add_argument("--backends", default="peft,unsloth", help="of the baselines")
    parser.add_argument("--rows", choices=ROW_KINDS, default="uniform", help="of the baselines")
    parser.add_argument("--steps", type=int, default=PEFT_STEPS, help="of a baseline")
    parser.add_argument("--base", type=Path, help="folder that a child process reads")
    parser.add_argument("--repeats", type=int, default=3, help="of each way in phase engines")
    parser.add_argument("--engine-run", choices=("trl", "packed"), help="be that process")
    parser.add_argument("--adapters", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=4, help="of each engine in phase seeds")
    parser.add_argument("--seed-steps", type=int, default=600, help="of each of them")
    parser.add_argument("--seed-run", choices=("trl", "packed"), help="be that process")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--sweep-steps", type=int, default=500)
    parser.add_argument("--solos", type=int, default=3, help="trials to measure alone")
    parser.add_argument("--solo-engine", choices=("trl", "packed"), default="trl")
    parser.add_argument("--at-once", type=int, default=1, help="trials beside each other")
    parser.add_argument("--first-solo", type=int, default=0)
    parser.add_argument("--sweep-run", action="store_true", help="be the sweep's process")
    parser.add_argument("--solo-run", type=int, help="be the process of this trial")
    options = parser.parse_args()
    if options.tiny:
        options.shape = "tiny-qwen" if options.shape == "qwen" else "tiny"
    if options.baseline:
        baseline(
            *options.baseline, options.shape, str(options.base), options.out, options.steps,
            options.at_once, options.rows,
        )  # fmt: skip
        return 0
    if options.sweep_run:
        sweep_run(options)
        return 0
    if options.engine_run:
        engine_run(options)
        return 0
    if options.seed_run:
        seed_run(options)
        return 0
    if options.solo_run is not None:
        solo_run(options)
        return 0
    results = Results(options.out, options.shape)
    for name, phase in phases(options.phases):
        print(f"== {name} at {time.time() - STARTED:.0f} s", flush=True)
        phase(results, options)
    print((options.out / f"{options.shape}.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
