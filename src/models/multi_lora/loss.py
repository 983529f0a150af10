"""Loss at the answer tokens of several adapters, and scores of given answers.

Dimension letters: __init__.
"""

from collections.abc import Callable
from typing import Any

import torch

from src.models.losses import IGNORED


def answer_losses(
    hidden: torch.Tensor,  # (K, N, D) at the token before each answer token
    head: torch.Tensor,  # (V_pad, D)
    targets: torch.Tensor,  # (K, N), IGNORED where nothing counts
    loss_weights: torch.Tensor,  # (K, N) 1 / the adapter's number of answer tokens
    smoothing: torch.Tensor,  # (K,) label smoothing
    *,
    vocabulary: int,
    softcap: float | None = None,
    chunk: int = 4096,
    room: int | None = None,
    entropy_: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Each adapter's own `losses.answer_loss` in nats, (K,) fp32 or fp64.

    Logits exist for at most `chunk` tokens at a time, and are computed for `room` tokens in all: no
    fewer than there are targets; by default for K N.
    """
    adapters, tokens, width = hidden.shape
    flat, labels = hidden.reshape(-1, width), targets.flatten()
    weights, smooth = loss_weights.flatten(), smoothing.repeat_interleave(tokens)
    place = None
    if room is not None and room < len(labels):
        place = _places_of_targets(labels, room)
        taken = place.clamp(max=len(labels) - 1)
        labels = labels[taken].where(place < len(labels), IGNORED)
        weights, smooth = weights[taken], smooth[taken]
    losses: torch.Tensor = _AnswerLoss.apply(
        flat, head, labels, weights, smooth, vocabulary, softcap, chunk, place,
        entropy_ or cross_entropy_,
    )  # fmt: skip
    return losses.view(adapters, tokens).sum(1)


def _places_of_targets(
    targets: torch.Tensor,  # (tokens,)
    room: int,
) -> torch.Tensor:
    """Indices of the targets that count, then padding: the number of all tokens, (room,)."""
    counted = targets != IGNORED
    every = torch.arange(len(targets), device=targets.device)
    place = torch.full((room + 1,), len(targets), device=targets.device)
    # Those that do not count go to a last place, which is dropped; so do those without room, which
    # there are while a CUDA graph is captured, of a step without numbers.
    at = (counted.cumsum(0) - 1).where(counted, room).clamp(max=room)
    return place.scatter_(0, at, every)[:room]


class _AnswerLoss(torch.autograd.Function):
    """Computes the gradient with the loss: the head is frozen, so a chunk's logits can be dropped
    as soon as they have been read once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (tokens, D)
        head: torch.Tensor,
        targets: torch.Tensor,  # (room,), as the other tensors of tokens
        loss_weights: torch.Tensor,
        smoothing: torch.Tensor,
        vocabulary: int,
        softcap: float | None,
        chunk: int,
        place: torch.Tensor | None,  # (room,) of these in hidden; None: room is all tokens
        entropy_: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        """The weighted loss of each of the tokens, (tokens,)."""
        tokens, room = len(hidden), len(targets)
        read = hidden if place is None else hidden[place.clamp(max=tokens - 1)]
        losses, grad = [], torch.empty_like(read)
        # Chunks of about one size: a short one at the end would be a slow product.
        size = -(-room // -(-room // chunk))
        for start in range(0, room, size):
            part = slice(start, start + size)
            logits = softcap_(read[part] @ head.t(), softcap)
            slope = None if softcap is None else 1 - (logits / softcap).square()
            losses.append(
                entropy_(logits, targets[part], loss_weights[part], smoothing[part], vocabulary)
            )
            if slope is not None:  # `where`: the slope at an ignored token may be nan
                logits.copy_(torch.where(logits == 0, 0, logits * slope))
            torch.mm(logits, head, out=grad[part])
        loss = torch.cat(losses)
        if place is not None:  # one row more takes the padding
            grad = grad.new_zeros(tokens + 1, grad.shape[1]).index_copy_(0, place, grad)[:tokens]
            loss = loss.new_zeros(tokens + 1).index_copy_(0, place, loss)[:tokens]
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = ctx.saved_tensors
        scale = grads[0].to(grad.dtype)[:, None]
        return grad * scale, *[None] * 9


def softcap_(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """The logits bound to (-cap, cap) by tanh, in place; as they are without a cap."""
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def cross_entropy_(
    logits: torch.Tensor,  # (tokens, V_pad), overwritten by their own gradient
    targets: torch.Tensor,  # (tokens,)
    loss_weights: torch.Tensor,  # (tokens,)
    smoothing: torch.Tensor,  # (tokens,)
    vocabulary: int,
) -> torch.Tensor:
    """Weighted cross-entropy of each token in nats, (tokens,) fp32 or fp64.

    Columns from `vocabulary` on are padding.
    """
    scores = logits[:, :vocabulary]
    wide = scores if scores.dtype == torch.float64 else scores.float()
    counted = targets != IGNORED
    label = targets.where(counted, 0)[:, None]
    log_sum = wide.logsumexp(-1, keepdim=True)
    of_label = (log_sum - wide.gather(-1, label))[:, 0]
    of_uniform = log_sum[:, 0] - wide.mean(-1)
    smooth = smoothing.to(wide.dtype)
    weight = loss_weights.to(wide.dtype)
    loss = torch.where(counted, weight * ((1 - smooth) * of_label + smooth * of_uniform), 0)
    weight = weight.where(counted, 0)[:, None]
    gradient = (wide - log_sum).exp_() - smooth[:, None] / vocabulary
    gradient.scatter_add_(-1, label, (smooth - 1)[:, None])
    # `where` as well as the weight: the logits of an ignored token may be nan, and nan * 0 is nan.
    scores.copy_(torch.where(counted[:, None], gradient.mul_(weight), 0))
    logits[:, vocabulary:] = 0
    return loss


def row_scores(
    logits: torch.Tensor,  # (tokens, V_pad)
    targets: torch.Tensor,  # (tokens,)
    vocabulary: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target in nats (fp32 or fp64; 0 where IGNORED), and the arg max.

    Both (tokens,). Columns from `vocabulary` on are padding.
    """
    scores = logits[:, :vocabulary]
    wide = scores if scores.dtype == torch.float64 else scores.float()
    counted = targets != IGNORED
    log_p = wide.gather(-1, targets.where(counted, 0)[:, None])[:, 0] - wide.logsumexp(-1)
    return log_p.where(counted, 0), wide.argmax(-1)
