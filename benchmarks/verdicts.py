"""Measure how often verdicts are wrong, late or too sure: `python -m benchmarks.verdicts`.

Simulated pairs of configs are judged as the panel judges real ones: at a first look, after the
seeds that the verdict advises, and after each single seed; and four configs, each with each.
Prints the tables of docs/results.md. `--home DIR` judges real runs: 24 seeds of one config,
trained in DIR where they are missing (about a minute each on two CPU cores), are split at random
into four against four; whoever wins there wins by chance.
"""

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from src import store
from src.analysis import comparison, verdicts
from src.analysis.estimates import ALPHA, Estimate, more_seeds, share, two_level
from src.config import load_config
from src.models.intervals import paired_interval
from src.runs import launcher
from src.store.tables import Status

PAIRS = 1_200  # of equal configs: at 5% a standard error of 0.63 points
FIRST, LAST = 3, 10  # seeds on each side: at the first look, and where one a time ends
FAMILY = 4  # configs that are compared each with each
ROUNDS = 5  # times that the advice is followed
BETTER = (0.0, 0.01, 0.02, 0.03, 0.05)  # true differences
RUNS, A_SIDE, SPLITS = 24, 4, 2_000
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
    unequal: float = 1.0  # the second config's seed_sd, in those of the first
    start: tuple[int, int] = (FIRST, FIRST)  # seeds at the first look


WORLDS = (
    World("60% right, seeds differ by 1 point", 0.6, 0.01),
    World("60% right, seeds differ only by their luck with words", 0.6, 0.0),
    World("30% right, seeds differ by 3 points", 0.3, 0.03),
    World("60% right, seeds differ by 1 and by 3 points", 0.6, 0.01, unequal=3),
    World("60% right, seeds differ by 1 point, 3 against 8 seeds", 0.6, 0.01, start=(3, 8)),
    World("60% right, by 1 and by 3 points, 8 against 3", 0.6, 0.01, unequal=3, start=(8, 3)),
    World("60% right, configs equal on average but not on each word", 0.6, 0.01, taste=0.35),
    World("60% right, three questions a word", 0.6, 0.01, per_word=3),
    World("97% right, seeds differ by 0.5 points", 0.97, 0.005),
    World("60% right, seeds differ by 1 point, 50 questions", 0.6, 0.01, questions=50),
    World("97% right, seeds differ by 0.5 points, 50 questions", 0.97, 0.005, questions=50),
)


# Equal spreads, unequal ones, and words that configs find unlike.
FAMILY_WORLDS = (WORLDS[0], WORLDS[3], WORLDS[6])


class Configs:
    """Configs in a world; the expected exact match of the last one is higher by `better`."""

    def __init__(
        self, world: World, rng: np.random.Generator, *, count: int = 2, better: float = 0.0
    ) -> None:
        self.world, self.rng = world, rng
        self.words = np.arange(world.questions) // world.per_word
        words = self.words[-1] + 1
        self.spread = float(np.sqrt(1 + world.luck**2 + world.taste**2))
        ease = rng.normal(0, 1, words)
        self.known = [(ease + rng.normal(0, world.taste, words))[self.words] for _ in range(count)]
        self.targets = [world.exact_match] * (count - 1) + [world.exact_match + better]
        self.answers = [np.zeros((0, world.questions), dtype=bool) for _ in range(count)]

    def train(self, config: int, seeds: int) -> None:
        """Add so many seeds to a config."""
        world, normal = self.world, ndtri(self.targets[config])
        slope = np.exp(-(normal**2) / 2) / np.sqrt(2 * np.pi) / self.spread
        sd = world.seed_sd / slope * (world.unequal if config % 2 else 1)
        skill = normal * self.spread + self.rng.normal(0, sd, (seeds, 1))
        luck = self.rng.normal(0, world.luck, (seeds, world.questions))
        right = self.known[config] + skill + luck > 0
        self.answers[config] = np.vstack([self.answers[config], right])

    def judge(self, seeds: Sequence[int], pair: tuple[int, int] = (0, 1)) -> Estimate:
        """The estimate of two configs from the first seeds of each; missing ones are trained."""
        for config in pair:
            self.train(config, max(seeds[config] - len(self.answers[config]), 0))
        a, b = (self.answers[config][: seeds[config]] for config in pair)
        return two_level(a, b, self.words)


def has_winner(found: Estimate, look: int) -> bool:
    return found.p_value() / share(look) <= ALPHA


def one_at_a_time(a: int, b: int) -> Iterator[tuple[int, int]]:
    """The seeds at each look of a person who adds one where fewer are, until both have LAST."""
    while True:
        yield a, b
        if a == b == LAST:
            return
        a, b = (a + 1, b) if a <= b and a < LAST else (a, b + 1)


def rates(world: World, pairs: int, *, better: float = 0.0) -> dict[str, float]:
    """Shares of simulated pairs, by what the person at the panel does."""
    rng = np.random.default_rng([WORLDS.index(world), int(better * 1000)])
    first, followed, stepwise, peeking, advised, decided = np.zeros((6, pairs), dtype=bool)
    for i in range(pairs):
        both = Configs(world, rng, better=better)
        a, b = world.start
        found = both.judge((a, b))
        first[i] = followed[i] = has_winner(found, 1)
        for look in range(2, ROUNDS + 2):
            more = None if followed[i] else more_seeds(found, look=look)
            if more is None:
                break
            a, b = a + more, b + more
            found = both.judge((a, b))
            followed[i] = has_winner(found, look)
            if look == 2:
                advised[i], decided[i] = True, followed[i]
        if not better:
            looks = [both.judge(seeds) for seeds in one_at_a_time(*world.start)]
            stepwise[i] = any(has_winner(found, look) for look, found in enumerate(looks, 1))
            peeking[i] = any(found.p_value() <= ALPHA for found in looks)
    return {
        "first": first.mean(),
        "followed": followed.mean(),
        "stepwise": stepwise.mean(),
        "peeking": peeking.mean(),
        "advised": advised.sum(),
        "decided": decided.sum(),
    }


def family_rates(world: World, families: int) -> dict[str, float]:
    """Shares of families of equal configs in which any pair gets a winner, corrected by Holm."""
    rng = np.random.default_rng([WORLDS.index(world), FAMILY])
    pairs = list(combinations(range(FAMILY), 2))
    first, followed, stepwise = np.zeros((3, families), dtype=bool)
    for i in range(families):
        all_ = Configs(world, rng, count=FAMILY)
        seeds, looks = [FIRST] * FAMILY, dict.fromkeys(pairs, 1)
        for turn in range(ROUNDS + 1):
            found = {pair: all_.judge(seeds, pair) for pair in pairs}
            followed[i] = _any_winner(found, looks)
            first[i] = followed[i] if turn == 0 else first[i]
            advice = {
                pair: more
                for pair in pairs
                if (more := more_seeds(found[pair], look=looks[pair] + 1, pairs=len(pairs)))
            }
            if followed[i] or not advice:
                break
            chosen = min(advice, key=advice.__getitem__)  # the first button of the page
            for config in chosen:
                seeds[config] += advice[chosen]
            looks = {pair: looks[pair] + bool({*pair} & {*chosen}) for pair in pairs}
        stepwise[i] = any(
            _any_winner({pair: all_.judge([count] * FAMILY, pair) for pair in pairs},
                        dict.fromkeys(pairs, look))
            for look, count in enumerate(range(FIRST, LAST + 1), 1)
        )  # fmt: skip
    return {"first": first.mean(), "followed": followed.mean(), "stepwise": stepwise.mean()}


def _any_winner(
    found: Mapping[tuple[int, int], Estimate], looks: Mapping[tuple[int, int], int]
) -> bool:
    p_values = [min(1.0, one.p_value() / share(looks[pair])) for pair, one in found.items()]
    return min(verdicts.holm(p_values)) <= ALPHA


def coverage(world: World, pairs: int, *, better: float = 0.0) -> tuple[float, float]:
    """Shares of pairs of adapters whose interval holds the true difference: that of verdicts, and
    the percentile bootstrap over words."""
    rng = np.random.default_rng([WORLDS.index(world), int(better * 1000), 1])
    held = np.zeros((pairs, 2), dtype=bool)
    adapters = replace(world, seed_sd=0.0)  # their skill is what it is: no seed is drawn
    for i in range(pairs):
        both = Configs(adapters, rng, better=better)
        for config in (0, 1):
            both.train(config, 1)
        a, b = both.answers[0][0], both.answers[1][0]
        for column, interval in enumerate((paired_interval, words_bootstrap)):
            low, high = interval(a, b, both.words)
            held[i, column] = low <= better <= high
    own, bootstrap = held.mean(axis=0)
    return float(own), float(bootstrap)


def words_bootstrap(a: np.ndarray, b: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of b's share of right answers less a's, words resampled."""
    change = np.bincount(words, weights=b.astype(float) - a)
    kinds, counts = np.unique(change, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(change), counts / len(change), 1_000)
    low, high = np.quantile(drawn @ kinds / len(words), [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def simulated(pairs: int) -> None:
    print(f"Winners among {pairs:,} pairs of equal configs, in percent; at most {ALPHA:.0%} should "
          "have one.\n")  # fmt: skip
    print("| simulated world | first look | advice followed | one seed at a time to "
          f"{LAST} | the same, not corrected |")  # fmt: skip
    print("|---" * 5 + "|")
    for world in WORLDS:
        found = rates(world, pairs)
        shown = [found[name] for name in ("first", "followed", "stepwise", "peeking")]
        print(f"| {world.what} | " + " | ".join(f"{v:.1%}" for v in shown) + " |", flush=True)
    print(f"\n{FAMILY} equal configs, all pairs corrected by Holm: families with any winner.\n")
    print(
        f"| simulated world | first look | advice followed | one seed of each at a time to {LAST} |"
    )
    print("|---" * 4 + "|")
    for world in FAMILY_WORLDS:
        shown = [*family_rates(world, pairs // 2).values()]
        print(f"| {world.what} | " + " | ".join(f"{v:.1%}" for v in shown) + " |", flush=True)
    fewer = pairs // 4
    print(
        f"\nUnequal configs, {fewer:,} pairs each: those with a winner at the first look, then "
        'of those that "N more seeds" are advised the share that has one after them.\n'
    )
    heads = [f"{points:.0f} point{'s' * (points > 1)} better"
             for points in (better * 100 for better in BETTER[1:])]  # fmt: skip
    print("| simulated world | " + " | ".join(heads) + " | all, after the advice |")
    print("|---" * (len(BETTER) + 1) + "|")
    whole = np.zeros(2)
    for world in WORLDS:
        found_ = [rates(world, fewer, better=better) for better in BETTER[1:]
                  if world.exact_match + better < 1]  # fmt: skip
        cells = [f"{f['first']:.0%}, then {_share(f['decided'], f['advised'])}" for f in found_]
        cells += ["–"] * (len(BETTER) - 1 - len(cells))
        own = np.array([[f["decided"], f["advised"]] for f in found_]).sum(axis=0)
        whole += own
        print(f"| {world.what} | " + " | ".join(cells) + f" | {_share(*own)} |", flush=True)
    print(f"\nAll worlds: {_share(*whole)} of {whole[1]:,.0f} pairs.")
    print(f"\n95% intervals between two adapters that hold the true difference, {pairs:,} pairs; "
          "in brackets a bootstrap over words.\n")  # fmt: skip
    print("| simulated world | equal | 2 points better |\n|---|---|---|")
    for world in WORLDS:
        if world.start == (FIRST, FIRST) and world.unequal == 1:
            cells = ["{:.1%} ({:.1%})".format(*coverage(world, pairs, better=better))
                     for better in (0.0, 0.02)]  # fmt: skip
            print(f"| {world.what} | " + " | ".join(cells) + " |", flush=True)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole >= 20 else "–"


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
    for _ in range(SPLITS):
        drawn = rng.permutation(len(found))[: 2 * A_SIDE]
        a, b = drawn[:A_SIDE], drawn[A_SIDE:]
        verdict = verdicts.judge_configs(
            [found[i] for i in a], [found[i] for i in b], names=("a", "b")
        )
        wins += [
            verdict.estimate is not None and verdict.estimate.p_value() <= ALPHA,
            loss[a].mean() != loss[b].mean(),
        ]
        gaps.append(abs(share[a].mean() - share[b].mean()))
    single = [verdicts.mcnemar(a.correct, b.correct, a.words) <= ALPHA
              for a, b in combinations(found, 2)]  # fmt: skip
    print(f"| of {SPLITS:,} random splits, {A_SIDE} against {A_SIDE} | has a winner |\n|---|---|")
    print(f"| two-level test | {wins[0] / SPLITS:.1%} |")
    print(f"| lowest mean validation loss wins | {wins[1] / SPLITS:.1%} |")
    print(f"| McNemar between two of the runs, all {len(single)} pairs | {np.mean(single):.1%} |")
    print(f"\nThe sides differ by {np.mean(gaps) * 100:.2f} points on average, at most by "
          f"{np.max(gaps) * 100:.2f}.")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="train and judge real runs here, and only those")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="simulated pairs of each kind")
    options = parser.parse_args(arguments)
    if options.home is None:
        return simulated(options.pairs)
    os.environ["SPELLTUNE_HOME"] = str(options.home)
    train()
    real()


if __name__ == "__main__":
    main()
