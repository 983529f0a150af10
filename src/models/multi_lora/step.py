"""One training step of K adapters over one frozen base, on static shapes; a CUDA graph on a GPU.

Dimension letters: __init__.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from src.models.losses import IGNORED
from src.models.multi_lora.adapters import FlatLayout, LoraPair, LoraStack
from src.models.multi_lora.base import FrozenBase
from src.models.multi_lora.flat import flat_hidden_states
from src.models.multi_lora.forward import KernelSet, hidden_states
from src.models.multi_lora.graphs import GraphPool, load
from src.models.multi_lora.inputs import BatchShape, FlatShape, LossNumbers, StepInput, parts_of
from src.models.multi_lora.linear import Dropout
from src.models.multi_lora.loss import answer_losses
from src.models.multi_lora.optimizer import AdamW, Optimizer
from src.models.multi_lora.rows import FlatRows

# The version of this package's arithmetic. A checkpoint has it, and a resume is exact only under
# the same one, so raise it with each change after which a step gives other bits.
# Checkpoints without it are of version 1, which computed padded rows.
ARITHMETIC = 2


class AdapterState(NamedTuple):
    """One adapter and its optimizer state, each one pair per adapted layer."""

    params: list[LoraPair]
    optimizer: tuple[list[LoraPair], ...]  # in the order of the optimizer's `state_names`

    @property
    def rank(self) -> int:
        return self.params[0].a.shape[1]


@dataclass(frozen=True)
class Options:
    """How a step is computed; no option changes what is computed."""

    graphs: bool = False
    """Replay each batch shape as one CUDA graph."""
    kernels: bool = False
    """Use the Triton kernels of `kernels`."""
    flat: bool = False
    """Lay the rows of a step flat, in shapes that many steps share; on a CPU each adapter that goes
    through the base by itself has its own layout anyway."""
    at_once: int | None = None
    """Adapters that go through the base together, which bounds the memory of their activations;
    None: all. On a CPU, 1 saves the padding that an adapter needs only beside its neighbours."""
    head_chunk: int = 4096
    """Answer tokens whose logits exist at once."""


def idle_row(optimizer: type[Optimizer]) -> tuple[float, ...]:
    """The reals of an idle slot, which trains nothing."""
    return (*optimizer.idle, *LossNumbers())


class Pack:
    """K slots for adapters of rank up to `rank` over one base; a slot holds one or is idle."""

    def __init__(
        self,
        base: FrozenBase,
        slots: int,
        rank: int,
        *,
        optimizer: type[Optimizer] = AdamW,
        dropout: bool = False,
        options: Options = Options(),  # noqa: B008
    ):
        self.base, self.slots, self.rank, self.optimizer = base, slots, rank, optimizer
        self.dropout, self.options = dropout, options
        self.layout = FlatLayout(base.stack_shapes, rank)
        # Adapters train in fp32 whatever the compute dtype is: 16 bits lose small updates.
        wide = torch.float64 if base.dtype == torch.float64 else torch.float32

        def zeros(dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(slots, self.layout.num_params, dtype=dtype, device=base.device)

        self.params = zeros(wide)  # (K, P)
        self.state = tuple(zeros(wide) for _ in optimizer.state_names)  # (K, P) each
        self.scales = torch.ones(slots, 1, dtype=wide, device=base.device)  # (K, 1) alpha / r
        self.compute_params = zeros(base.dtype)  # (K, P) as the products read them: B scaled
        self.grads = zeros(base.dtype)  # (K, P) of compute_params
        # (3, K): loss in nats, gradient norm before clipping, 1 where the adapter stepped
        self.results = torch.zeros(3, slots, dtype=wide, device=base.device)
        self._kernels = KernelSet()
        self._fused_adamw: Any = None
        self._compute_params_stale = True
        if options.kernels:
            from src.models.multi_lora import kernels

            self._kernels = kernels.KERNELS
            if optimizer is AdamW:
                self._fused_adamw = kernels.adamw_
        self._graphs: dict[BatchShape | FlatShape, tuple[torch.Tensor, torch.Tensor, Any]] = {}
        self._graph_pool = GraphPool()

    def put(self, slot: int, state: AdapterState, scale: float) -> None:
        """Give a slot an adapter; `scale` is its alpha / r."""
        for flat, pairs in zip(
            (self.params, *self.state), (state.params, *state.optimizer), strict=True
        ):
            flat[slot] = torch.from_numpy(self.layout.row(pairs)).to(flat)
        self.scales[slot] = scale
        self._compute_params_stale = True

    def take(self, slot: int, rank: int) -> AdapterState:
        """A copy of a slot's adapter of rank `rank`, on the CPU."""
        return AdapterState(
            self.layout.read(self.params[slot].cpu().numpy(), rank),
            tuple(self.layout.read(flat[slot].cpu().numpy(), rank) for flat in self.state),
        )

    def finite(self) -> list[bool]:
        """True for each slot whose adapter is finite; waits for the steps before."""
        found: list[bool] = self.params.isfinite().all(1).tolist()
        return found

    def stacks(self, slots: Sequence[int] | None = None) -> list[LoraStack]:
        """The adapters of these slots (all by default), as the products read them."""
        self._update_compute_params_if_stale()
        flat = self.compute_params if slots is None else self.compute_params[list(slots)]
        return self.layout.stacks(flat)

    def prepare(self, shapes: Iterable[BatchShape | FlatShape]) -> None:
        """Capture the CUDA graphs of these shapes, which takes as long as many steps."""
        for shape in shapes:
            if self.options.graphs and shape not in self._graphs:
                self._graphs[shape] = self._capture(shape)

    def run(self, steps: Iterable[StepInput]) -> torch.Tensor:
        """Take steps; returns their `results` (steps, 3, K) on the device.

        The host does not wait for the GPU.
        """
        steps = list(steps)
        self.prepare(step.shape for step in steps)
        self._update_compute_params_if_stale()
        integers = _upload([s.integers.int() for s in steps], torch.int32, self.base.device)
        reals = _upload([s.reals for s in steps], self.params.dtype, self.base.device)
        # With graphs, nothing is allocated after this line: a call that fails has taken no step.
        results = self.results.new_empty(len(steps), *self.results.shape)
        for index, step in enumerate(steps):
            if self.options.graphs:
                graph_integers, graph_reals, graph = self._graphs[step.shape]
                graph_integers.copy_(integers[index])
                graph_reals.copy_(reals[index])
                graph.replay()
            else:
                self._compute(step.shape, integers[index].long(), reals[index])
            results[index] = self.results
        return results

    def _compute(
        self, shape: BatchShape | FlatShape, integers: torch.Tensor, reals: torch.Tensor
    ) -> None:
        """A whole step on the device, without a synchronization with the host."""
        at_once = self.options.at_once or self.slots
        for start in range(0, self.slots, at_once):
            self._differentiate(shape, integers, reals, slice(start, start + at_once))
        hyper, losses, b_start = (
            reals[:, : len(self.optimizer.columns)],
            self.results[0],
            self.layout.b_start,
        )
        tensors = self.params, *self.state, self.grads
        if self._fused_adamw is not None:
            norms, stepped = self._fused_adamw(
                *tensors, self.compute_params, losses, hyper, self.scales, b_start
            )
        else:
            # From the gradient of scale * B to that of B.
            self.grads[:, b_start:].mul_(self.scales)
            norms, stepped = self.optimizer.update_(*tensors, losses, hyper)
            self._update_compute_params()
        self.results[1].copy_(norms)
        self.results[2].copy_(stepped)

    def _update_compute_params_if_stale(self) -> None:
        if self._compute_params_stale:
            self._update_compute_params()
            self._compute_params_stale = False

    def _update_compute_params(self) -> None:
        b_start = self.layout.b_start
        self.compute_params[:, :b_start].copy_(self.params[:, :b_start])
        torch.mul(self.params[:, b_start:], self.scales, out=self.compute_params[:, b_start:])

    def _differentiate(
        self,
        shape: BatchShape | FlatShape,
        integers: torch.Tensor,
        reals: torch.Tensor,
        part: slice,
    ) -> None:
        """Losses and gradients of the adapters `part`, into `results` and `grads`."""
        integers, reals = integers[part], reals[part]
        alone = len(reals) == 1 and self.base.device.type == "cpu"
        if alone and not reals[0, 0]:  # column `active`: an idle slot
            self.grads[part], self.results[0, part] = 0, 0
            return
        loss_numbers = reals[:, len(self.optimizer.columns) :]
        loss_weights, smoothing, dropout_rates = loss_numbers.unbind(1)  # (K,) each, LossNumbers
        leaves = [
            LoraStack(*(tensor.detach().requires_grad_() for tensor in stack))
            for stack in self.layout.stacks(self.compute_params[part])
        ]
        # Its own layout keeps the rounding of an adapter on a CPU independent of its neighbours.
        states = _flat_states if alone or isinstance(shape, FlatShape) else _padded_states
        hidden, targets = states(
            self.base, leaves, shape, integers, dropout_rates, self.dropout, self._kernels
        )
        losses = answer_losses(
            hidden,
            self.base.head,
            targets,
            loss_weights[:, None].expand_as(targets),
            smoothing,
            vocabulary=self.base.vocabulary,
            softcap=self.base.logit_softcap,
            chunk=self.options.head_chunk,
            room=shape.counted if isinstance(shape, FlatShape) else None,
            entropy_=self._kernels.cross_entropy_,
        )
        # The sum gives each adapter the gradient of its own loss: the terms share no parameter.
        grads = torch.autograd.grad(losses.sum(), [tensor for stack in leaves for tensor in stack])
        # In the order of FlatLayout: every A, then every B.
        ordered = [grad.flatten(1) for grad in (*grads[::2], *grads[1::2])]
        torch.cat(ordered, 1, out=self.grads[part])
        self.results[0, part] = losses.detach().to(self.results.dtype)

    def _capture(self, shape: BatchShape | FlatShape) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The CUDA graph of a shape, with the integers and reals that it reads."""
        device = self.base.device
        integers = torch.zeros(self.slots, shape.num_integers, dtype=torch.long, device=device)
        reals = torch.tensor(idle_row(self.optimizer), dtype=self.params.dtype, device=device)
        reals = reals.repeat(self.slots, 1)
        compute = partial(self._compute, shape, integers, reals)
        load(compute)  # every slot is idle, so nothing is trained
        return integers, reals, self._graph_pool.capture(compute)


def _upload(
    tensors: list[torch.Tensor], dtype: torch.dtype, device: torch.device
) -> list[torch.Tensor]:
    """The tensors on the device, in one copy that the host does not wait for."""
    flat = torch.cat([tensor.flatten().to(dtype) for tensor in tensors])
    if device.type == "cuda":
        flat = flat.pin_memory().to(device, non_blocking=True)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _padded_states(
    base: FrozenBase,
    stacks: list[LoraStack],
    shape: BatchShape | FlatShape,
    integers: torch.Tensor,  # (K, shape.num_integers)
    dropout_rates: torch.Tensor,  # (K,)
    has_dropout: bool,
    kernels: KernelSet,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input of the output head at the answer tokens (K, N, D), and these tokens (K, N)."""
    ids, positions, targets, keys = parts_of(shape, integers)
    dropout = Dropout.of(keys, dropout_rates, *ids.shape[1:]) if has_dropout else None
    return hidden_states(base, stacks, ids, positions, dropout=dropout, kernels=kernels), targets


def _flat_states(
    base: FrozenBase,
    stacks: list[LoraStack],
    shape: BatchShape | FlatShape,
    integers: torch.Tensor,  # (K, shape.num_integers)
    dropout_rates: torch.Tensor,  # (K,)
    has_dropout: bool,
    kernels: KernelSet,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_padded_states` of rows laid flat: in the room of a FlatShape, else in the least."""
    ids, positions, targets, keys = parts_of(shape, integers)
    share, counted = dropout_rates == 0, targets != IGNORED
    if isinstance(shape, FlatShape):
        share &= shape.shared
        rows = FlatRows.of(ids, positions, counted, share, shape.tokens)
        rows = rows._replace(shared=shape.shared)
    else:
        most = max(int(counted.sum(1).max()), 1)  # they come before the padding
        positions, targets, counted = (part[:, :most] for part in (positions, targets, counted))
        rows = FlatRows.of(ids, positions, counted, share)
    dropout = Dropout.of(keys, dropout_rates, *ids.shape[1:]) if has_dropout else None
    tokens = ids.flatten(1).gather(1, rows.source)
    hidden = flat_hidden_states(base, stacks, tokens, rows, dropout=dropout, kernels=kernels)
    return hidden, targets
