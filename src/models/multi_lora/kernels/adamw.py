"""AdamW of all adapters in one pass: clipping, update, and the parameters that the products read.

    params, exp_avg, exp_avg_sq    (K, P) fp32
    grads, compute_params          (K, P) compute dtype; A, and from b_start on B times its scale
    hyper                          (K, 9) columns of optimizer.AdamWHyper
    norms, losses, scales          (K,)   gradient norm before clipping, nats, alpha / r

Dimension letters: multi_lora.__init__.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl

from src.models.multi_lora.optimizer import AdamWHyper


def _column(name: str) -> tl.constexpr:
    """Index of a column of the table, as a constant that a kernel may read."""
    return tl.constexpr(AdamWHyper._fields.index(name))


ACTIVE = _column("active")
MAX_GRAD_NORM = _column("max_grad_norm")
DECAY_FACTOR = _column("decay_factor")
ONE_MINUS_BETA1 = _column("one_minus_beta1")
BETA2 = _column("beta2")
ONE_MINUS_BETA2 = _column("one_minus_beta2")
STEP_SIZE = _column("step_size")
SQRT_BIAS_CORRECTION2 = _column("sqrt_bias_correction2")
EPS = _column("eps")


@triton.jit
def _adamw(
    param_ptr, exp_avg_ptr, exp_avg_sq_ptr, grad_ptr, compute_param_ptr, hyper_ptr, norm_ptr,
    loss_ptr, scale_ptr, num_params, b_start, hyper_row, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK parameters of one adapter: `optimizer.adamw_`. Grid (blocks of P, K)."""
    slot = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_params
    row = hyper_ptr + slot * hyper_row
    active, max_grad_norm = tl.load(row + ACTIVE), tl.load(row + MAX_GRAD_NORM)
    decay_factor = tl.load(row + DECAY_FACTOR)
    one_minus_beta1 = tl.load(row + ONE_MINUS_BETA1)
    beta2, one_minus_beta2 = tl.load(row + BETA2), tl.load(row + ONE_MINUS_BETA2)
    step_size = tl.load(row + STEP_SIZE)
    sqrt_bias_correction2 = tl.load(row + SQRT_BIAS_CORRECTION2)
    eps = tl.load(row + EPS)
    norm, loss = tl.load(norm_ptr + slot), tl.load(loss_ptr + slot)
    scale = tl.load(scale_ptr + slot)
    # x - x is 0 only for a finite x.
    steps = (active > 0) & (norm - norm == 0) & (loss - loss == 0)
    if steps:
        offset = slot * num_params + at
        own_scale = tl.where(at >= b_start, scale, 1.0)
        grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        grad *= own_scale * tl.minimum(max_grad_norm / (norm + 1e-6), 1.0)
        exp_avg = tl.load(exp_avg_ptr + offset, mask=inside, other=0.0)
        exp_avg_sq = tl.load(exp_avg_sq_ptr + offset, mask=inside, other=0.0)
        param = tl.load(param_ptr + offset, mask=inside, other=0.0)
        exp_avg += one_minus_beta1 * (grad - exp_avg)
        exp_avg_sq = beta2 * exp_avg_sq + one_minus_beta2 * grad * grad
        param = decay_factor * param - step_size * (
            exp_avg / (tl.sqrt(exp_avg_sq) / sqrt_bias_correction2 + eps)
        )
        tl.store(exp_avg_ptr + offset, exp_avg, mask=inside)
        tl.store(exp_avg_sq_ptr + offset, exp_avg_sq, mask=inside)
        tl.store(param_ptr + offset, param, mask=inside)
        compute_param = (param * own_scale).to(compute_param_ptr.dtype.element_ty)
        tl.store(compute_param_ptr + offset, compute_param, mask=inside)


def adamw_(
    params: torch.Tensor,  # (K, P) fp32
    exp_avg: torch.Tensor,  # (K, P) fp32, first moment
    exp_avg_sq: torch.Tensor,  # (K, P) fp32, second moment
    grads: torch.Tensor,  # (K, P) compute dtype, of compute_params
    compute_params: torch.Tensor,  # (K, P) compute dtype, written: A, and B times its scale
    losses: torch.Tensor,  # (K,) nats
    hyper: torch.Tensor,  # (K, 9) columns of AdamWHyper
    scales: torch.Tensor,  # (K, 1) alpha / r
    b_start: int,  # index of the first parameter of a B
) -> tuple[torch.Tensor, torch.Tensor]:
    """`optimizer.adamw_` and the new `compute_params` in one kernel.

    Returns gradient norms before clipping (K,), and True where an adapter stepped (K,).
    """
    slots, num_params = params.shape
    assert hyper.stride(1) == 1 and hyper.shape[1] == len(AdamWHyper._fields)
    # The gradient of B is `scale` times that of scale * B.
    norm_a = torch.linalg.vector_norm(grads[:, :b_start], dim=1, dtype=torch.float32)
    norm_b = torch.linalg.vector_norm(grads[:, b_start:], dim=1, dtype=torch.float32)
    norms = torch.hypot(norm_a, norm_b * scales[:, 0])
    _adamw[(triton.cdiv(num_params, 2048), slots)](
        params, exp_avg, exp_avg_sq, grads, compute_params, hyper, norms, losses, scales,
        num_params, b_start, hyper.stride(0), BLOCK=2048, num_warps=8,
    )  # fmt: skip
    stepped = (hyper[:, ACTIVE.value] > 0) & norms.isfinite() & losses.isfinite()
    return norms, stepped
