"""Rows laid flat: the same hidden states and gradients as padded rows, of fewer tokens."""

import pytest
import torch

from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import read_base
from src.models.multi_lora.flat import FlatRows, flat_hidden_states
from src.models.multi_lora.forward import hidden_states
from src.models.multi_lora.linear import Dropout
from src.models.multi_lora.step import Pack
from tests.engines.test_packed import (
    Rows,
    Solo,
    batch,
    model_of,
    pack_of,
    rows_of,
    targets_of,
)

SOLO = Solo(4, 8, 5e-3, seed=1, steps=1)


def laid_out(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (B, T) and answer positions (N,) of rows, with a row of padding at the end."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, places = torch.ones(len(rows) + 1, length, dtype=torch.long), []
    for index, (prompt, answer) in enumerate(rows):
        ids[index, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        first = index * length + len(prompt) - 1
        places += range(first, first + len(answer))
    return ids, torch.tensor(places)


def stacks_of(pack: Pack) -> list[LoraStack]:
    """Random adapters, whose B is not zero as that of a fresh one."""
    torch.manual_seed(3)
    return [
        LoraStack(*(torch.randn_like(part).mul_(0.1).requires_grad_() for part in stack))
        for stack in pack.stacks()
    ]


CASES: dict[str, tuple[Rows, int]] = {
    "no shared head": (rows_of(1, 5), 0),
    "a shared head": (rows_of(1, 5, head=4), 4),
    # Up to the first token that an answer is predicted from.
    "the same prompt": ([([5, 6, 7], [8, 9]), ([5, 6, 7], [9, 8, 4]), ([5, 6, 7], [8])], 2),
    "equal rows": ([([5, 6, 7], [8, 9])] * 3, 2),
    "a prompt that begins another": ([([5, 6], [7, 3]), ([5, 6, 7], [9])], 1),
    "one row": (rows_of(2, 1), 0),
    "prompts of one token": ([([5], [8, 9]), ([5], [9])], 0),
}


@pytest.mark.parametrize("shape", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_flat_rows_have_the_states_and_gradients_of_padded_ones(
    shape: str, case: str, rate: float, norms_in_float64: None
) -> None:
    rows, head = CASES[case]
    pack = pack_of(model_of(shape, torch.float64), shape, [SOLO])
    base, stacks = pack.base, stacks_of(pack)
    ids, places = laid_out(rows)
    dropout = None
    if rate:
        dropout = Dropout.of(torch.tensor([9]), torch.tensor([rate]), *ids.shape)
    flat = FlatRows.of(ids, places, share=not rate)
    own = sum(len(prompt) + len(answer) - 1 for prompt, answer in rows)
    assert flat.head == (0 if rate else head)
    assert len(flat.source) == own - (len(rows) - 1) * flat.head
    leaves = [part for stack in stacks for part in stack]
    found = []
    for hidden in (
        flat_hidden_states(base, stacks, ids, flat, dropout=dropout),
        hidden_states(base, stacks, ids[None], places[None], dropout=dropout),
    ):
        weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).double()
        grads = torch.autograd.grad((hidden * weights).sum(), leaves)
        found.append((hidden.detach(), torch.cat([grad.flatten() for grad in grads])))
    (hidden, grads), (expected, theirs) = found
    assert (hidden - expected).norm() <= 1e-12 * expected.norm()
    assert (grads - theirs).norm() <= 1e-12 * theirs.norm()


def test_padding_is_never_read() -> None:
    """Neither that of a row, nor a row of padding between others, nor its token."""
    base = read_base(model_of("llama", torch.float64), targets_of("llama"), torch.float64)
    pack = Pack(base, 1, 4)
    rows = rows_of(1, 3, head=2)
    ids, places = laid_out(rows)
    other = ids.clone()
    for index, (prompt, answer) in enumerate(rows):
        other[index, len(prompt) + len(answer) - 1 :] = 77
    other[3] = 78
    first, second = (
        flat_hidden_states(base, pack.stacks(), own, FlatRows.of(own, places))
        for own in (ids, other)
    )
    assert torch.equal(first, second)


def test_a_step_on_a_cpu_computes_each_shared_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = pack_of(model_of("gpt2", torch.float32), "gpt2", [SOLO, SOLO], at_once=1)
    seen = []
    original = FlatRows.of

    def of(*arguments: torch.Tensor, share: bool = True) -> FlatRows:
        seen.append(original(*arguments, share=share))
        return seen[-1]

    monkeypatch.setattr(FlatRows, "of", of)
    parts = [rows_of(5, 4, head=6), rows_of(6, 4)]
    pack.run([batch([SOLO, SOLO], parts, 0)])
    assert [rows.head for rows in seen] == [6, 0]
    tokens = [sum(len(p) + len(a) - 1 for p, a in rows) for rows in parts]
    assert [len(rows.source) for rows in seen] == [tokens[0] - 3 * 6, tokens[1]]
