"""Cross-entropy that overwrites the logits by their gradient, and scores of given answers.

    logits      (tokens, V_pad)    `columns` is V_pad, `vocabulary` is V; the rest is padding
    targets     (tokens,)          IGNORE where nothing counts
    weight      (tokens,)          loss weight of the token's adapter
    smooth      (tokens,)          label smoothing of the token's adapter

One program per token reads its logits in pieces of BLOCK columns, with a running maximum and sum
(online softmax, Milakov and Gimelshein 2018, arXiv 1805.02867).
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl

from src.models.losses import IGNORED


@triton.jit
def _cross_entropy(
    logits_ptr, target_ptr, weight_ptr, smooth_ptr, loss_ptr,
    columns: tl.constexpr, vocabulary: tl.constexpr,
    IGNORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weighted loss of one token; overwrites its logits by their gradient. Grid (tokens,)."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * columns
    target = tl.load(target_ptr + row)
    weight = tl.load(weight_ptr + row).to(tl.float32)
    smooth = tl.load(smooth_ptr + row).to(tl.float32)
    counted = target != IGNORE
    # A maximum and a sum for each place of a block: one for all would be a barrier in each round.
    # Finite, because -inf - -inf is nan; the logits of an ignored token are not read.
    tops = tl.full((BLOCK,), -1e30, tl.float32)
    totals = tl.zeros((BLOCK,), tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, tl.where(counted, vocabulary, 0), BLOCK):
        column = start + tl.arange(0, BLOCK)
        in_vocabulary = column < vocabulary
        x = tl.load(logits_ptr + column, mask=in_vocabulary, other=-1e30).to(tl.float32)
        higher = tl.maximum(tops, x)
        totals = totals * tl.exp(tops - higher) + tl.exp(x - higher)
        sums += tl.where(in_vocabulary, x, 0.0)
        tops = higher
    top, linear = tl.max(tops, 0), tl.sum(sums, 0)
    total = tl.sum(totals * tl.exp(tops - top), 0)
    log_sum = top + tl.log(total)
    label_score = tl.load(logits_ptr + tl.where(counted, target, 0)).to(tl.float32)
    loss = (1 - smooth) * (log_sum - label_score) + smooth * (log_sum - linear / vocabulary)
    tl.store(loss_ptr + row, tl.where(counted, loss * weight, 0.0))
    # No thread may overwrite the label's logit before every thread has read it.
    tl.debug_barrier()
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        in_vocabulary = column < vocabulary
        x = tl.load(logits_ptr + column, mask=in_vocabulary & counted, other=0.0).to(tl.float32)
        slope = tl.exp(x - log_sum) - smooth / vocabulary
        slope -= tl.where(column == target, 1 - smooth, 0.0)
        slope = tl.where(in_vocabulary & counted, slope * weight, 0.0)
        tl.store(logits_ptr + column, slope.to(logits_ptr.dtype.element_ty), mask=column < columns)


def cross_entropy_(
    logits: torch.Tensor,  # (tokens, V_pad)
    targets: torch.Tensor,  # (tokens,)
    loss_weights: torch.Tensor,  # (tokens,)
    smoothing: torch.Tensor,  # (tokens,)
    vocabulary: int,
) -> torch.Tensor:
    """`loss.cross_entropy_` in one kernel."""
    tokens, columns = logits.shape
    losses = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    _cross_entropy[(tokens,)](
        logits, targets.contiguous(), loss_weights.contiguous(), smoothing.contiguous(), losses,
        columns, vocabulary, IGNORE=IGNORED, BLOCK=2048, num_warps=8,
    )  # fmt: skip
    return losses


@triton.jit
def _row_scores(
    logits_ptr, target_ptr, log_p_ptr, best_ptr,
    columns: tl.constexpr, vocabulary: tl.constexpr, IGNORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: log p of its target, and its arg max (the first of equals). Grid (tokens,)."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * columns
    target = tl.load(target_ptr + row)
    top = -float("inf")
    total = 0.0
    best = 0
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        in_vocabulary = column < vocabulary
        x = tl.load(logits_ptr + column, mask=in_vocabulary, other=-float("inf")).to(tl.float32)
        here = tl.max(x, 0)
        index = tl.min(tl.where(x == here, column, vocabulary), 0)
        best = tl.where(here > top, index, best)
        higher = tl.maximum(top, here)
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        top = higher
    counted = target != IGNORE
    label_score = tl.load(logits_ptr + tl.where(counted, target, 0)).to(tl.float32)
    tl.store(log_p_ptr + row, tl.where(counted, label_score - top - tl.log(total), 0.0))
    tl.store(best_ptr + row, best)


def row_scores(
    logits: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`loss.row_scores` in one kernel."""
    tokens, columns = logits.shape
    log_p = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    best = torch.empty(tokens, dtype=torch.long, device=logits.device)
    _row_scores[(tokens,)](
        logits, targets.contiguous(), log_p, best, columns, vocabulary, IGNORE=IGNORED, BLOCK=4096,
        num_warps=8,
    )  # fmt: skip
    return log_p, best
