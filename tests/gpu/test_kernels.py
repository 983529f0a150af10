"""The kernels of the packed engine beside plain PyTorch: the same steps, and no neighbour's."""

import gc
import math
import threading
from collections.abc import Sequence

import pytest
import torch

from src.models.multi_lora.base import read_base
from src.models.multi_lora.decode import greedy_tokens
from src.models.multi_lora.graphs import GraphPool
from src.models.multi_lora.inputs import BatchShape, FlatShape, StepInput
from src.models.multi_lora.snapshot import Snapshot
from src.models.multi_lora.step import Options, Pack
from tests.engines.test_packed import Solo, batch, fresh, model_of, rows_of, shape_of, targets_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

SOLOS = [Solo(8, 8, 5e-3, seed=seed, steps=4) for seed in range(4)]
PADDED = BatchShape(rows=5, length=32, answers=64)
ROOM = FlatShape(*PADDED, tokens=112, shared=True, counted=192)


def pack_of(shape: str, dtype: torch.dtype, options: Options) -> Pack:
    device = "cuda" if options.kernels else "cpu"
    model = model_of(shape, torch.float32, head_dim=32).to(device)
    pack = Pack(read_base(model, targets_of(shape), dtype), len(SOLOS), 8, options=options)
    for slot, solo in enumerate(SOLOS):
        pack.put(slot, fresh(solo, pack), solo.alpha / solo.rank)
    return pack


def step_of(index: int, heads: Sequence[int], *, flat: bool) -> StepInput:
    rows = [rows_of(10 * index + k, 4, head=head) for k, head in enumerate(heads)]
    padded = batch([*SOLOS[:3], None], rows, index, PADDED if flat else shape_of(rows))
    return padded._replace(shape=ROOM) if flat else padded


@pytest.mark.parametrize("shape", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("flat", [True, False])
def test_the_kernels_take_the_steps_of_plain_pytorch(shape: str, flat: bool) -> None:
    """Rows with a head that they share and without; the last slot is idle."""
    moved = []
    for options in (Options(), Options(kernels=True, graphs=True)):
        pack = pack_of(shape, torch.float32, options)
        start = pack.params.clone()
        steps = [step_of(n, (4 + n, 5, 0, 0), flat=flat) for n in range(4)]
        results = pack.run(steps)
        assert results[:, 2].tolist() == [[1, 1, 1, 0]] * 4
        moved.append((pack.params - start).cpu())
    assert (moved[0] - moved[1]).norm() <= 1e-3 * moved[0].norm()


@pytest.mark.parametrize("neighbour", ["other rows", "nan"])
def test_no_neighbour_changes_a_bit(neighbour: str) -> None:
    """In bf16, within one static shape."""
    weights = []
    for changed in (False, True):
        pack = pack_of("llama", torch.bfloat16, Options(kernels=True, graphs=True))
        for n in range(4):
            heads = [4, 5, 0, 0]
            if changed and n >= 2 and neighbour == "other rows":
                heads[1] = 1
            if changed and n == 2 and neighbour == "nan":
                pack.params[1, 5] = pack.compute_params[1, 5] = math.nan
            pack.run([step_of(n, heads, flat=True)])
        weights.append(pack.params.cpu())
    one, other = weights
    assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
    assert not torch.equal(one[1], other[1])


def test_graphs_are_captured_while_another_thread_waits_for_a_copy() -> None:
    """As the threads do that write checkpoints."""
    pack = pack_of("gpt2", torch.bfloat16, Options(kernels=True, graphs=True))
    over, problems = threading.Event(), []

    def wait_for_copies() -> None:
        try:
            while not over.is_set():
                snapshot.of(0, SOLOS[0].rank).read()
        except RuntimeError as error:
            problems.append(error)

    snapshot = Snapshot(pack, [0, 1])
    thread = threading.Thread(target=wait_for_copies)
    thread.start()
    try:
        pack.prepare(ROOM._replace(tokens=tokens) for tokens in range(112, 368, 16))
    finally:
        over.set()
        thread.join()
    assert not problems
    pack.run([step_of(0, (4, 5, 0, 0), flat=True)])


def test_no_memory_stays_for_each_shape_and_pack() -> None:
    """cuBLAS keeps 32 MiB for each stream of a thread."""
    taken = []
    for _ in range(4):
        pack = pack_of("gpt2", torch.bfloat16, Options(kernels=True, graphs=True))
        pack.prepare(ROOM._replace(tokens=tokens) for tokens in range(112, 176, 16))
        pack.run([step_of(0, (4, 5, 0, 0), flat=True)])
        del pack
        gc.collect()
        torch.cuda.empty_cache()
        taken.append(torch.cuda.memory_allocated())
    assert max(taken[1:]) - taken[0] < 2**20


def test_a_graph_decodes_the_tokens_that_it_would_without() -> None:
    """Prompts and limits of unequal length, some rows left out, some that end early; twice, as the
    memory of a graph is that of the one before."""
    pack = pack_of("llama", torch.float32, Options(kernels=True, graphs=True))
    torch.manual_seed(2)
    ids = torch.randint(5, 90, (4, 6, 9)).cuda()
    lengths, limits = torch.randint(3, 10, (4, 6)).cuda(), torch.randint(0, 13, (4, 6)).cuda()
    from src.models.multi_lora.kernels import KERNELS

    graphs = GraphPool()

    def decoded(eos: int, graphs: GraphPool | None) -> torch.Tensor:
        asked = ids, lengths, limits
        return greedy_tokens(
            pack.base, pack.stacks(), *asked, eos=eos, kernels=KERNELS, graphs=graphs
        )

    free = decoded(-1, None)
    eos = int(free[limits > 8][:, 4].mode().values)
    expected = decoded(eos, None)
    assert not torch.equal(free, expected)
    for _ in range(2):
        assert torch.equal(decoded(-1, graphs), free)
        assert torch.equal(decoded(eos, graphs), expected)
