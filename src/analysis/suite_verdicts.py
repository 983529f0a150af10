"""Verdicts on suites: pure functions from the answers of adapters and of their base to a sentence.

A config is compared with its base model, which is one and has no seeds, and with other configs.
Answers are paired by question, seeds are the outer level, as in `verdicts.judge_configs`. Holm's
correction goes over the suites that stand beside each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import pandas as pd

from src.analysis.estimates import ALPHA, Estimate, against_fixed, share, two_level
from src.analysis.guessing import constant_share
from src.analysis.verdicts import MIN_SEEDS, holm, mcnemar, p_text
from src.format import decimal, listed
from src.models.intervals import paired_interval
from src.text import composed_columns

BASE = "base model"


@dataclass(frozen=True)
class SuiteAnswers:
    """The answers of one adapter, or of a base model, to the questions of a suite."""

    questions: np.ndarray  # uint64, rising: a hash of question and expected answer
    values: np.ndarray  # float: 1 where right, else 0; of running text, the bits of the answer
    characters: np.ndarray  # float: 1, or those of the answer: values are per mean of these
    words: np.ndarray  # of each question
    constant: float | None = None  # share that the most frequent answer has right


def answers(predictions: pd.DataFrame, *, is_text: bool) -> SuiteAnswers:
    """The SuiteAnswers of a frame with columns word, question, expected, correct and
    log_probability."""
    asked = composed_columns(predictions, ("question", "expected", "word"))
    keys = pd.util.hash_pandas_object(asked[["question", "expected"]], index=False).to_numpy()
    if is_text:
        values = -predictions["log_probability"].to_numpy(float) / np.log(2)
        characters = asked["expected"].str.len().to_numpy(float) + 1
    else:
        values = predictions["correct"].to_numpy(float)
        characters = np.ones(len(values))
    known, first = np.unique(keys, return_index=True)
    return SuiteAnswers(
        known,
        values[first],
        characters[first],
        asked["word"].to_numpy(dtype=object)[first],
        None if is_text else constant_share(asked["expected"]),
    )


def aligned(several: Sequence[SuiteAnswers]) -> tuple[np.ndarray, np.ndarray]:
    """The values (adapters, questions) at the questions that all were asked, whose mean over the
    questions is the score of each; and the number of each question's word."""
    common = reduce(np.intersect1d, [one.questions for one in several])
    places = [np.searchsorted(one.questions, common) for one in several]
    first = several[0]
    characters = first.characters[places[0]]
    scale = characters.mean() if len(characters) else 1.0
    values = np.stack([one.values[at] / scale for one, at in zip(several, places, strict=True)])
    return values, pd.factorize(first.words[places[0]])[0]


@dataclass(frozen=True)
class SuiteVerdict:
    """The comparison of `b` with `a` on one suite. Scores are shares of right answers in [0, 1] or,
    of running text, bits per character; None where nothing could be compared."""

    suite: str
    a: str  # a config, or BASE
    b: str
    about: str  # base (a is the base model) or configs
    metric: str  # exact_match or bits_per_character
    questions: int = 0
    seeds: tuple[int, int] | None = None  # of a and b; a base model has none
    score_a: float | None = None
    score_b: float | None = None
    difference: float | None = None  # b less a
    ci_low: float | None = None  # of its 95% interval, which holds at all looks at once
    ci_high: float | None = None
    p_value: float | None = None  # corrected for the number of looks
    p_holm: float | None = None  # and for the suites beside it
    constant: float | None = None  # score of who always gives the most frequent answer
    look: int | None = None
    waits: bool = False  # for the seeds of its first look, which are under way
    change: str | None = None  # rose or fell, where it can be told
    outcome: str = ""  # what was found and what it rests on: the parts of the claim, where tested
    ground: str = ""
    claim: str = ""

    @property
    def is_text(self) -> bool:
        return self.metric != "exact_match"

    @property
    def is_unanswered(self) -> bool:
        """True if neither side answered a single question right."""
        return not self.is_text and self.score_a == self.score_b == 0

    @property
    def is_better(self) -> bool | None:
        """True if b is better than a, False if it is worse, None where it cannot be told."""
        return None if self.change is None else (self.change == "rose") != self.is_text


def judge_base(
    verdict: SuiteVerdict,
    base: SuiteAnswers,
    tuned: Sequence[SuiteAnswers],
    *,
    look: int = 1,
    under_way: int = 0,
) -> SuiteVerdict:
    """The verdict on a config against its base model before `together`. Of a single seed it is one
    on that adapter alone; `look` 0 means that none is complete."""
    values, words = aligned([base, *tuned]) if tuned else (np.zeros((1, 0)), np.zeros(0, int))
    fixed, own = values[0], values[1:]
    verdict = replace(verdict, seeds=(0, len(tuned)), questions=len(fixed))
    if not values.size or not np.isfinite(values).all():
        return replace(verdict, claim=_nothing(verdict, values))
    verdict = _scored(verdict, fixed, own)
    if not verdict.is_text:
        fixed, own = fixed.astype(bool), own.astype(bool)
    if len(tuned) == 1 and not under_way:
        return _of_one_adapter(verdict, fixed, own[0], words)
    return _tested(verdict, lambda: against_fixed(fixed, own, words), len(tuned), look, under_way)


def judge_pair(
    verdict: SuiteVerdict,
    a: Sequence[SuiteAnswers],
    b: Sequence[SuiteAnswers],
    *,
    look: int = 1,
    under_way: int = 0,
) -> SuiteVerdict:
    """The verdict on two configs before `together`, from the answers of one run a seed."""
    verdict = replace(verdict, seeds=(len(a), len(b)))
    if not a or not b:
        return replace(verdict, claim=_nothing(verdict, np.zeros((0, 0))))
    values, words = aligned([*a, *b])
    verdict = replace(verdict, questions=values.shape[1])
    if not values.size or not np.isfinite(values).all():
        return replace(verdict, claim=_nothing(verdict, values))
    values = values if verdict.is_text else values.astype(bool)
    first, second = values[: len(a)], values[len(a) :]
    verdict = _scored(verdict, first, second)
    few = min(len(a), len(b))
    return _tested(verdict, lambda: two_level(first, second, words), few, look, under_way)


def together(verdicts: Sequence[SuiteVerdict]) -> list[SuiteVerdict]:
    """The verdicts that stand beside each other, corrected for their number, with their claims.
    Suites that wait for their first look count among them."""
    done = list(verdicts)
    suites = [i for i, v in enumerate(done) if v.p_value is not None or v.waits]
    for i, p_holm in zip(suites, holm([done[i].p_value for i in suites]), strict=True):
        v = done[i]
        if v.waits:
            continue
        assert v.difference is not None
        change = ("rose" if v.difference > 0 else "fell") if p_holm <= ALPHA else None
        done[i] = _told(replace(v, p_holm=p_holm, change=change), len(suites))
    return done


def study(trained_on: str, verdicts: Sequence[SuiteVerdict]) -> str:
    """One sentence on a config: what rose, fell, was never right or cannot be told."""
    if not verdicts:
        return ""
    told = [f"{v.suite} {_outcome(v)}" for v in verdicts if v.change is not None]
    unanswered = [v.suite for v in verdicts if v.is_unanswered]
    if unanswered:
        told.append(f"{listed(unanswered)} had no right answer before or after")
    open_ = [v.suite for v in verdicts if v.change is None and not v.is_unanswered]
    if open_:
        told.append(f"{listed(open_)} cannot be told")
    alone = any(v.seeds == (0, 1) and v.p_value is not None for v in verdicts)
    only = "; it speaks of this adapter only" if alone else ""
    return f"trained on {trained_on}, {', '.join(told)}{only}"


# --- maths ----------------------------------------------------------------------------------------


def _scored(v: SuiteVerdict, a: np.ndarray, b: np.ndarray) -> SuiteVerdict:
    score_a, score_b = float(a.mean()), float(b.mean())
    return replace(v, score_a=score_a, score_b=score_b, difference=score_b - score_a)


def _tested(
    v: SuiteVerdict, estimate: Callable[[], Estimate], few: int, look: int, under_way: int
) -> SuiteVerdict:
    """The verdict with interval and p-value, if there are seeds enough and a look is complete."""
    if few < MIN_SEEDS or not look:
        return replace(v, waits=few >= MIN_SEEDS, claim=_too_early(v, under_way))
    found = estimate()
    low, high = found.interval(ALPHA * share(look))
    p_value = min(1.0, found.p_value() / share(look))
    return replace(v, ci_low=low, ci_high=high, p_value=p_value, look=look)


def _of_one_adapter(
    v: SuiteVerdict, base: np.ndarray, tuned: np.ndarray, words: np.ndarray
) -> SuiteVerdict:
    """The verdict on one adapter and its base: exact for answers, Student's t for running text."""
    if not v.is_text:
        low, high = paired_interval(base, tuned, words)
        return replace(v, ci_low=low, ci_high=high, p_value=mcnemar(base, tuned, words))
    found = against_fixed(base, tuned[None], words)
    if not found.word_variance:
        return replace(v, claim=_too_early(v, 0))
    low, high = found.interval()
    return replace(v, ci_low=low, ci_high=high, p_value=found.p_value())


# --- sentences ------------------------------------------------------------------------------------


def _told(v: SuiteVerdict, suites: int) -> SuiteVerdict:
    """The verdict on one suite with its sentence, in parts and as a whole."""
    assert v.p_holm is not None
    p = p_text(v.p_holm) + (f" after Holm over {suites} suites" if suites > 1 else "")
    tested = "" if v.is_unanswered else f", {p}"
    if v.about == "base" and tested:
        tested += f", from the base model to {v.b}"
    outcome, ground = _what(v), _ground(v)
    return replace(v, outcome=outcome, ground=ground, claim=f"{outcome}{tested}; {ground}")


def _what(v: SuiteVerdict) -> str:
    """The result of the test of one suite."""
    if v.is_unanswered:
        first = "the base model" if v.about == "base" else v.a
        return f"{v.suite} had no right answer, of {first} or of {v.b}"
    if v.about == "base":
        return f"{v.suite} {_outcome(v)}" if v.change else f"{v.suite} cannot be told: {_size(v)}"
    if v.change is None:
        return f"{v.suite} cannot tell {v.a} from {v.b}: {_size(v)}"
    first, second = (v.b, v.a) if v.is_better else (v.a, v.b)
    return f"{first} is better than {second} on {v.suite}, by {_size(v, sign=False)}"


def _ground(v: SuiteVerdict) -> str:
    """The questions and seeds that the test of one suite rests on."""
    assert v.seeds is not None
    asked = f"{v.questions:,} {'sentences' if v.is_text else 'questions'}"
    if v.seeds == (0, 1):
        ground = f"{asked}; it speaks of this adapter only"
    elif v.about == "base":
        ground = f"{asked}, {v.seeds[1]} seeds"
    else:
        ground = f"{asked}, {v.seeds[0]} and {v.seeds[1]} seeds"
    return ground + (f", look {v.look}" if (v.look or 1) != 1 else "")


def _outcome(v: SuiteVerdict) -> str:
    """`rose 4.1 points (95% CI 2.0 to 6.3)`; of text, in bits per character."""
    return f"{v.change} {_size(v, sign=False)}"


def _size(v: SuiteVerdict, *, sign: bool = True) -> str:
    """The difference with its interval: signed, or the size of a change that is named."""
    assert v.difference is not None and v.ci_low is not None and v.ci_high is not None
    ends = v.difference, v.ci_low, v.ci_high
    if not sign and v.difference < 0:
        ends = -v.difference, -v.ci_high, -v.ci_low
    factor, unit, digits = (1, "bits per character", 3) if v.is_text else (100, "points", 1)
    size = decimal(factor * ends[0], digits, plus=sign)
    low, high = (decimal(factor * end, digits) for end in ends[1:])
    return f"{size} {unit} (95% CI {low} to {high})"


def _too_early(v: SuiteVerdict, under_way: int) -> str:
    assert v.seeds is not None
    told = [f"{count or 'no'} seed{'s' * (count != 1)} of {name}"
            for name, count in zip((v.a, v.b), v.seeds, strict=True) if name != BASE]  # fmt: skip
    noun, verb = ("seed", "is") if under_way == 1 else ("seeds", "are")
    if all(count >= MIN_SEEDS for count, name in zip(v.seeds, (v.a, v.b), strict=True)
           if name != BASE):  # fmt: skip
        return (
            f"{v.suite} cannot be told yet: {under_way} more {noun} {verb} under way, and the "
            f"verdict comes when all have ended; so far {' and '.join(told)}"
        )
    more = f"; {under_way} more {verb} under way" if under_way else ""
    return (
        f"{v.suite} cannot be told: {' and '.join(told)}; from {MIN_SEEDS} seeds on it is known "
        f"how much they differ by chance{more}"
    )


def _nothing(v: SuiteVerdict, values: np.ndarray) -> str:
    """Why a suite is not compared, from the values that both sides have."""
    if not values.size:
        return f"{v.suite} is not compared: {v.a} and {v.b} have no scored question in common"
    who = f"the {v.a} or an adapter of" if v.about == "base" else f"an adapter of {v.a} or"
    return f"{v.suite} is not compared: {who} {v.b} gives an answer no finite probability"
