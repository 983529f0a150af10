"""Triton kernels, each a fusion of a few lines of forward, loss or optimizer.

Imported only on a GPU. Each kernel file opens with the shapes of its tensors.
"""

from src.models.multi_lora.forward import KernelSet
from src.models.multi_lora.kernels.adamw import adamw_
from src.models.multi_lora.kernels.attention import attention, flat_attention
from src.models.multi_lora.kernels.cached_attention import cached_attention
from src.models.multi_lora.kernels.cross_entropy import cross_entropy_, row_scores
from src.models.multi_lora.kernels.mlp import mlp
from src.models.multi_lora.kernels.norm import add_norm
from src.models.multi_lora.kernels.warm_up import warm_up

__all__ = ["KERNELS", "adamw_", "warm_up"]

KERNELS = KernelSet(
    attention, flat_attention, add_norm, mlp, cached_attention, cross_entropy_, row_scores
)
