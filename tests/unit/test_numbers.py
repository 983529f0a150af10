"""Numbers, shares and sentences as people read them."""

import pytest

from src.format import as_sentence, cut, decimal, listed, number, percent, points, spread
from src.models.metrics import value_text


def test_equal_numbers_look_equal_whichever_way_they_were_computed():
    # Three of 400 questions, as a share and as a difference of two shares: 0.75 is a tie.
    for share in (3 / 400, 0.9575 - 0.95, 0.95 - 0.9425, 0.5 - 0.4925):
        assert points(share) == points(3 / 400) == "0.8"
        assert percent(share) == number(share, ".1%") == "0.8%"
        assert spread(share, is_share=True) == "0.8"
    for share in (5 / 400, 0.9525 - 0.94, 0.0625 - 0.05):
        assert points(share) == points(5 / 400)


def test_a_difference_has_a_minus_sign_and_nothing_is_less_than_zero():
    assert points(-0.0101) == points(-0.0101, plus=True) == "−1.0"
    assert points(0.0101, plus=True) == "+1.0"
    for nothing in (0.0, -0.0, -0.0004, 0.0004):
        assert points(nothing) == points(nothing, plus=True) == "0.0"
    assert percent(-1e-9) == "0.0%"
    assert decimal(-1234.5678, 3) == "−1,234.568"
    assert number(None, ".1%") == percent(float("nan")) == "–"


def test_a_metric_is_written_with_its_spread_in_its_own_unit():
    assert value_text("val/exact_match", 0.875, 0.012) == "87.5% ± 1.2"
    assert value_text("suite/count/cer", 0.02) == "2.0%"
    assert value_text("val/loss", 0.21349, 0.0042) == "0.2135 ± 0.0042"
    assert value_text("val/loss", None) == value_text("test/exact_match", float("nan")) == "–"


def test_a_text_that_is_cut_says_so_within_its_limit():
    assert [cut("seven", limit) for limit in (6, 5, 4)] == ["seven", "seven", "sev…"]


def test_a_list_of_names_counts_those_that_it_leaves_out():
    assert [listed("abcd"[:many]) for many in (1, 2, 4)] == ["a", "a and b", "a, b, c and d"]
    assert [listed("abcd"[:many], 2) for many in (3, 4)] == ["a, b and c", "a, b and 2 more"]


@pytest.mark.parametrize(
    ("text", "names", "sentence"),
    [
        ("rank spells better", ["rank"], "rank spells better."),
        ("rank, as it ships, spells better", ["rank"], "rank, as it ships, spells better."),
        ("ranks differ", ["rank"], "Ranks differ."),
        ("cannot tell yet", ["rank"], "Cannot tell yet."),
        ("r32 lr0.001 is ahead", [], "r32 lr0.001 is ahead."),
    ],
)
def test_a_sentence_that_begins_with_a_name_keeps_its_letters(text, names, sentence):
    assert as_sentence(text, names) == sentence
