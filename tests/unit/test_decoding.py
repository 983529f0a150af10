"""The way answers are decoded: its values, its words, and the interval of several answers."""

import math

import numpy as np
import pytest

from src.models.decoding import GREEDY, Decoding, DecodingError
from src.models.intervals import repeated_interval, score_interval


def of(temperature=None, top_p=None, top_k=None, num_samples=None):
    return Decoding.of(temperature, top_p, top_k, num_samples, seed=3)


def test_nothing_and_a_temperature_of_0_are_greedy():
    assert of().is_greedy and of().document() == {"method": "greedy"} and str(of()) == "greedy"
    assert of(temperature=0, top_p=0.9, top_k=5).document() == GREEDY.document()


def test_any_other_value_samples_at_a_temperature_of_1():
    for chosen in ({"top_p": 0.9}, {"top_k": 5}, {"num_samples": 2}):
        assert of(**chosen).temperature == 1
    decoding = of(temperature=0.7, top_p=0.9, top_k=5, num_samples=4)
    assert decoding.document() == {
        "method": "sampling", "temperature": 0.7, "top_p": 0.9, "top_k": 5, "num_samples": 4,
        "seed": 3,
    }  # fmt: skip
    told = "sampling (temperature 0.7, top_p 0.9, top_k 5, 4 answers a question, seed 3)"
    assert str(decoding) == told
    assert str(of(temperature=1)) == "sampling (temperature 1, seed 3)"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": -1, "temperature": 0}, "top_k is -1"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"num_samples": 3, "temperature": 0}, "3 greedy answers to a question are all the same"),
    ],
)
def test_a_wrong_value_is_a_sentence(values, sentence):
    with pytest.raises(DecodingError, match=f"^{sentence}"):
        of(**values)


def test_draws_belong_to_a_question_and_a_sample():
    drawn = Decoding(temperature=1, seed=3).draws([4, 7], 1, 5)
    assert drawn.shape == (2, 5) and ((drawn >= 0) & (drawn < 1)).all()
    alone = Decoding(temperature=1, seed=3).draws([7], 1, 2)
    assert (alone == drawn[1:, :2]).all()
    assert len({*drawn.ravel(), *Decoding(temperature=1, seed=3).draws([7], 0, 5).ravel()}) == 15
    assert not (Decoding(temperature=1, seed=4).draws([7], 1, 5) == drawn[1:]).any()


def test_several_answers_to_a_question_count_for_less_than_as_many_questions():
    one = np.array([[True], [False], [True], [True]])
    assert repeated_interval(one) == score_interval(3, 4)
    # Always the same answer: no more is known than from one. Nothing right: as of the questions.
    assert repeated_interval(one.repeat(5, axis=1)) == pytest.approx(score_interval(3, 4))
    assert repeated_interval(np.zeros((4, 5), bool)) == pytest.approx(score_interval(0, 4))
    assert all(math.isnan(bound) for bound in repeated_interval(np.zeros((0, 5), bool)))
    # Answers that do not depend on the question count as so many questions.
    mixed = np.array([[True, False, True, False]] * 10)
    assert repeated_interval(mixed) == pytest.approx(score_interval(20, 40))


def test_the_interval_of_several_answers_holds_in_95_of_100_cases():
    draws = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        # The questions of a test are some of many, each with its own share of right answers.
        difficulty = draws.beta(0.8, 1.2, size=40)
        low, high = repeated_interval(draws.random((40, 4)) < difficulty[:, None])
        inside += low <= 0.4 <= high
    assert 930 <= inside <= 975
