"""The difference of two configs over seeds and words: its size, its error and its p-value."""

from dataclasses import dataclass

import numpy as np
import scipy  # which loads scipy.special when it is first used

ALPHA = 0.05  # of pairs of equal configs, the share that may get a winner at any look
POWER = 0.8  # chance of a winner at which "N more seeds" aims
MAX_MORE_SEEDS = 20  # beyond it no number is given


def share(look: int) -> float:
    """Share of ALPHA that one look may spend, counted from 1: a half, a sixth, a twelfth, ...

    The shares of all looks sum to 1 however many there are, so that a winner at any of them is
    false for at most ALPHA of equal pairs (alpha spending: Lan & DeMets 1983, Biometrika 70:659).
    Looks are taken as if they were independent (Bonferroni); so p / share is a valid p-value at
    every look and every level, and Holm may correct it for several pairs. Most is spent at the
    first look, as in Pocock 1977 (Biometrika 64:191), and none is ever left without a share, as it
    would soon be in a geometric series.
    """
    return 1 / (look * (look + 1))


@dataclass(frozen=True)
class Estimate:
    """A difference of two configs, b less a, and the parts of its variance. Against a model that
    was not trained, which has no seeds, the one config is all that varies by them."""

    difference: float
    seed_variances: tuple[float, ...]  # of the score of one seed, of each side that has seeds
    seeds: tuple[int, ...]
    word_variance: float  # of the difference: other words would have been other questions
    words: int
    of_shares: bool = True  # of right answers: it lies in [-1, 1]

    @property
    def least_p(self) -> float:
        """The least p-value that so few words allow, if all of them agree: that of a sign test."""
        return float(2.0 ** (1 - self.words))

    def spread(self, more: int = 0) -> tuple[float, float]:
        """Standard error and degrees of freedom, with so many more seeds on each side.

        Degrees of freedom by Satterthwaite (1946), who takes each part for its true value. Three
        seeds that are alike by chance would so leave the word to the many of the other side, and
        unequal spreads bring false winners; a part from f degrees of freedom counts (f + 2) / f
        times, which is what the error of its square amounts to.
        """
        counts = [k + more for k in self.seeds]
        parts = [v / k for v, k in zip(self.seed_variances, counts, strict=True)]
        counted = [part * (k + 1) / (k - 1) for part, k in zip(parts, counts, strict=True)]
        squares = sum(part**2 / (k - 1) for part, k in zip(counted, counts, strict=True))
        squares += self.word_variance**2 / max(self.words - 1, 1)
        freedom = (sum(counted) + self.word_variance) ** 2 / squares
        return (sum(parts) + self.word_variance) ** 0.5, freedom

    def p_value(self) -> float:
        """Two-sided, of no difference, if the number of seeds was fixed in advance. Words that all
        change alike show no variance, which is no proof that others would: see `least_p`."""
        error, freedom = self.spread()
        p_value = float(2 * scipy.special.stdtr(freedom, -abs(self.difference) / error))
        return max(p_value, self.least_p)

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """The confidence interval of the difference that misses it with probability `alpha`."""
        error, freedom = self.spread()
        reach = float(scipy.special.stdtrit(freedom, 1 - alpha / 2)) * error
        low, high = self.difference - reach, self.difference + reach
        if not self.of_shares:
            return low, high
        return (-1.0, 1.0) if self.least_p > alpha else (max(low, -1.0), min(high, 1.0))

    def shows(self, more: int, *, pairs: int, look: int) -> bool:
        """True if the difference will be significant with probability POWER.

        With `more` seeds on each side, at that look, as the least clear of `pairs` pairs. The
        difference seen now is not taken for the true one. It is shrunk by its error (James & Stein
        1961), and the new seeds will move it, by s_a^2 (1/k_a - 1/(k_a + more)) and the same of b:
        its lower quantile after that has to be significant (predictive power; Spiegelhalter,
        Freedman & Blackburn 1986, Controlled Clinical Trials 7:8). The words stay the same and move
        nothing. Few seeds often show too small an error, so the one to come is widened by
        (f + 2) / f for f degrees of freedom now; benchmarks/verdicts.py shows how many are decided.
        """
        if not self.difference or self.least_p > ALPHA * share(look) / pairs:
            return False
        error_now, freedom_now = self.spread()
        shrunk = abs(self.difference) * (1 - (error_now / self.difference) ** 2)
        error, freedom = self.spread(more)
        needed = scipy.special.stdtrit(freedom, 1 - ALPHA * share(look) / pairs / 2) * error
        needed *= (1 + 2 / freedom_now) ** 0.5
        moves = (v * (1 / k - 1 / (k + more))
                 for v, k in zip(self.seed_variances, self.seeds, strict=True))  # fmt: skip
        return bool(shrunk - scipy.special.ndtri(POWER) * sum(moves) ** 0.5 >= needed)

    def lacks_words(self, *, pairs: int, look: int) -> bool:
        """True if the difference would not be significant with any number of seeds."""
        alpha = ALPHA * share(look) / pairs
        if self.least_p > alpha:
            return True
        quantile = scipy.special.stdtrit(self.words - 1, 1 - alpha / 2)
        return bool(abs(self.difference) < quantile * self.word_variance**0.5)


def more_seeds(found: Estimate, *, look: int, pairs: int = 1) -> int | None:
    """The least number of seeds that each side still needs for `shows`; None if it is too many."""
    numbers = range(1, MAX_MORE_SEEDS + 1)
    return next((more for more in numbers if found.shows(more, pairs=pairs, look=look)), None)


def two_level(a: np.ndarray, b: np.ndarray, words: np.ndarray) -> Estimate:
    """How much more often config b is right than a, from bool (seeds, questions) of each; or how
    much more it has of another score, from float.

    Seeds are nested in a config and words are crossed with both, as readers and cases are in a
    study of two ways of reading the same images (Obuchowski & Rockette 1995; Hillis 2007,
    Statistics in Medicine 26:596) and as subjects and items are in Clark's "language as a fixed
    effect" (1973). So the variance of the difference is that of the seeds' scores,
    s_a^2/k_a + s_b^2/k_b, plus what the choice of words adds: the variance over words of the
    difference of both configs' means, less the share of it that differing seeds bring about, and
    never below zero. Each side keeps its own variance (Welch 1947), for one config may be less
    stable than the other. A word with several questions counts as one draw (linearised ratio;
    Cochran 1977, section 6.3).
    """
    return _estimate(a, b, words, seeded=(a, b))


def against_fixed(fixed: np.ndarray, tuned: np.ndarray, words: np.ndarray) -> Estimate:
    """How much more a config scores than a model without seeds, such as its base: `two_level` with
    (questions,) of that model and (seeds, questions) of the config. With a single seed the words
    alone vary, and the estimate is of that adapter."""
    return _estimate(fixed[None], tuned, words, seeded=(tuned,) if len(tuned) > 1 else ())


def _estimate(
    a: np.ndarray, b: np.ndarray, words: np.ndarray, *, seeded: tuple[np.ndarray, ...]
) -> Estimate:
    """The estimate of b less a, of which the sides in `seeded` vary by their seeds."""
    tables = [_by_word(side, words) for side in (a, b)]
    count = tables[0].shape[1]
    change = tables[1].mean(axis=0) - tables[0].mean(axis=0)
    seen = float(np.var(change, ddof=1)) if count > 1 else 0.0
    by_seeds = sum(_interaction(_by_word(side, words)) / len(side) for side in seeded)
    # A score is a count of right answers: nothing is known of what is finer than one answer.
    rounding = 1 / (12 * a.shape[1] ** 2)
    return Estimate(
        difference=float(b.mean() - a.mean()),
        seed_variances=tuple(max(float(np.var(s.mean(axis=1), ddof=1)), rounding) for s in seeded),
        seeds=tuple(map(len, seeded)),
        word_variance=max(seen - by_seeds, 0.0) / count,
        words=count,
        of_shares=a.dtype == bool,
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
