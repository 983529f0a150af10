"""One training step of K adapters over one frozen base, on static shapes: a CUDA graph on a GPU."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from src.models.losses import IGNORED
from src.models.multi_lora.adapters import Dropout, Layout, Lora, answer_losses
from src.models.multi_lora.base import FrozenBase, Ops, block, hidden_states
from src.models.multi_lora.optimizer import COLUMNS, IDLE, update_

# What follows the optimizer's numbers in an adapter's row of reals: one over its answer tokens,
# label smoothing, LoRA dropout.
REALS = (*COLUMNS, "share", "smoothing", "dropout")
IDLE_REALS = (*IDLE, 0.0, 0.0, 0.0)


class Bucket(NamedTuple):
    """The static shape of a step: rows an adapter, tokens a row, answer tokens an adapter.

    An adapter's integers are ids (rows * length), wanted (answers), targets (answers), and the key
    of its dropout masks. Answer tokens come first, padding after them.
    """

    rows: int
    length: int
    answers: int

    @property
    def width(self) -> int:
        return self.rows * self.length + 2 * self.answers + 1


def trimmed(
    ids: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids (1, rows, length), wanted and targets (1, answers) of one adapter's step without what no
    answer token is predicted from: padding, and the last token of the longest row."""
    length, count = ids.shape[2], int((targets != IGNORED).sum())
    wanted, targets = wanted[:, :count], targets[:, :count]
    row, place = wanted // length, wanted % length
    rows, tokens = (int(part.max()) + 1 for part in (row, place))
    return ids[:, :rows, :tokens], row * tokens + place, targets


class AdapterState(NamedTuple):
    """All that one adapter is: weights and optimizer moments of each site: a (in, r), b (r,
    out)."""

    weights: list[Lora]
    first: list[Lora]
    second: list[Lora]

    @property
    def rank(self) -> int:
        return self.weights[0].a.shape[1]


@dataclass(frozen=True)
class Options:
    """How a step is computed; none of it changes what is computed.

    `at_once` adapters go through the base together (None: all of them), which bounds the memory of
    their activations; one that goes alone on a CPU is computed without the padding that its
    neighbours need. `kernels` takes those of kernels.py; `compiled` fuses each block by
    torch.compile instead; `graphs` replays each bucket as one CUDA graph.
    """

    graphs: bool = False
    kernels: bool = False
    compiled: bool = False
    at_once: int | None = None
    head_chunk: int = 4096


class Pack:
    """K slots for adapters of rank up to `rank` over one base; a slot holds one or is idle."""

    def __init__(
        self,
        base: FrozenBase,
        slots: int,
        rank: int,
        *,
        kind: str = "adamw",
        dropout: bool = False,
        options: Options = Options(),  # noqa: B008
    ):
        self.base, self.slots, self.rank, self.kind = base, slots, rank, kind
        self.dropout, self.options = dropout, options
        self.layout = Layout(base.stacks, rank)
        # Adapters train in fp32 whatever the products are in: 16 bits lose small updates.
        wide = torch.float64 if base.dtype == torch.float64 else torch.float32
        self.weights, self.first, self.second = (
            torch.zeros(slots, self.layout.width, dtype=wide, device=base.device) for _ in range(3)
        )
        self.scales = torch.ones(slots, 1, dtype=wide, device=base.device)
        # The weights as the products read them, B with its adapter's scale in it.
        self.work, self.gradients = (
            torch.zeros(slots, self.layout.width, dtype=base.dtype, device=base.device)
            for _ in range(2)
        )
        self.results = torch.zeros(3, slots, dtype=wide, device=base.device)
        self._ops, self._block, self._update = Ops(), block, update_
        self._fused: Any = None
        self._stale = True  # whether `work` is older than the weights
        if options.kernels:
            from src.models.multi_lora import kernels

            self._ops = kernels.OPS
            if kind == "adamw":
                self._fused = kernels.adamw_
        if options.compiled:
            self._block = torch.compile(block, dynamic=False)
            self._update = torch.compile(update_, dynamic=False)
        self._graphs: dict[Bucket, tuple[torch.Tensor, torch.Tensor, Any]] = {}
        self._pool: Any = None

    def put(self, slot: int, state: AdapterState, scale: float) -> None:
        """Give a slot an adapter; `scale` is its alpha / r."""
        for flat, pairs in zip((self.weights, self.first, self.second), state, strict=True):
            self.layout.put(flat, slot, pairs)
        self.scales[slot] = scale
        self._stale = True

    def take(self, slot: int, rank: int) -> AdapterState:
        """A copy of a slot's adapter, on the CPU."""
        return AdapterState(
            *(
                self.layout.take(flat, slot, rank)
                for flat in (self.weights, self.first, self.second)
            )
        )

    def products(self, slots: Iterable[int] | None = None) -> list[Lora]:
        """The stacks as the products read them, of these slots or of all."""
        self._freshen()
        chosen = self.work if slots is None else self.work[list(slots)]
        return self.layout.views(chosen)

    def prepare(self, buckets: Iterable[Bucket]) -> None:
        """Make what steps of these shapes need, which takes as long as many steps: CUDA graphs."""
        for bucket in buckets:
            if self.options.graphs and bucket not in self._graphs:
                self._graphs[bucket] = self._capture(bucket)

    def run(self, steps: Iterable[tuple[Bucket, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Take steps, each a bucket with integers (K, bucket.width) and reals (K, REALS) on the
        CPU.

        Returns (steps, 3, K) on the device: loss in nats, gradient norm before clipping, and 1
        where the adapter took the step. Nothing waits for the GPU.
        """
        steps = list(steps)
        self.prepare(bucket for bucket, *_ in steps)
        self._freshen()
        integers = self._upload([step[1].int() for step in steps], torch.int32)
        reals = self._upload([step[2] for step in steps], self.weights.dtype)
        # With graphs no memory is taken after this: a call that fails has taken no step.
        found = self.results.new_empty(len(steps), *self.results.shape)
        for index, ((bucket, *_), whole, real) in enumerate(
            zip(steps, integers, reals, strict=True)
        ):
            if self.options.graphs:
                held_integers, held_reals, graph = self._graphs[bucket]
                held_integers.copy_(whole)
                held_reals.copy_(real)
                graph.replay()
            else:
                self._compute(bucket, whole.long(), real)
            found[index] = self.results
        return found

    def _upload(self, tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        """The tensors on the device, in one copy that the host does not wait for."""
        whole = torch.cat([tensor.flatten().to(dtype) for tensor in tensors])
        if self.base.device.type == "cuda":
            whole = whole.pin_memory().to(self.base.device, non_blocking=True)
        parts = whole.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _compute(self, bucket: Bucket, integers: torch.Tensor, reals: torch.Tensor) -> None:
        """A whole step on the device, with no word to the host."""
        at_once = self.options.at_once or self.slots
        for start in range(0, self.slots, at_once):
            self._differentiate(bucket, integers, reals, slice(start, start + at_once))
        table, losses, split = reals[:, : len(COLUMNS)], self.results[0], self.layout.width_a
        state = self.weights, self.first, self.second, self.gradients
        if self._fused is not None:
            norms, taken = self._fused(*state, self.work, losses, table, self.scales, split)
        else:
            self.gradients[:, split:].mul_(self.scales)
            norms, taken = self._update(self.kind, *state, losses, table)
            self._refresh()
        self.results[1].copy_(norms)
        self.results[2].copy_(taken)

    def _freshen(self) -> None:
        if self._stale:
            self._refresh()
            self._stale = False

    def _refresh(self) -> None:
        split = self.layout.width_a
        self.work[:, :split].copy_(self.weights[:, :split])
        torch.mul(self.weights[:, split:], self.scales, out=self.work[:, split:])

    def _differentiate(
        self, bucket: Bucket, integers: torch.Tensor, reals: torch.Tensor, part: slice
    ) -> None:
        """Losses and gradients of the adapters `part`, into `results` and `gradients`."""
        rows, length, answers = bucket
        integers, reals = integers[part], reals[part]
        ids, wanted, targets, keys = integers.split([rows * length, answers, answers, 1], 1)
        ids = ids.view(-1, rows, length)
        # Alone on a CPU an adapter may have a shape of its own: its neighbours' padding costs it
        # nothing and cannot change its rounding.
        if len(reals) == 1 and self.base.device.type == "cpu":
            if not reals[0, 0]:  # an idle slot
                self.gradients[part], self.results[0, part] = 0, 0
                return
            ids, wanted, targets = trimmed(ids, wanted, targets)
            (_, rows, length), answers = ids.shape, targets.shape[1]
        share, smoothing, rates = reals[:, len(COLUMNS) :].unbind(1)
        leaves = [
            Lora(*(tensor.detach().requires_grad_() for tensor in stack))
            for stack in self.layout.views(self.work[part])
        ]
        hidden = hidden_states(
            self.base,
            leaves,
            ids,
            wanted,
            drop=Dropout.of(keys[:, 0], rates, rows, length) if self.dropout else None,
            ops=self._ops,
            block=self._block,
        )
        losses = answer_losses(
            hidden,
            self.base.head,
            targets,
            share[:, None].expand(-1, answers),
            smoothing,
            vocabulary=self.base.vocabulary,
            chunk=self.options.head_chunk,
            entropy_=self._ops.cross_entropy_,
        )
        # The sum gives each adapter the gradient of its own loss: no other's enters it.
        found = torch.autograd.grad(losses.sum(), [tensor for stack in leaves for tensor in stack])
        # In the order of the layout: every A, then every B.
        flat = [tensor.flatten(1) for tensor in (*found[::2], *found[1::2])]
        torch.cat(flat, 1, out=self.gradients[part])
        self.results[0, part] = losses.detach().to(self.results.dtype)

    def _capture(self, bucket: Bucket) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The graph of a bucket, and the tensors that it reads."""
        place = self.base.device
        integers = torch.zeros(self.slots, bucket.width, dtype=torch.long, device=place)
        reals = torch.tensor(IDLE_REALS, dtype=self.weights.dtype, device=place)
        reals = reals.repeat(self.slots, 1)
        compute = partial(self._compute, bucket, integers, reals)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # Every slot is idle here, so nothing is trained: a graph only needs its kernels warm.
        with torch.cuda.stream(side):
            for _ in range(3):
                compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            compute()
        self._pool = self._pool or graph.pool()
        return integers, reals, graph
