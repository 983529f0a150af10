"""Verdicts on fine-tunings: pure functions from right and wrong answers to a sentence.

Two kinds of claim. Of two *adapters*, scored on the same questions: McNemar's exact test and an
interval for paired shares; they say nothing of another training. Of two *configs*, each trained
with several seeds: a two-level test over seeds and words, at a level that depends on how often they
have been looked at (`looks.py`). `benchmarks/verdicts.py` measures how often each is wrong.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import scipy  # which loads scipy.special when it is first used

from src.analysis.estimates import ALPHA, MAX_MORE_SEEDS, Estimate, more_seeds, share, two_level
from src.analysis.guessing import constant_share
from src.format import listed, percent, points
from src.models.intervals import paired_interval
from src.text import composed_columns

METRIC = "exact_match"
MAX_LISTED = 3  # configs that a sentence names; then it counts the others
MIN_SEEDS = 3
OTHER_QUESTIONS = "not compared: they were scored on different questions"
NO_QUESTIONS = "not compared: they were scored on no questions"


# --- what is compared -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """The questions that one adapter answered right, in an order that the question set decides."""

    name: str
    split: str  # validation or test
    fingerprint: int  # of split, questions and expected answers; the same within one process
    correct: np.ndarray  # bool, (questions,)
    words: np.ndarray  # int, (questions,): questions about one word have one number
    constant: float | None = None  # share that the most frequent answer has right

    @property
    def exact_match(self) -> float:
        """Share of right answers in [0, 1]; nan without questions."""
        return float(self.correct.mean()) if len(self.correct) else float("nan")


def answers(predictions: pd.DataFrame, *, name: str, split: str) -> Answers:
    """The Answers of a frame with columns word, question, expected and correct."""
    asked = composed_columns(predictions, ("question", "expected", "word"))
    keys = pd.util.hash_pandas_object(asked[["question", "expected"]], index=False).to_numpy()
    order = np.argsort(keys, kind="stable")
    return Answers(
        name=name,
        split=split,
        fingerprint=hash((split, keys[order].tobytes())),
        correct=predictions["correct"].to_numpy(dtype=bool)[order],
        words=pd.factorize(asked["word"].to_numpy()[order])[0],
        constant=constant_share(asked["expected"]),
    )


@dataclass(frozen=True)
class Verdict:
    """The comparison of `b` with `a`. Shares in [0, 1]; None where nothing could be tested."""

    a: str
    b: str
    about: str  # configs or adapters
    split: str
    difference: float | None = None  # b less a
    # Of its 95% interval. That of configs holds at all looks at once; the number of pairs widens
    # neither.
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None  # of configs: corrected for the number of looks
    p_holm: float | None = None  # corrected for all pairs of its kind
    questions: int = 0
    seeds: tuple[int, int] | None = None  # that speak for a and b; None for adapters
    # That a and b still need; None: no number helps, or some are under way.
    more_seeds: tuple[int, int] | None = None
    look: int | None = None  # at configs, from 1; None for adapters, and where none is complete
    under_way: int = 0  # seeds of the next look
    winner: str | None = None
    claim: str = ""
    metric: str = METRIC
    estimate: Estimate | None = field(default=None, repr=False)

    @property
    def is_compared(self) -> bool:
        return self.claim not in (OTHER_QUESTIONS, NO_QUESTIONS)

    @property
    def sentence(self) -> str:
        """The claim, with the names of those that it says are not compared."""
        return self.claim if self.is_compared else f"{self.a} and {self.b} are {self.claim}"


# --- two adapters ---------------------------------------------------------------------------------


def judge_adapters(a: Answers, b: Answers) -> Verdict:
    """The verdict on two adapters before `together`."""
    verdict = Verdict(a.name, b.name, "adapters", a.split, questions=len(a.correct))
    if a.fingerprint != b.fingerprint:
        return replace(verdict, claim=OTHER_QUESTIONS)
    if not len(a.correct):
        return replace(verdict, claim=NO_QUESTIONS)
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


def judge_configs(
    a: Sequence[Answers],
    b: Sequence[Answers],
    *,
    names: tuple[str, str],
    look: int = 1,
    under_way: int = 0,
) -> Verdict:
    """The verdict on two configs before `together`, from the Answers of one run a seed.

    `look` is the number of this look at them; 0: it is not complete, so nothing is tested.
    """
    runs = [*a, *b]
    seeds = (len(a), len(b))
    split = runs[0].split if runs else "test"
    verdict = Verdict(*names, "configs", split, seeds=seeds, under_way=under_way)
    if len({run.fingerprint for run in runs}) > 1:
        return replace(verdict, claim=OTHER_QUESTIONS)
    if min(seeds) < MIN_SEEDS:
        missing = (max(MIN_SEEDS - seeds[0], 0), max(MIN_SEEDS - seeds[1], 0))
        return replace(verdict, more_seeds=missing, claim=_too_few(verdict, seeds))
    if not len(runs[0].correct):
        return replace(verdict, claim=NO_QUESTIONS)
    correct_a, correct_b = (np.stack([run.correct for run in side]) for side in (a, b))
    found = two_level(correct_a, correct_b, a[0].words)
    verdict = replace(verdict, difference=found.difference, questions=len(a[0].correct))
    if not look:
        return replace(verdict, claim=_too_early(verdict))
    low, high = found.interval(ALPHA * share(look))
    return replace(
        verdict,
        ci_low=low,
        ci_high=high,
        p_value=min(1.0, found.p_value() / share(look)),
        look=look,
        estimate=found,
    )


# --- all pairs together ---------------------------------------------------------------------------


def together(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that stand beside each other, each kind corrected for its number of pairs, with
    winners and claims. Pairs whose first look is not complete count among them."""
    done = list(verdicts)
    for about in ("configs", "adapters"):
        pairs = [i for i, v in enumerate(done) if v.about == about and v.difference is not None]
        for i, p_holm in zip(pairs, holm([done[i].p_value for i in pairs]), strict=True):
            if done[i].p_value is not None:
                done[i] = _concluded(replace(done[i], p_holm=p_holm), pairs=len(pairs))
    return done


def holm(p_values: Sequence[float | None]) -> list[float]:
    """The p-values corrected for being several (Holm 1979): the smallest times their number, the
    next times one less, and so on, none below the one before it. None, of a test that waits for
    its first look, and nan, of one that had no number to go by, prove nothing: they count as 1."""
    known = [1.0 if p is None or math.isnan(p) else p for p in p_values]
    corrected = [0.0] * len(known)
    floor = 0.0
    for place, index in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        floor = max(floor, min(1.0, known[index] * (len(known) - place)))
        corrected[index] = floor
    return corrected


def leaders(scores: Mapping[str, float | None], verdicts: Sequence[Verdict]) -> str:
    """One sentence on all configs at once: the best so far, and which of the others may be as good.

    `scores` maps each config to its mean exact match; None and nan stand for none.
    """
    known = {n: score for n, score in scores.items() if score is not None and score == score}
    if len(known) < 3:
        return ""
    missing = [name for name in scores if name not in known]
    more = f"; there is no scored seed of {listed(missing, MAX_LISTED)}" if missing else ""
    if any(v.claim == OTHER_QUESTIONS and {v.a, v.b} <= set(known) for v in verdicts):
        return f"no config is named the best: not all were scored on the same questions{more}"
    ranked = sorted(known, key=lambda name: -known[name])
    most = round(known[ranked[0]], 9)  # a mean of the same scores may differ in its last bits
    first = [name for name in ranked if round(known[name], 9) == most]
    beaten = [{v.a if v.b == name else v.b for v in verdicts if v.winner == name} for name in first]
    behind = set.intersection(*beaten) & known.keys()
    open_ = [name for name in ranked if name not in first and name not in behind]
    if len(first) > 1:
        return f"{_tie(first, most, [n for n in ranked if n in behind], open_)}{more}"
    (best,) = first
    if not open_:
        return f"{best} spells better than each of the other {len(known) - 1} configs{more}"
    told = f"; {listed(sorted(behind), MAX_LISTED)} spell less well" if len(behind) > 1 else (
        f"; {next(iter(behind))} spells less well" if behind else ""
    )  # fmt: skip
    return f"{best} is ahead, but cannot be told from {listed(open_, MAX_LISTED)}{told}{more}"


def _tie(first: Sequence[str], score: float, behind: Sequence[str], open_: Sequence[str]) -> str:
    """Names the configs that share the best score, and whom each of them beats."""
    told = f"{listed(first, MAX_LISTED)} tie at {percent(score)}"
    if behind:
        all_ = "both spell" if len(first) == 2 else f"all {len(first)} spell"
        others = f"the other {len(behind)} configs" if len(behind) > 1 and not open_ else (
            listed(behind, MAX_LISTED)
        )  # fmt: skip
        told += f"; {all_} better than {others}"
    return f"{told}; {listed(open_, MAX_LISTED)} may be as good" if open_ else told


# --- sentences ------------------------------------------------------------------------------------


def _concluded(verdict: Verdict, *, pairs: int) -> Verdict:
    """The verdict with winner, claim and the seeds that are missing."""
    v = verdict
    assert v.difference is not None and v.ci_low is not None and v.ci_high is not None
    assert v.p_value is not None and v.p_holm is not None
    first, second = _order(v)
    low, high = (v.ci_low, v.ci_high) if v.difference >= 0 else (-v.ci_high, -v.ci_low)
    won = v.p_holm <= ALPHA
    test = "McNemar " if v.estimate is None else ""
    sure = f"(95% CI {points(low)} to {points(high)}), {test}{p_text(v.p_holm)}"
    if pairs > 1:
        sure += f" after Holm over {pairs} pairs"
    if v.estimate is None:
        first, second = f"the adapter of {first}", f"that of {second}"
        ground = f"{v.questions:,} {v.split} questions; it speaks of these two adapters only"
    else:
        seeds = v.estimate.seeds
        ground = f"{v.questions:,} {v.split} questions, {seeds[0]} and {seeds[1]} seeds"
        ground += f", look {v.look}" if v.look != 1 else ""
    if won:
        claim = f"{first} spells {_points(v)} better than {second} {sure}; {ground}"
        claim += f"; {_under_way(v)}" if v.under_way else ""
        return replace(v, winner=v.b if v.difference > 0 else v.a, claim=claim)
    more, advice = _missing(v, pairs)
    return replace(
        v,
        more_seeds=None if more is None else (more, more),
        claim=f"cannot tell{advice}: {_ahead(v, first, second)} {sure}; {ground}",
    )


def _missing(v: Verdict, pairs: int) -> tuple[int | None, str]:
    """Seeds that each side still needs, and how the sentence says so."""
    if v.estimate is None or v.look is None:
        return None, ""
    if v.under_way:
        return None, f" yet ({_under_way(v)})"
    more = more_seeds(v.estimate, pairs=pairs, look=v.look + 1)
    if more is not None:
        return more, f" yet: about {more} more {'seed' if more == 1 else 'seeds'} on each side"
    if v.estimate.lacks_words(pairs=pairs, look=v.look + 1):
        return None, ", however many seeds: so small a difference needs more questions"
    return None, f", perhaps not even with {MAX_MORE_SEEDS} more seeds on each side"


def _too_early(v: Verdict) -> str:
    """The claim before the first look is complete."""
    assert v.seeds is not None
    return (
        f"cannot tell yet: {_under_way(v)}, and the verdict comes when all have ended; so far "
        f"{_ahead(v, *_order(v))}; {v.questions:,} {v.split} questions, {v.seeds[0]} and "
        f"{v.seeds[1]} seeds"
    )


def _under_way(v: Verdict) -> str:
    return f"{v.under_way} more {'seed is' if v.under_way == 1 else 'seeds are'} under way"


def _order(v: Verdict) -> tuple[str, str]:
    """The names of both, the one with the higher score first."""
    assert v.difference is not None
    return (v.b, v.a) if v.difference >= 0 else (v.a, v.b)


def _ahead(v: Verdict, first: str, second: str) -> str:
    return f"{first} is {_points(v)} ahead of {second}" if v.difference else (
        f"{first} and {second} tie"
    )  # fmt: skip


def _points(v: Verdict) -> str:
    """The size of the difference."""
    assert v.difference is not None
    size = points(abs(v.difference))
    return "less than 0.1 points" if size == "0.0" else f"{size} points"


def _too_few(v: Verdict, seeds: tuple[int, int]) -> str:
    counts = {0: "no scored seed", 1: "one seed"}
    few = [f"{counts.get(k, f'{k} seeds')} of {name}"
           for name, k in zip((v.a, v.b), seeds, strict=True) if k < MIN_SEEDS]  # fmt: skip
    if seeds[0] == seeds[1]:
        few = [f"{counts.get(seeds[0], f'{seeds[0]} seeds')} of each"]
    told = f"cannot tell yet: {' and '.join(few)}; {MIN_SEEDS} of each tell skill from chance"
    return told + (f"; {_under_way(v)}" if v.under_way else "")


def p_text(value: float) -> str:
    """`p = 0.023` of a p-value, `p < 0.001` of a small one."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
