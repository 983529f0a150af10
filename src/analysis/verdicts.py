"""Verdicts on fine-tunings: pure functions from right and wrong answers to a sentence.

Two kinds of claim. Of two *adapters*, scored on the same questions: McNemar's exact test and a
paired bootstrap; they say nothing of another training. Of two *configs*, each trained with several
seeds: a two-level test over seeds and words. `benchmarks/verdicts.py` measures how often each is
wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import scipy  # which loads scipy.special when it is first used

from src.text import composed

METRIC = "exact_match"
ALPHA = 0.05  # of pairs of equal configs, the share that may get a winner
POWER = 0.8  # chance to see a difference of the size seen now, at which "N more seeds" aims
MIN_SEEDS = 3
MAX_MORE_SEEDS = 20  # beyond it no number is given
RESAMPLES = 10_000
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
    ci_low: float | None = None  # of its 95% interval, which no correction widens
    ci_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None  # corrected for all pairs of its kind
    questions: int = 0
    seeds: tuple[int, int] | None = None  # that speak for a and b; None for adapters
    more_seeds: tuple[int, int] | None = None  # that a and b still need; None: no number helps
    winner: str | None = None
    claim: str = ""
    metric: str = METRIC
    estimate: "Estimate | None" = field(default=None, repr=False)


# --- two adapters ---------------------------------------------------------------------------------


def judge_adapters(a: Answers, b: Answers) -> Verdict:
    """The verdict on two adapters before `together`."""
    verdict = Verdict(a.name, b.name, "adapters", a.split, questions=len(a.correct))
    if a.fingerprint != b.fingerprint or not len(a.correct):
        return replace(verdict, claim=OTHER_QUESTIONS)
    low, high = paired_bootstrap(a.correct, b.correct, a.words)
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


def paired_bootstrap(a: np.ndarray, b: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of b's share of right answers less a's, with words resampled.

    A word is drawn with all its questions, since they share their difficulty.
    """
    change = np.bincount(words, weights=b.astype(float) - a)
    asked = np.bincount(words)
    # Words with the same change and as many questions are alike: how many of each kind are drawn is
    # all that matters.
    kinds, counts = np.unique(np.stack([change, asked]), axis=1, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(asked), counts / len(asked), RESAMPLES)
    low, high = np.quantile(drawn @ kinds[0] / (drawn @ kinds[1]), [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


# --- two configs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A difference of two configs, b less a, and the parts of its variance."""

    difference: float
    seed_variances: tuple[float, float]  # of the score of one seed, a and b
    seeds: tuple[int, int]
    word_variance: float  # of the difference: other words would have been other questions
    words: int

    def spread(self, more: int = 0) -> tuple[float, float]:
        """Standard error and degrees of freedom, with so many more seeds on each side."""
        counts = [k + more for k in self.seeds]
        parts = [v / k for v, k in zip(self.seed_variances, counts, strict=True)]
        variance = sum(parts) + self.word_variance
        squares = sum(part**2 / (k - 1) for part, k in zip(parts, counts, strict=True))
        squares += self.word_variance**2 / max(self.words - 1, 1)
        return variance**0.5, variance**2 / squares

    def p_value(self) -> float:
        """Two-sided, of no difference."""
        error, freedom = self.spread()
        return float(2 * scipy.special.stdtr(freedom, -abs(self.difference) / error))

    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the difference."""
        error, freedom = self.spread()
        reach = float(scipy.special.stdtrit(freedom, 1 - ALPHA / 2)) * error
        return self.difference - reach, self.difference + reach

    def shows(self, more: int, *, pairs: int) -> bool:
        """True if a difference of this size would be detected with probability POWER.

        With `more` seeds on each side, as the least clear of `pairs` pairs.
        """
        error, freedom = self.spread(more)
        needed = scipy.special.stdtrit(freedom, 1 - ALPHA / pairs / 2)
        missed = scipy.special.nctdtr(freedom, abs(self.difference) / error, needed)
        return bool(missed <= 1 - POWER)


def two_level(a: np.ndarray, b: np.ndarray, words: np.ndarray) -> Estimate:
    """How much more often config b is right than a, from bool (seeds, questions) of each.

    Seeds are nested in a config and words are crossed with both, as readers and cases are in a
    study of two ways of reading the same images (Obuchowski & Rockette 1995; Hillis 2007,
    Statistics in Medicine 26:596) and as subjects and items are in Clark's "language as a fixed
    effect" (1973). So the variance of the difference is that of the seeds' scores,
    s_a^2/k_a + s_b^2/k_b, plus what the choice of words adds: the variance over words of the
    difference of both configs' means, less the share of it that differing seeds bring about, and
    never below zero. Each side keeps its own variance (Welch 1947), for one config may be less
    stable than the other; degrees of freedom by Satterthwaite (1946). A word with several
    questions counts as one draw (linearised ratio; Cochran 1977, section 6.3).
    """
    tables = [_by_word(side, words) for side in (a, b)]
    count = tables[0].shape[1]
    change = tables[1].mean(axis=0) - tables[0].mean(axis=0)
    seen = float(np.var(change, ddof=1)) if count > 1 else 0.0
    by_seeds = sum(_interaction(table) / len(table) for table in tables)
    # A score is a count of right answers: nothing is known of what is finer than one answer.
    rounding = 1 / (12 * a.shape[1] ** 2)
    spread_a, spread_b = (max(float(np.var(s.mean(axis=1), ddof=1)), rounding) for s in (a, b))
    return Estimate(
        difference=float(b.mean() - a.mean()),
        seed_variances=(spread_a, spread_b),
        seeds=(len(a), len(b)),
        word_variance=max(seen - by_seeds, 0.0) / count,
        words=count,
    )


def _by_word(correct: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(seeds, words): what each word adds to a seed's share of right answers, which is their mean.

    Where each word has one question that is `correct` itself.
    """
    asked = np.bincount(words)
    right = np.stack([np.bincount(words, weights=row, minlength=len(asked)) for row in correct])
    share = correct.mean(axis=1, keepdims=True)
    return np.asarray(share + (right - share * asked) / asked.mean())


def _interaction(table: np.ndarray) -> float:
    """Mean square of what neither the seed nor the word explains in (seeds, words)."""
    seeds, words = table.shape
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((rest**2).sum() / max((seeds - 1) * (words - 1), 1))


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
    low, high = found.interval()
    return replace(
        verdict,
        difference=found.difference,
        ci_low=low,
        ci_high=high,
        p_value=found.p_value(),
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
    for more in range(1, MAX_MORE_SEEDS + 1):
        if estimate.shows(more, pairs=pairs):
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
