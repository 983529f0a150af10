"""Losses and scores over the tokens of answers. B rows, T tokens per row, V vocabulary."""

import torch
import torch.nn.functional as F

IGNORED = -100  # label of a token that is no part of an answer; PyTorch's ignore_index

# By how much two logits must differ, as a share of their size, so that no order of sums and no
# kernel makes the other one the larger. In 16 bits that is 16 roundings, where 3 were seen; in fp32
# rounding is no matter of speed, so it is a hundred times of what was seen (tests: test_greedy).
NEAR_TIE = {
    torch.bfloat16: 2.0**-3,
    torch.float16: 2.0**-6,
    torch.float32: 2.0**-10,
    torch.float64: 2.0**-30,
}


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
    *,
    dtype: torch.dtype,  # that the model computed in
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per row: log-probability of its answer in nats, arg max hits, answer tokens, and True where
    the answer is what greedy decoding gives.

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
    best = scores.argmax(-1)
    hits, clear = torch.zeros(2, len(labels), dtype=torch.long, device=logits.device)
    hits.index_add_(0, rows, (best == answers).long())
    clear.index_add_(0, rows, ((best == answers) & clearly_first(scores, best, dtype)).long())
    tokens = counts.sum(1)
    return total, hits, tokens, clear == tokens


def clearly_first(
    scores: torch.Tensor,  # (tokens, V) logits
    best: torch.Tensor,  # (tokens,) arg max of each
    dtype: torch.dtype,  # that they were computed in
) -> torch.Tensor:
    """True where the arg max is the same in every way to compute these logits, (tokens,).

    An answer of which each token is the arg max after the true ones before it is what greedy
    decoding gives, so it need not be decoded. But decoding sums in another order, and of two nearly
    equal logits rounding decides which is the larger. So the second largest has to be smaller by
    NEAR_TIE of the logits' size: of the largest one, or of how far it lies above their mean.
    """
    high, mean = scores.amax(-1), scores.mean(-1)
    second = scores.scatter(-1, best[:, None], -torch.inf).amax(-1)
    return high - second > NEAR_TIE[dtype] * torch.maximum(high.abs(), high - mean)
