"""Measure false positives and power of verdicts: `python -m benchmarks.verdicts`.

Simulated pairs of configs are judged as the panel judges real ones. `--home DIR` judges real runs:
24 seeds of one config, trained in DIR where they are missing (about a minute each on two CPU
cores), are split at random into four against four; whoever wins there wins by chance.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from src import store
from src.analysis import comparison, verdicts
from src.analysis.verdicts import ALPHA
from src.config import load_config
from src.runs import launcher
from src.store.tables import Status

PAIRS = 2_000
SEEDS = (3, 4, 5, 6, 8)
RUNS, A_SIDE = 24, 4
SHORT = {"training.max_steps": 200, "evaluation.eval_steps": 200, "checkpointing.save_steps": 200,
         "engine": "packed", "backend": "peft", "tracking.mode": "off",
         "name": "calibration"}  # fmt: skip


# --- simulated ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """How words and seeds differ. A word is answered right where its ease, the seed's skill, and
    what this seed happens to make of this word add up to more than zero."""

    what: str
    exact_match: float
    seed_sd: float  # of the exact match, beside what differing words bring about
    questions: int = 1_384
    per_word: int = 1  # questions about one word, which share its ease
    luck: float = 0.5  # SD of what a seed makes of a word, where words' ease has 1
    taste: float = 0.0  # SD of what a config makes of a word: equal on average, unlike on words


WORLDS = (
    World("60% right, seeds differ by 1 point", 0.6, 0.01),
    World("60% right, seeds differ only by their luck with words", 0.6, 0.0),
    World("30% right, seeds differ by 3 points", 0.3, 0.03),
    World("96% right, seeds differ by 0.5 points", 0.96, 0.005),
    World("60% right, 400 questions", 0.6, 0.01, questions=400),
    World("60% right, three questions a word", 0.6, 0.01, per_word=3),
    World("60% right, configs equal on average but not on each word", 0.6, 0.01, taste=0.35),
)


def pair(
    world: World, seeds: int, rng: np.random.Generator, *, better: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct answers of two configs, (seeds, questions) each, and the words asked.

    The second one's expected exact match is higher by `better`.
    """
    words = np.arange(world.questions) // world.per_word
    share = world.exact_match
    spread = np.sqrt(1 + world.luck**2 + world.taste**2)
    slope = np.exp(-(ndtri(share) ** 2) / 2) / np.sqrt(2 * np.pi) / spread
    ease = rng.normal(0, 1, words[-1] + 1)[words]
    sides = []
    for target in (share, share + better):
        known = ease + rng.normal(0, world.taste, words[-1] + 1)[words]
        skill = ndtri(target) * spread + rng.normal(0, world.seed_sd / slope, (seeds, 1))
        luck = rng.normal(0, world.luck, (seeds, world.questions))
        sides.append(known + skill + luck > 0)
    return sides[0], sides[1], words


def rates(world: World, seeds: int, *, better: float = 0.0) -> dict[str, float]:
    """Share of PAIRS pairs with a winner, by test."""
    rng = np.random.default_rng([seeds, WORLDS.index(world), int(better * 1000)])
    found = []
    for _ in range(PAIRS):
        a, b, words = pair(world, seeds, rng, better=better)
        estimate = verdicts.two_level(a, b, words)
        low, high = seeds_bootstrap(a.mean(axis=1), b.mean(axis=1), rng)
        found.append(
            (
                estimate.p_value() <= ALPHA,
                verdicts.mcnemar(a[0], b[0], words) <= ALPHA,
                not low <= 0 <= high,
            )
        )
    return dict(zip(("two-level", "McNemar", "bootstrap"), np.mean(found, axis=0), strict=True))


def seeds_bootstrap(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, draws: int = 400
) -> tuple[float, float]:
    """The 95% percentile interval of the difference of means when only seeds are resampled."""
    means = [s[rng.integers(0, len(s), (draws, len(s)))].mean(axis=1) for s in (a, b)]
    low, high = np.quantile(means[1] - means[0], [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def simulated() -> None:
    print(f"Winners among {PAIRS:,} pairs of equal configs, in percent; at most {ALPHA:.0%} should "
          "have one.\n")  # fmt: skip
    print("| simulated world | " + " | ".join(f"{k} seeds" for k in SEEDS)
          + " | bootstrap over 3 seeds | McNemar, 1 seed |")  # fmt: skip
    print("|---" * (len(SEEDS) + 3) + "|")
    for world in WORLDS:
        found = [rates(world, k) for k in SEEDS]
        cells = [f"{f['two-level']:.1%}" for f in found]
        cells += [f"{found[0]['bootstrap']:.1%}", f"{found[0]['McNemar']:.1%}"]
        print(f"| {world.what} | " + " | ".join(cells) + " |", flush=True)
    print("\nPower: winners among as many pairs whose second config is 2 points better.\n")
    print("| simulated world | " + " | ".join(f"{k} seeds" for k in SEEDS) + " |")
    print("|---" * (len(SEEDS) + 1) + "|")
    for world in WORLDS:
        cells = [f"{rates(world, k, better=0.02)['two-level']:.0%}" for k in SEEDS]
        print(f"| {world.what} | " + " | ".join(cells) + " |", flush=True)


# --- real -----------------------------------------------------------------------------------------


def train(count: int = RUNS) -> None:
    """Launch the seeds that are missing, and wait for all."""
    with store.reading() as session:
        there = {run.config["training"]["seed"] for run in store.list_runs(session)}
    for seed in sorted(set(range(count)) - there):
        launcher.launch(load_config(preset="tiny-spell", overrides=SHORT | {"training.seed": seed}))
    while True:
        with store.reading() as session:
            if all(Status(run.status).ended for run in store.list_runs(session)):
                return
        time.sleep(2)


def real() -> None:
    with store.reading() as session:
        (config,) = comparison.grouped(store.list_runs(session))
        scored = store.final_evaluations(session, config.seeds)
        latest = store.latest_metrics(session, [run.id for run in config.seeds])
    found = [
        verdicts.answers(store.predictions(scored[run.id, "test"]), name=run.id, split="test")
        for run in config.seeds
    ]
    loss = np.array([latest[run.id]["val/loss"] for run in config.seeds])
    share = np.array([a.exact_match for a in found])
    print(f"\n{len(found)} seeds of one config: exact match {share.mean():.3f} on average, SD "
          f"{share.std(ddof=1):.4f}, {share.min():.3f} to {share.max():.3f}; "
          f"{len(found[0].correct):,} test questions.\n")  # fmt: skip
    wins = np.zeros(2)
    gaps = []
    rng = np.random.default_rng(0)
    for _ in range(PAIRS):
        drawn = rng.permutation(len(found))[: 2 * A_SIDE]
        a, b = drawn[:A_SIDE], drawn[A_SIDE:]
        verdict = verdicts.judge_configs(
            [found[i] for i in a], [found[i] for i in b], names=("a", "b")
        )
        wins += [(verdict.p_value or 0) <= ALPHA, loss[a].mean() != loss[b].mean()]
        gaps.append(abs(share[a].mean() - share[b].mean()))
    single = [verdicts.mcnemar(a.correct, b.correct, a.words) <= ALPHA
              for a, b in combinations(found, 2)]  # fmt: skip
    print(f"| of {PAIRS:,} random splits, {A_SIDE} against {A_SIDE} | has a winner |\n|---|---|")
    print(f"| two-level test | {wins[0] / PAIRS:.1%} |")
    print(f"| lowest mean validation loss wins | {wins[1] / PAIRS:.1%} |")
    print(f"| McNemar between two of the runs, all {len(single)} pairs | {np.mean(single):.1%} |")
    print(f"\nThe sides differ by {np.mean(gaps) * 100:.2f} points on average, at most by "
          f"{np.max(gaps) * 100:.2f}.")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="train and judge real runs here, and only those")
    home = parser.parse_args(arguments).home
    if home is None:
        return simulated()
    os.environ["SPELLTUNE_HOME"] = str(home)
    train()
    real()


if __name__ == "__main__":
    main()
