"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from src.models.losses import answer_log_probabilities, answer_loss

# Over two tokens, logits (0, ln 3) are probabilities 1/4 and 3/4.
QUARTER, THREE_QUARTERS = -math.log(0.25), -math.log(0.75)


def logits(*labels: int) -> torch.Tensor:
    """One row in which every position says 1/4 for token 0 and 3/4 for token 1."""
    return torch.tensor([[[0.0, math.log(3)]] * len(labels)])


def test_loss_is_the_mean_over_the_answer_and_sees_the_next_token() -> None:
    labels = torch.tensor([[-100, -100, 1, 0]])
    loss = answer_loss(logits(*labels[0]), labels)
    assert loss.item() == pytest.approx((THREE_QUARTERS + QUARTER) / 2)


def test_label_smoothing_spreads_over_the_whole_vocabulary() -> None:
    labels = torch.tensor([[-100, 1]])
    loss = answer_loss(logits(*labels[0]), labels, label_smoothing=0.2)
    assert loss.item() == pytest.approx(0.8 * THREE_QUARTERS + 0.1 * QUARTER + 0.1 * THREE_QUARTERS)


def test_micro_batches_add_up_to_the_mean_of_the_step() -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 6, 11)
    labels = torch.randint(0, 11, (4, 6))
    labels[0, :5] = -100  # rows of unlike length, so a mean of means would be another number
    whole = answer_loss(scores, labels, label_smoothing=0.1)
    tokens = (labels[:, 1:] != -100).sum()
    halves = [
        answer_loss(scores[part], labels[part], label_smoothing=0.1, tokens=tokens)
        for part in (slice(0, 1), slice(1, 4))
    ]
    assert sum(half.item() for half in halves) == pytest.approx(whole.item())


def test_no_answer_is_no_loss() -> None:
    labels = torch.full((1, 3), -100)
    assert answer_loss(logits(*labels[0]), labels).item() == 0


def test_loss_of_16_bit_logits_is_in_fp32() -> None:
    labels = torch.tensor([[-100, 1]])
    assert answer_loss(logits(*labels[0]).bfloat16(), labels).dtype == torch.float32


def test_log_probabilities_of_each_row() -> None:
    labels = torch.tensor([[-100, 1, 0], [-100, -100, 1], [-100, -100, -100]])
    scores = logits(0, 0, 0).expand(3, -1, -1)
    total, hits, tokens, greedy = answer_log_probabilities(scores, labels, dtype=torch.float32)
    assert total.tolist() == pytest.approx([-THREE_QUARTERS - QUARTER, -THREE_QUARTERS, 0])
    assert hits.tolist() == [1, 1, 0]
    assert tokens.tolist() == [2, 1, 0]
    assert greedy.tolist() == [False, True, True]
