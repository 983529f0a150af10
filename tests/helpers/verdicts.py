"""Made-up answers of runs, for tests of verdicts."""

import numpy as np

from src.analysis.verdicts import Answers

QUESTIONS = 300

WORDS = np.arange(QUESTIONS)


def answered(right: np.ndarray, *, name: str = "run", fingerprint: int = 1) -> Answers:
    return Answers(name, "test", fingerprint, right.astype(bool), np.arange(len(right)))


def seeds(count: int, *, better: float = 0.0, seed: int = 0, skill: float = 0.05) -> np.ndarray:
    """Right answers of `count` seeds on words that are the same for every `seed`."""
    ease = np.random.default_rng(99).normal(0.3, 1, QUESTIONS)
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, 0.5, (count, QUESTIONS)) + rng.normal(0, skill, (count, 1))
    return ease + better + luck > 0


def side(right: np.ndarray, name: str = "run") -> list[Answers]:
    return [answered(row, name=f"{name}{i}") for i, row in enumerate(right)]
