"""What several tests of the engines share."""

from typing import Any

import pytest


@pytest.fixture
def norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm in the dtype of its input. Both sides round its gradient to fp32, and a sum over rows
    that is rounded once is not the sum of what each row rounds to."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    from src.models.multi_lora import forward

    def of(hidden: Any, weight: Any, eps: float) -> Any:
        return weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps)

    def normalize(hidden: Any, norm: Any, eps: float) -> Any:
        return (
            original(hidden, norm, eps) if norm.bias is not None else of(hidden, norm.weight, eps)
        )

    def of_module(self: Any, hidden: Any) -> Any:
        return of(hidden, self.weight, self.variance_epsilon)

    original = forward.normalize
    monkeypatch.setattr(forward, "normalize", normalize)
    for module in (LlamaRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(module, "forward", of_module)
