"""Losses over the answer's tokens."""

import torch
import torch.nn.functional as F

IGNORED = -100  # the label of a token that is no part of the answer


def answer_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    tokens: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy in nats over the labels that are not -100, a scalar fp32.

    logits (batch, length, vocabulary), labels (batch, length): position t predicts label t + 1.
    With smoothing s the target is (1 - s) on the label plus s / vocabulary on every token (Szegedy
    et al. 2016, section 7). `tokens` divides the sum instead of this batch's own count: with the
    count of all micro-batches of a step, their losses add up to the step's mean. Zero where no
    label counts.
    """
    targets = labels[:, 1:].flatten()
    total = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        targets,
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    if tokens is None:
        tokens = (targets != IGNORED).sum().clamp(min=1)
    return total / tokens


def answer_log_probabilities(
    logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per row: sum of log p of its labels in nats (fp32), how many labels the arg max hits, and how
    many there are (int64); each (batch,).

    logits (batch, length, vocabulary), labels (batch, length) with -100 where no answer is.
    """
    targets = labels[:, 1:]
    counts = targets != IGNORED
    # Only the answer's positions go to fp32: over a vocabulary of 150,000 the rest would not fit.
    scores = logits[:, :-1][counts].float()
    wanted = targets[counts]
    log_p = scores.log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
    rows = counts.nonzero()[:, 0]
    total = torch.zeros(len(labels), device=logits.device).index_add_(0, rows, log_p)
    hits = torch.zeros(len(labels), dtype=torch.long, device=logits.device)
    hits.index_add_(0, rows, (scores.argmax(-1) == wanted).long())
    return total, hits, counts.sum(1)
