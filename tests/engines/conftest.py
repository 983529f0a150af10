"""What several tests of the engines share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.config import RunConfig


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """One thread: for models as small as these a second one costs more than it computes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm, and Gemma 2's softmax, in the dtype of their input. Both sides round the gradient of
    a norm to fp32, and a sum over rows that is rounded once is not the sum of what each row rounds
    to."""
    import torch
    from transformers.models.gemma2 import modeling_gemma2
    from transformers.models.gemma3 import modeling_gemma3
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm
    from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
    from transformers.models.smollm3.modeling_smollm3 import SmolLM3RMSNorm

    from src.models.multi_lora import forward

    def of(hidden: Any, weight: Any, eps: float) -> Any:
        return weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps)

    def normalize(hidden: Any, norm: Any, eps: float) -> Any:
        return (
            original(hidden, norm, eps) if norm.bias is not None else of(hidden, norm.weight, eps)
        )

    def of_module(self: Any, hidden: Any) -> Any:
        return of(hidden, self.weight, self.variance_epsilon)

    def of_gemma(self: Any, hidden: Any) -> Any:
        return of(hidden, 1.0 + self.weight.float(), self.eps)

    def attention(
        module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, softcap: float, **_: Any
    ) -> tuple[Any, None]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        scores = torch.tanh(q @ k.transpose(2, 3) * scaling / softcap) * softcap + mask
        return (scores.softmax(-1) @ v).transpose(1, 2), None

    original = forward.normalize
    monkeypatch.setattr(forward, "normalize", normalize)
    for module in (
        LlamaRMSNorm, MistralRMSNorm, Phi3RMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, SmolLM3RMSNorm,
    ):  # fmt: skip
        monkeypatch.setattr(module, "forward", of_module)
    for module in (modeling_gemma2.Gemma2RMSNorm, modeling_gemma3.Gemma3RMSNorm):
        monkeypatch.setattr(module, "forward", of_gemma)
    # Its softmax is in fp32 too.
    monkeypatch.setattr(modeling_gemma2, "eager_attention_forward", attention)


@pytest.fixture(params=["trl", "packed"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(base: Path, engine: str) -> Callable[..., RunConfig]:
    """Settings of 12 steps, evaluated every 4 and saved every 3; changes with __ for the dot."""

    def made(**changes: object) -> RunConfig:
        from tests.helpers import tiny  # only here: it loads torch

        values = {"engine": engine, "lora.dropout": 0.0, "checkpointing.keep_last": 9}
        return tiny.config_of(
            base, **(values | {name.replace("__", "."): v for name, v in changes.items()})
        )

    return made
