"""AdamW and SGD over stacked adapters: each with its own learning rate, decay, clipping and count
of steps; one that is finished or has no finite gradient stays as it is."""

import math
from dataclasses import dataclass

import torch

# Numbers of one step of one adapter, in the order of a row of the table.
COLUMNS = ("active", "max_norm", "decay", "lerp", "keep_2", "add_2", "size", "root", "epsilon")


@dataclass(frozen=True)
class Rule:
    """What one adapter's optimizer was given; `kind` adamw or sgd, as in torch.optim."""

    kind: str
    max_norm: float
    weight_decay: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.0

    def row(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """The table's row of optimizer step `step` (from 1)."""
        if self.kind == "sgd":
            return (
                1, self.max_norm, self.weight_decay, self.momentum, 0, 0, learning_rate, 1, 0
            )  # fmt: skip
        return (
            1,
            self.max_norm,
            1 - learning_rate * self.weight_decay,
            1 - self.beta1,
            self.beta2,
            1 - self.beta2,
            learning_rate / (1 - self.beta1**step),
            math.sqrt(1 - self.beta2**step),
            self.epsilon,
        )


IDLE = (0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0)  # the row of an empty slot


def update_(
    kind: str,
    weights: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    gradients: torch.Tensor,
    losses: torch.Tensor,
    table: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step in place; each adapter's gradient norm before clipping (K,), and which adapters took
    it (K,) bool.

    weights, first and second (K, P) fp32 or fp64, gradients (K, P), losses (K,), table
    (K, COLUMNS).
    The arithmetic is that of torch.optim.AdamW and SGD, and of torch.nn.utils.clip_grad_norm_.
    SGD has its momentum in `first` and leaves `second` alone.
    """
    active, max_norm, decay, lerp, keep_2, add_2, size, root, epsilon = (
        table[:, index, None] for index in range(len(COLUMNS))
    )
    wide = gradients.to(weights.dtype)
    norms = wide.square().sum(1, keepdim=True).sqrt()
    taken = (active > 0) & norms.isfinite() & losses.isfinite()[:, None]
    wide = wide * (max_norm / (norms + 1e-6)).clamp(max=1.0)
    if kind == "sgd":
        moment = lerp * first + wide + decay * weights
        new = weights - size * moment
    else:
        moment = first.lerp(wide, lerp)
        square = keep_2 * second + add_2 * wide * wide
        new = decay * weights - size * (moment / (square.sqrt() / root + epsilon))
        second.copy_(torch.where(taken, square, second))
    first.copy_(torch.where(taken, moment, first))
    # `where`, not a product: nan times zero is nan.
    weights.copy_(torch.where(taken, new, weights))
    return norms[:, 0], taken[:, 0]
