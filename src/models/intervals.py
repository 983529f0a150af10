"""Confidence intervals of shares of right answers, valid for few words and near 0 and 100%."""

import math

import numpy as np

Z = 1.959964  # of the normal distribution, at 97.5%


def score_interval(right: float, rows: float) -> tuple[float, float]:
    """The 95% score interval (Wilson 1927) of a share; nan without rows. It holds for few rows and
    for shares near 0 and 1."""
    if not rows:
        return math.nan, math.nan
    share, spread = right / rows, Z**2 / rows
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # Exact at the ends, which rounding would miss.
    return (
        max(middle - half, 0.0) if right else 0.0,
        min(middle + half, 1.0) if right < rows else 1.0,
    )


def repeated_interval(right: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the share of right answers over bool (questions, answers to each).

    Answers to one question share its difficulty, so they count for less than as many questions:
    the score interval at the number of answers that, if all were of different questions, would
    vary as much as the means of the questions do (Korn & Graubard 1998, Survey Methodology
    24:193). That is at least the number of questions.
    """
    questions, times = right.shape
    if questions < 2 or times == 1:
        return score_interval(float(right.sum()) / times, questions)
    share = float(right.mean())
    variance = float(right.mean(axis=1).var(ddof=1)) / questions
    spread = share * (1 - share)  # of one answer
    # Where nothing or everything is right, nothing is known of what the questions share.
    independent = spread / max(variance, spread / (questions * times)) if spread else questions
    answers = max(independent, questions)
    return score_interval(share * answers, answers)


def paired_interval(a: np.ndarray, b: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    """The 95% interval of b's share of right answers less a's, in [-1, 1].

    From bool (questions,) of two models, and the number of each question's word. The interval of
    Wald after two imaginary words were added, one that only a gets right and one that only b does
    (Bonett & Price 2012, Journal of Educational and Behavioral Statistics 37:479), which covers
    what it says for few words and where the two hardly differ. Questions about one word share its
    difficulty, so a word counts as one draw (linearised ratio; Cochran 1977, section 6.3).
    """
    if not len(words):
        return -1.0, 1.0
    asked = np.bincount(words).astype(float)
    more = asked.mean()
    change = np.bincount(words, weights=b.astype(float) - a)
    change = np.concatenate([change, [more, -more]])
    asked = np.concatenate([asked, [more, more]])
    difference = change.sum() / asked.sum()
    reach = Z * float(((change - difference * asked) ** 2).sum()) ** 0.5 / asked.sum()
    return max(-1.0, float(difference - reach)), min(1.0, float(difference + reach))
