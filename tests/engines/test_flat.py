"""Rows laid flat: the same hidden states and gradients as padded rows, of fewer tokens."""

import math
from dataclasses import replace

import pytest
import torch

from src.models.losses import IGNORED
from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import read_base
from src.models.multi_lora.flat import flat_hidden_states
from src.models.multi_lora.forward import hidden_states
from src.models.multi_lora.inputs import BatchShape, FlatShape, StepInput, parts_of
from src.models.multi_lora.linear import Dropout
from src.models.multi_lora.loss import answer_losses
from src.models.multi_lora.rows import FlatRows
from src.models.multi_lora.step import Options, Pack
from src.training.packed.arrays import ExampleArrays
from src.training.packed.batches import BatchBuilder
from src.training.rows import Row
from tests.engines.test_packed import (
    Rows,
    Solo,
    batch,
    model_of,
    pack_of,
    rows_of,
    shape_of,
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
    flat = FlatRows.of(ids[None], places[None], places[None] >= 0, torch.tensor([not rate]))
    own = sum(len(prompt) + len(answer) - 1 for prompt, answer in rows)
    shared = 0 if rate else head
    assert flat.heads.item() == shared
    assert flat.source.shape[1] == own - (len(rows) - 1) * shared
    tokens = ids.flatten()[flat.source]
    leaves = [part for stack in stacks for part in stack]
    found = []
    for hidden in (
        flat_hidden_states(base, stacks, tokens, flat, dropout=dropout),
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
    found = []
    for own in (ids, other):
        flat = FlatRows.of(own[None], places[None], places[None] >= 0)
        found.append(flat_hidden_states(base, pack.stacks(), own.flatten()[flat.source], flat))
    assert torch.equal(*found)


def test_a_step_on_a_cpu_computes_each_shared_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = pack_of(model_of("gpt2", torch.float32), "gpt2", [SOLO, SOLO], at_once=1)
    seen = []
    original = FlatRows.of

    def of(*arguments: torch.Tensor) -> FlatRows:
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(FlatRows, "of", of)
    parts = [rows_of(5, 4, head=6), rows_of(6, 4)]
    pack.run([batch([SOLO, SOLO], parts, 0)])
    assert [rows.heads.item() for rows in seen] == [6, 0]
    tokens = [sum(len(p) + len(a) - 1 for p, a in rows) for rows in parts]
    assert [rows.source.shape[1] for rows in seen] == [tokens[0] - 3 * 6, tokens[1]]


def layout_of(step: StepInput) -> tuple[FlatRows, torch.Tensor]:
    """The layout of a step of padded rows in the least room, and where an answer is (K, N)."""
    ids, positions, targets, _ = parts_of(step.shape, step.integers)
    counted = targets != IGNORED
    return FlatRows.of(ids, positions, counted, step.reals[:, -1] == 0), counted


def laid_flat(step: StepInput, roomier: int = 0) -> StepInput:
    """A step as a GPU takes it: in a static shape with room that it does not need."""
    flat, counted = layout_of(step)
    shape = FlatShape(
        *step.shape,
        flat.source.shape[1] + roomier,
        shared=bool(flat.heads.any()),
        counted=int(counted.sum()) + roomier,
    )
    return step._replace(shape=shape)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_step_laid_flat_is_that_of_padded_rows(
    shape: str, rate: float, dtype: torch.dtype, norms_in_float64: None
) -> None:
    """Several adapters in one static shape: some share a head, one is idle, one drops out."""
    solos = [SOLO, replace(SOLO, seed=2, rows=3, dropout=rate), replace(SOLO, seed=3, rows=5), None]
    packs = [pack_of(model_of(shape, dtype), shape, [s or SOLO for s in solos]) for _ in range(2)]
    for step in range(3):
        heads = 4 + step, 5, 0, 0
        rows = [
            rows_of(10 * step + k, solo.rows if solo else 1, head=head)
            for k, (solo, head) in enumerate(zip(solos, heads, strict=True))
        ]
        padded = batch(solos, rows, step, shape_of(rows, roomier=step))
        flat = laid_flat(padded, roomier=3 * step)
        assert flat.shape.tokens < 0.9 * padded.shape.rows * padded.shape.length
        results = [pack.run([one])[0] for pack, one in zip(packs, (padded, flat), strict=True)]
        bound = 1e-12 if dtype == torch.float64 else 1e-5
        for one, other in (results, [pack.params for pack in packs]):
            assert (one - other).norm() <= bound * one.norm()
        assert results[1][2].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("neighbour", ["other rows", "nan", "idle"])
def test_no_neighbour_changes_a_bit_of_an_adapter_laid_flat(neighbour: str) -> None:
    """In the same static shape; a neighbour's rows may be longer, fewer, or share more."""
    solos = [SOLO, replace(SOLO, seed=2), replace(SOLO, seed=3)]
    weights = []
    for changed in (False, True):
        pack = pack_of(model_of("llama", torch.float32), "llama", solos)
        for step in range(4):
            there: list[Solo | None] = list(solos)
            rows = [rows_of(10 * step + k, 4, head=4) for k in range(3)]
            if changed and step >= 2:
                if neighbour == "other rows":
                    rows[1] = rows_of(77 + step, 3, head=6)
                elif neighbour == "nan":
                    pack.params[1, 5] = pack.compute_params[1, 5] = math.nan
                else:
                    there[1] = None
            padded = batch(there, rows, step, BatchShape(5, 22, 60))
            pack.run([padded._replace(shape=FlatShape(*padded.shape, 90, True))])
        weights.append(pack.params)
    one, other = weights
    assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
    assert not torch.equal(one[1], other[1])


def test_steps_of_unlike_rows_share_a_few_static_shapes() -> None:
    """Each is a CUDA graph. None needs more than the steps of padded rows."""
    base = read_base(model_of("gpt2", torch.float32), targets_of("gpt2"), torch.float32)
    batches = BatchBuilder(1, base, Options(flat=True))
    solos = [replace(SOLO, seed=k, rows=8) for k in range(4)]
    shapes = set()
    for step in range(40):
        rows = [rows_of(10 * step + k, 8, head=6) for k in range(4)]
        padded = batch(solos, rows, step)
        flat, counted = layout_of(padded)
        tokens, counts = flat.source.shape[1], counted.sum(1).numpy()
        rows_, length, _ = padded.shape
        shape = batches.flat_shape(rows_, length, tokens, counts, shared=True, total=32)
        assert shape.tokens % 64 == 0 and shape.answers % 64 == 0 and shape.length in (16, 32)
        assert shape.tokens <= -(-padded.shape.rows * padded.shape.length // 64) * 64
        shapes.add(shape)
    assert len(shapes) <= 6


def test_the_capture_of_a_graph_has_more_targets_than_room() -> None:
    """Its integers are zeros, and a target of 0 counts."""
    head, hidden = torch.randn(10, 4), torch.randn(2, 3, 4)
    zeros = torch.zeros(2, 3, dtype=torch.long)
    losses = answer_losses(
        hidden, head, zeros, torch.zeros(2, 3), torch.zeros(2), vocabulary=10, room=4
    )
    assert losses.tolist() == [0, 0]


def test_the_head_of_a_data_set_ends_before_any_answer_can_depend_on_it() -> None:
    def head(*rows: tuple[list[int], list[int]]) -> int:
        return ExampleArrays.of([Row("", "", "", *row) for row in rows], pad=1).head

    alike = [5, 6, 7, 8]
    assert head((alike, [9]), (alike, [9])) == 3  # the last token of a prompt predicts the answer
    assert head((alike, [9]), ([5, 6, 2, 8, 3], [9])) == 2
    assert head((alike, [9]), ([5, 6], [7, 8])) == 1
    assert head((alike, [9]), ([4], [9])) == head() == 0
