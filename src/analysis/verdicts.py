"""Verdicts on fine-tunings: pure functions from right and wrong answers to a sentence.

Two kinds of claim. Of two *adapters*, scored on the same questions: McNemar's exact test and an
interval for paired shares; they say nothing of another training. Of two *configs*, each trained
with several seeds: a two-level test over seeds and words, at a level that allows for looking again
after each new seed. `benchmarks/verdicts.py` measures how often each is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import scipy  # which loads scipy.special when it is first used

from src.analysis.estimates import ALPHA, LOOKS, MAX_MORE_SEEDS, Estimate, more_seeds, two_level
from src.models.intervals import paired_interval
from src.text import composed

METRIC = "exact_match"
MIN_SEEDS = 3
OTHER_QUESTIONS = "not compared: they were scored on different questions"


# --- what is compared -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """The questions that one adapter answered right, in an order that the question set decides."""

    name: str
    split: str  # validation or test
    fingerprint: int  # of split, questions and expected answers; the same within one process
    correct: np.ndarray  # bool, (questions,)
    words: np.ndarray  # int, (questions,): questions about one word have one number

    @property
    def exact_match(self) -> float:
        """Share of right answers in [0, 1]; nan without questions."""
        return float(self.correct.mean()) if len(self.correct) else float("nan")


def answers(predictions: pd.DataFrame, *, name: str, split: str) -> Answers:
    """The Answers of a frame with columns word, question, expected and correct."""
    asked = predictions[["question", "expected"]].map(composed)
    keys = pd.util.hash_pandas_object(asked, index=False).to_numpy()
    order = np.argsort(keys, kind="stable")
    return Answers(
        name=name,
        split=split,
        fingerprint=hash((split, keys[order].tobytes())),
        correct=predictions["correct"].to_numpy(dtype=bool)[order],
        words=pd.factorize(predictions["word"].map(composed).to_numpy()[order])[0],
    )


@dataclass(frozen=True)
class Verdict:
    """The comparison of `b` with `a`. Shares in [0, 1]; None where nothing could be tested."""

    a: str
    b: str
    about: str  # configs or adapters
    split: str
    difference: float | None = None  # b less a
    # Of its 95% interval. That of configs holds at all of LOOKS looks at once; the number of pairs
    # widens neither.
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None  # of configs: corrected for LOOKS looks
    p_holm: float | None = None  # corrected for all pairs of its kind
    questions: int = 0
    seeds: tuple[int, int] | None = None  # that speak for a and b; None for adapters
    more_seeds: tuple[int, int] | None = None  # that a and b still need; None: no number helps
    winner: str | None = None
    claim: str = ""
    metric: str = METRIC
    estimate: Estimate | None = field(default=None, repr=False)


# --- two adapters ---------------------------------------------------------------------------------


def judge_adapters(a: Answers, b: Answers) -> Verdict:
    """The verdict on two adapters before `together`."""
    verdict = Verdict(a.name, b.name, "adapters", a.split, questions=len(a.correct))
    if a.fingerprint != b.fingerprint or not len(a.correct):
        return replace(verdict, claim=OTHER_QUESTIONS)
    low, high = paired_interval(a.correct, b.correct, a.words)
    return replace(
        verdict,
        difference=b.exact_match - a.exact_match,
        ci_low=low,
        ci_high=high,
        p_value=mcnemar(a.correct, b.correct, a.words),
    )


def mcnemar(a: np.ndarray, b: np.ndarray, words: np.ndarray) -> float:
    """Exact two-sided p-value of two adapters being right equally often; 1.0 if they never differ.

    A binomial test over the words of which one of them answered more questions right. Where each
    word has one question these are the ones that only one got right (McNemar 1947); several
    questions about a word share their difficulty, and are no more evidence than one.
    """
    change = np.bincount(words, weights=b.astype(float) - a)
    fewer, more = int((change < 0).sum()), int((change > 0).sum())
    return float(min(1.0, 2 * scipy.special.bdtr(min(fewer, more), fewer + more, 0.5)))


# --- two configs ----------------------------------------------------------------------------------


def judge_configs(a: Sequence[Answers], b: Sequence[Answers], *, names: tuple[str, str]) -> Verdict:
    """The verdict on two configs before `together`, from the Answers of one run a seed."""
    runs = [*a, *b]
    seeds = (len(a), len(b))
    verdict = Verdict(*names, "configs", runs[0].split if runs else "test", seeds=seeds)
    if len({run.fingerprint for run in runs}) > 1:
        return replace(verdict, claim=OTHER_QUESTIONS)
    if min(seeds) < MIN_SEEDS:
        missing = (max(MIN_SEEDS - seeds[0], 0), max(MIN_SEEDS - seeds[1], 0))
        return replace(verdict, more_seeds=missing, claim=_too_few(names, seeds))
    correct_a, correct_b = (np.stack([run.correct for run in side]) for side in (a, b))
    found = two_level(correct_a, correct_b, a[0].words)
    low, high = found.interval(ALPHA / LOOKS)
    return replace(
        verdict,
        difference=found.difference,
        ci_low=low,
        ci_high=high,
        p_value=min(1.0, found.p_value() * LOOKS),
        questions=len(a[0].correct),
        estimate=found,
    )


# --- all pairs together ---------------------------------------------------------------------------


def together(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that stand beside each other, each kind corrected for its number of pairs, with
    winners and claims."""
    done = list(verdicts)
    for about in ("configs", "adapters"):
        tested = [(i, v.p_value) for i, v in enumerate(done)
                  if v.about == about and v.p_value is not None]  # fmt: skip
        for (index, _), p_holm in zip(tested, holm([p for _, p in tested]), strict=True):
            done[index] = _concluded(replace(done[index], p_holm=p_holm), pairs=len(tested))
    return done


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for being several (Holm 1979): the smallest times their number, the
    next times one less, and so on, none below the one before it."""
    corrected = [0.0] * len(p_values)
    floor = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = floor
    return corrected


def leaders(scores: Mapping[str, float], verdicts: Sequence[Verdict]) -> str:
    """One sentence on all configs at once: the best so far, and which of the others may be as good.

    `scores` maps each config to its mean exact match.
    """
    if len(scores) < 3:
        return ""
    if any(v.claim == OTHER_QUESTIONS and {v.a, v.b} <= set(scores) for v in verdicts):
        return "no config is named the best: not all were scored on the same questions"
    first = [name for name, score in scores.items() if score == max(scores.values())]
    if len(first) > 1:
        return f"{', '.join(first)} are equal, so none is ahead"
    (best,) = first
    behind = {v.a if v.b == best else v.b for v in verdicts if v.winner == best}
    open_ = [name for name in scores if name != best and name not in behind]
    if not open_:
        return f"{best} spells better than each of the other {len(scores) - 1} configs"
    told = f"; {', '.join(sorted(behind))} spell less well" if len(behind) > 1 else (
        f"; {next(iter(behind))} spells less well" if behind else ""
    )  # fmt: skip
    return f"{best} is ahead, but cannot be told from {', '.join(open_)}{told}"


# --- sentences ------------------------------------------------------------------------------------


def _concluded(verdict: Verdict, *, pairs: int) -> Verdict:
    """The verdict with winner, claim and the seeds that are missing."""
    v = verdict
    assert v.difference is not None and v.ci_low is not None and v.ci_high is not None
    assert v.p_value is not None and v.p_holm is not None
    first, second = (v.b, v.a) if v.difference >= 0 else (v.a, v.b)
    low, high = (v.ci_low, v.ci_high) if v.difference >= 0 else (-v.ci_high, -v.ci_low)
    won = v.p_holm <= ALPHA
    test = "McNemar " if v.estimate is None else ""
    sure = f"(95% CI {low * 100:.1f} to {high * 100:.1f}), {test}{_p(v.p_holm)}"
    if pairs > 1:
        sure += f" after Holm over {pairs} pairs"
    if v.estimate is None:
        first, second = f"the adapter of {first}", f"that of {second}"
        ground = f"{v.questions:,} {v.split} questions; it speaks of these two adapters only"
    else:
        seeds = v.estimate.seeds
        ground = f"{v.questions:,} {v.split} questions, {seeds[0]} and {seeds[1]} seeds"
    points = f"{abs(v.difference) * 100:.1f}"
    size = "less than 0.1 points" if points == "0.0" else f"{points} points"
    if won:
        claim = f"{first} spells {size} better than {second} {sure}; {ground}"
        return replace(v, winner=v.b if v.difference > 0 else v.a, claim=claim)
    more, advice = _missing(v.estimate, pairs)
    ahead = f"{first} is {size} ahead of {second}" if v.difference else f"{first} and {second} tie"
    return replace(
        v,
        more_seeds=None if more is None else (more, more),
        claim=f"cannot tell{advice}: {ahead} {sure}; {ground}",
    )


def _missing(estimate: Estimate | None, pairs: int) -> tuple[int | None, str]:
    """Seeds that each side still needs, and how the sentence says so."""
    if estimate is None:
        return None, ""
    more = more_seeds(estimate, pairs=pairs)
    if more is not None:
        return more, f" yet: about {more} more {'seed' if more == 1 else 'seeds'} on each side"
    if estimate.shows(10**6, pairs=pairs):
        return None, f", not even with {MAX_MORE_SEEDS} more seeds on each side"
    return None, ", however many seeds: so small a difference needs more questions"


def _too_few(names: tuple[str, str], seeds: tuple[int, int]) -> str:
    counts = {0: "no scored seed", 1: "one seed"}
    few = [f"{counts.get(k, f'{k} seeds')} of {name}"
           for name, k in zip(names, seeds, strict=True) if k < MIN_SEEDS]  # fmt: skip
    return (
        f"cannot tell: {' and '.join(few)}; from {MIN_SEEDS} seeds on each side it is known how "
        "much they differ by chance"
    )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
