"""AdamW and SGD over flat rows of parameters, each adapter with its own hyper-parameters.

Dimension letters: __init__. The arithmetic is that of torch.optim.AdamW and torch.optim.SGD after
torch.nn.utils.clip_grad_norm_, once per adapter. An adapter that is inactive, or whose loss or
gradient is not finite, skips the step: its parameters and its optimizer state stay bit for bit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch


class AdamWHyper(NamedTuple):
    """Numbers of one AdamW step of one adapter: a row of the (K, 9) table on the device.

    The kernel of `kernels.adamw` reads the columns in this order.
    """

    active: float  # 1; 0 in an idle slot
    max_grad_norm: float
    decay_factor: float  # 1 - learning rate * weight decay
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    step_size: float  # learning rate / (1 - beta1 ** step)
    sqrt_bias_correction2: float  # sqrt(1 - beta2 ** step)
    eps: float


class SGDHyper(NamedTuple):
    """Numbers of one SGD step of one adapter: a row of the (K, 5) table on the device."""

    active: float  # 1; 0 in an idle slot
    max_grad_norm: float
    weight_decay: float
    momentum: float
    learning_rate: float


Update = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def adamw_(
    params: torch.Tensor,  # (K, P) fp32 or fp64
    exp_avg: torch.Tensor,  # (K, P) first moment
    exp_avg_sq: torch.Tensor,  # (K, P) second moment
    grads: torch.Tensor,  # (K, P) compute dtype
    losses: torch.Tensor,  # (K,) nats
    hyper: torch.Tensor,  # (K, 9) columns of AdamWHyper
) -> tuple[torch.Tensor, torch.Tensor]:
    """One AdamW step in place.

    Returns each adapter's gradient norm before clipping (K,), and True where it stepped (K,).
    """
    h = _columns(AdamWHyper._fields, hyper)
    wide, norms, steps = _clipped(grads.to(params.dtype), losses, h)
    new_avg = exp_avg.lerp(wide, h["one_minus_beta1"])
    new_avg_sq = h["beta2"] * exp_avg_sq + h["one_minus_beta2"] * wide * wide
    update = new_avg / (new_avg_sq.sqrt() / h["sqrt_bias_correction2"] + h["eps"])
    new_params = h["decay_factor"] * params - h["step_size"] * update
    _copy_where(steps, (exp_avg_sq, new_avg_sq), (exp_avg, new_avg), (params, new_params))
    return norms[:, 0], steps[:, 0]


def sgd_(
    params: torch.Tensor,  # (K, P) fp32 or fp64
    momentum_buffer: torch.Tensor,  # (K, P)
    grads: torch.Tensor,  # (K, P) compute dtype
    losses: torch.Tensor,  # (K,) nats
    hyper: torch.Tensor,  # (K, 5) columns of SGDHyper
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of SGD with momentum and L2 penalty in place; returns what `adamw_` returns."""
    h = _columns(SGDHyper._fields, hyper)
    wide, norms, steps = _clipped(grads.to(params.dtype), losses, h)
    new_buffer = h["momentum"] * momentum_buffer + wide + h["weight_decay"] * params
    new_params = params - h["learning_rate"] * new_buffer
    _copy_where(steps, (momentum_buffer, new_buffer), (params, new_params))
    return norms[:, 0], steps[:, 0]


def _columns(names: Sequence[str], hyper: torch.Tensor) -> dict[str, torch.Tensor]:
    """The columns of a table (K, len(names)) by name, (K, 1) each."""
    return dict(zip(names, hyper[:, :, None].unbind(1), strict=True))


def _clipped(
    grads: torch.Tensor, losses: torch.Tensor, h: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clipped gradients (K, P), norms before clipping and True where an adapter steps (K, 1)."""
    norms = grads.square().sum(1, keepdim=True).sqrt()
    steps = (h["active"] > 0) & norms.isfinite() & losses.isfinite()[:, None]
    return grads * (h["max_grad_norm"] / (norms + 1e-6)).clamp(max=1.0), norms, steps


def _copy_where(steps: torch.Tensor, *pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    # `where`, not a product: nan times zero is nan.
    for old, new in pairs:
        old.copy_(torch.where(steps, new, old))


@dataclass(frozen=True)
class AdamW:
    """One adapter's torch.optim.AdamW."""

    max_grad_norm: float
    weight_decay: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    columns: ClassVar = AdamWHyper._fields
    state_names: ClassVar = ("exp_avg", "exp_avg_sq")  # as in torch's state_dict
    idle: ClassVar = AdamWHyper(0, 1, 1, 0, 1, 0, 0, 1, 1)  # the row of an idle slot
    update_: ClassVar[Update] = staticmethod(adamw_)

    @classmethod
    def from_settings(cls, options: Mapping[str, float], max_grad_norm: float) -> "AdamW":
        """From the settings optimizer.*; see `make_optimizer`."""
        beta1, beta2, eps = (options[key] for key in ("beta1", "beta2", "epsilon"))
        return cls(max_grad_norm, options["weight_decay"], beta1, beta2, eps)

    def hyper(self, step: int, learning_rate: float) -> AdamWHyper:
        """The row of optimizer step `step`, counted from 1."""
        return AdamWHyper(
            active=1,
            max_grad_norm=self.max_grad_norm,
            decay_factor=1 - learning_rate * self.weight_decay,
            one_minus_beta1=1 - self.beta1,
            beta2=self.beta2,
            one_minus_beta2=1 - self.beta2,
            step_size=learning_rate / (1 - self.beta1**step),
            sqrt_bias_correction2=math.sqrt(1 - self.beta2**step),
            eps=self.eps,
        )

    def torch_settings(self) -> dict[str, Any]:
        """The arguments of the same optimizer of torch, beside its learning rate."""
        betas = self.beta1, self.beta2
        return {"betas": betas, "eps": self.eps, "weight_decay": self.weight_decay}

    def torch_state(self, step: int, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
        """One parameter's state in torch's format, after `step` steps."""
        return {"step": torch.tensor(float(step)), **_named(self.state_names, tensors)}


@dataclass(frozen=True)
class SGD:
    """One adapter's torch.optim.SGD."""

    max_grad_norm: float
    weight_decay: float
    momentum: float = 0.0

    columns: ClassVar = SGDHyper._fields
    state_names: ClassVar = ("momentum_buffer",)  # as in torch's state_dict
    idle: ClassVar = SGDHyper(0, 1, 0, 0, 0)  # the row of an idle slot
    update_: ClassVar[Update] = staticmethod(sgd_)

    @classmethod
    def from_settings(cls, options: Mapping[str, float], max_grad_norm: float) -> "SGD":
        """From the settings optimizer.*; see `make_optimizer`."""
        return cls(max_grad_norm, options["weight_decay"], options["momentum"])

    def hyper(self, step: int, learning_rate: float) -> SGDHyper:
        """The row of any step; SGD does not depend on `step`."""
        return SGDHyper(1, self.max_grad_norm, self.weight_decay, self.momentum, learning_rate)

    def torch_settings(self) -> dict[str, Any]:
        """The arguments of the same optimizer of torch, beside its learning rate."""
        return {"momentum": self.momentum, "weight_decay": self.weight_decay}

    def torch_state(self, step: int, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
        """One parameter's state in torch's format."""
        return _named(self.state_names, tensors)


def _named(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
    return dict(zip(names, tensors, strict=True))


Optimizer = AdamW | SGD

# By the value of the setting optimizer.name.
OPTIMIZERS: dict[str, type[Optimizer]] = {"adamw_torch": AdamW, "sgd": SGD}


def make_optimizer(name: str, options: Mapping[str, float], max_grad_norm: float) -> Optimizer:
    """The optimizer that the settings optimizer.* and training.max_grad_norm describe.

    `options` holds the settings of every optimizer. KeyError for an unknown name: one that is not
    written here must not be trained as another.
    """
    return OPTIMIZERS[name].from_settings(options, max_grad_norm)
