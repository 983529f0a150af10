"""Losses and scores over the tokens of answers. B rows, T tokens per row, V vocabulary."""

import torch
import torch.nn.functional as F

IGNORED = -100  # label of a token that is no part of an answer; PyTorch's ignore_index


def answer_loss(
    logits: torch.Tensor,  # (B, T, V); position t predicts label t + 1
    labels: torch.Tensor,  # (B, T), IGNORED where there is no answer
    *,
    label_smoothing: float = 0.0,
    tokens: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens in nats, a scalar fp32; 0 where there are none.

    With label smoothing s the target is (1 - s) on the label plus s / V on every token (Szegedy et
    al. 2016, arXiv 1512.00567, section 7). `tokens` divides the sum in place of this batch's own
    count: with the count of all micro-batches of a step, their losses add up to the step's mean.
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
    logits: torch.Tensor,  # (B, T, V); position t predicts label t + 1
    labels: torch.Tensor,  # (B, T), IGNORED where there is no answer
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per row: log-probability of its answer in nats, arg max hits, answer tokens.

    (B,) each; the first is fp32, the counts are int64.
    """
    targets = labels[:, 1:]
    counts = targets != IGNORED
    # Only answer positions are cast to fp32: with V = 150,000 all of them would not fit in memory.
    scores = logits[:, :-1][counts].float()
    answers = targets[counts]
    log_p = scores.log_softmax(-1).gather(-1, answers[:, None])[:, 0]
    rows = counts.nonzero()[:, 0]
    total = torch.zeros(len(labels), device=logits.device).index_add_(0, rows, log_p)
    hits = torch.zeros(len(labels), dtype=torch.long, device=logits.device)
    hits.index_add_(0, rows, (scores.argmax(-1) == answers).long())
    return total, hits, counts.sum(1)
