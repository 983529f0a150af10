"""Metrics against numbers worked out by hand."""

import math

import pyarrow as pa
import pytest

from src.models.metrics import (
    character_error_rate,
    edit_distance,
    judge,
    mean_edit_distance,
    same,
    share_right,
    token_accuracy,
)
from src.training.dictionary import (
    asked_right,
    correction_shares,
    dictionary_scores,
    nearest_words,
)


def test_exact_match_counts_case_but_no_surrounding_space() -> None:
    right = [same(answer, "receive") for answer in (" receive ", "Receive", "recieve")]
    assert right == [True, False, False] and share_right(right) == pytest.approx(1 / 3)


def test_a_swap_is_one_edit() -> None:
    assert edit_distance("recieve", "receive") == 1
    assert edit_distance("", "cat") == 3
    assert mean_edit_distance(judge(["recieve", "cat"], ["receive", "cart"])) == 1


def test_character_error_rate_counts_a_swap_as_two_and_weighs_by_length() -> None:
    # 2 edits in `receive` (7), 1 in `cart` (4).
    judged = judge(["recieve", "cat"], ["receive", "cart"])
    assert character_error_rate(judged) == pytest.approx(3 / 11)
    assert character_error_rate(judge(["aaaa"], ["b"])) == 4


def test_token_accuracy() -> None:
    assert token_accuracy(3, 4) == 0.75


def test_no_words_is_not_a_score() -> None:
    assert math.isnan(share_right([]))
    assert math.isnan(mean_edit_distance([]))
    assert math.isnan(character_error_rate([]))
    assert math.isnan(token_accuracy(0, 0))


def test_lists_of_unlike_length_are_refused() -> None:
    with pytest.raises(ValueError):
        judge(["a"], [])


def test_mends_and_leaves_alone_are_told_apart() -> None:
    asked = ["recieve", "farmer", "wierd", "house"]
    questions = [f"Correct the spelling: {word}" for word in asked]
    expected = ["receive", "farmer", "weird", "house"]
    kinds = asked_right(questions, expected)
    assert kinds == [False, True, False, True]
    assert correction_shares(kinds, [True, False, False, True]) == {
        "mends": 1 / 2, "leaves_alone": 1 / 2
    }  # fmt: skip
    # Nothing to tell apart where no word is right already, or it is no correction.
    assert correction_shares(kinds[::2], [True, True]) == {}
    assert correction_shares(asked_right(["farmer"], ["farmer"]), [True]) == {}
    # And no share of misspelled words where there are none: no words is not a score.
    assert correction_shares(kinds[1::2], [False, True]) == {"leaves_alone": 1 / 2}


def test_the_dictionary_takes_the_nearest_word() -> None:
    assert nearest_words(["recieve", "farmer", "tommorow", "", "é"])[:3] == [
        "receive", "farmer", "tomorrow"
    ]  # fmt: skip
    asked = {"question": ["Correct the spelling: recieve"], "expected": ["receive"]}
    assert dictionary_scores(pa.table(asked)) == {"exact_match/dictionary": 1}
    assert dictionary_scores(pa.table(asked | {"question": ["Spell the word: receive"]})) == {}
