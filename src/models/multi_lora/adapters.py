"""Stacks of LoRA adapters: their product with a frozen layer, their loss, their first weights.

K adapters go through one base as K blocks of rows. Wherever tensors of several adapters meet, the
adapters are a batch dimension: none of one's numbers enters another's.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from src.models.losses import IGNORED


class Lora(NamedTuple):
    """The adapters of one layer: a (K, in, R), b (K, R, out), with their scale already in b.

    Those of n layers that read the same input stand side by side: a (K, in, n R), b (K, R, sum of
    their out)."""

    a: torch.Tensor
    b: torch.Tensor


class Parts(NamedTuple):
    """Which columns of a product carry adapters: of each layer in it that does, the first column,
    the number of columns, and the number of the layer in its block."""

    starts: tuple[int, ...]
    widths: tuple[int, ...]
    sites: tuple[int, ...]


class Dropout(NamedTuple):
    """LoRA dropout with a mask of its own for each adapter: `keys` (K, tokens) int64 names each
    token by its adapter's seed and step, its row and its position, `rates` (K,) is the share that
    is zeroed. A mask depends on nothing else, so neighbours and a resume leave it as it is."""

    keys: torch.Tensor
    rates: torch.Tensor

    @staticmethod
    def of(keys: torch.Tensor, rates: torch.Tensor, rows: int, length: int) -> "Dropout":
        """For rows of `length` tokens, with one key an adapter (K,)."""
        row = torch.arange(rows, device=keys.device).repeat_interleave(length)
        place = torch.arange(length, device=keys.device).repeat(rows)
        return Dropout(_hash32(_hash32(keys)[:, None] + row * 2**17 + place), rates)

    def at(self, index: int) -> "Dropout":
        """The masks of block `index`."""
        return self._replace(keys=_hash32(self.keys + 0x9E3779B9 * (index + 1)))

    def only(self, wanted: torch.Tensor) -> "Dropout":
        """The masks of the tokens `wanted` (K, n) alone."""
        return self._replace(keys=self.keys.gather(1, wanted))


def packed_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora: Lora,
    parts: Parts,
    drop: Dropout | None = None,
) -> torch.Tensor:
    """x W + bias + (x_k A_k) B_k for x (K, tokens, in), W (in, out): (K, tokens, out).

    W may hold several layers side by side; `parts` tells which of its columns each adapter's
    product is added to. Each layer of a block drops other inputs.
    """
    keys, rates = drop if drop is not None else (None, None)
    if torch.compiler.is_compiling():
        out: torch.Tensor = _compiled(x, weight, bias, *lora, keys, rates, *map(list, parts))[0]
        return out
    result: torch.Tensor = _PackedLinear.apply(x, weight, bias, *lora, keys, rates, parts)
    return result


def linear_forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    keys: torch.Tensor | None,
    rates: torch.Tensor | None,
    starts: Sequence[int],
    widths: Sequence[int],
    sites: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output (K, tokens, out) and the inner products x_k A_k (K, tokens, n R)."""
    adapters, tokens, width = x.shape
    flat = x.reshape(-1, width)
    out = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    out = out.view(adapters, tokens, -1)
    if keys is None or rates is None:
        inner = torch.bmm(x, a)
    else:
        masks = (keep_mask(keys, rates, site, width).to(x.dtype) for site in sites)
        each = a.chunk(len(sites), 2)
        inner = torch.cat([torch.bmm(x * m, one) for m, one in zip(masks, each, strict=True)], 2)
    for start, share, raised in _by_part(inner, b, starts, widths):
        # In place: another tensor of this size would be written and read for nothing.
        out[:, :, start : start + raised.shape[2]].baddbmm_(share, raised)
    return out, inner


def linear_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    inner: torch.Tensor,
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    keys: torch.Tensor | None,
    rates: torch.Tensor | None,
    starts: Sequence[int],
    widths: Sequence[int],
    sites: Sequence[int],
    needs_x: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, a and b. That of x is empty unless it is needed."""
    width = x.shape[2]
    grad = grad.contiguous()
    grad_inner, grad_b = torch.empty_like(inner), b.new_empty(b.shape)
    for (start, share, raised), (_, grad_share, grad_raised) in zip(
        _by_part(inner, b, starts, widths),
        _by_part(grad_inner, grad_b, starts, widths),
        strict=True,
    ):
        own = grad[:, :, start : start + raised.shape[2]]
        # With beta 0 what was there is not read.
        grad_share.baddbmm_(own, raised.transpose(1, 2), beta=0)
        grad_raised.baddbmm_(share.transpose(1, 2), own, beta=0)
    masks: list[torch.Tensor] = []
    if keys is not None and rates is not None:
        masks = [keep_mask(keys, rates, site, width).to(x.dtype) for site in sites]
    if masks:
        each = grad_inner.chunk(len(sites), 2)
        grad_a = torch.cat(
            [torch.bmm((x * m).transpose(1, 2), g) for m, g in zip(masks, each, strict=True)], 2
        )
    else:
        grad_a = torch.bmm(x.transpose(1, 2), grad_inner)
    if not needs_x:
        return x.new_empty(0), grad_a, grad_b
    grad_x = (grad.view(-1, grad.shape[-1]) @ weight.t()).view_as(x)
    if masks:
        for mask, g, one in zip(masks, each, a.chunk(len(sites), 2), strict=True):
            grad_x.addcmul_(torch.bmm(g, one.transpose(1, 2)), mask)
    else:
        grad_x.baddbmm_(grad_inner, a.transpose(1, 2))
    return grad_x, grad_a, grad_b


def _by_part(
    inner: torch.Tensor, b: torch.Tensor, starts: Sequence[int], widths: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """The first column of each part, its inner product (K, tokens, R) and its b (K, R, out)."""
    return zip(starts, inner.chunk(len(starts), 2), b.split(list(widths), 2), strict=True)


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        keys: torch.Tensor | None,
        rates: torch.Tensor | None,
        parts: Parts,
    ) -> torch.Tensor:
        out, inner = linear_forward(x, weight, bias, a, b, keys, rates, *parts)
        ctx.save_for_backward(x, inner, weight, a, b, keys, rates)
        ctx.parts = parts
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, inner, weight, a, b, keys, rates = ctx.saved_tensors
        starts, widths, sites = ctx.parts
        needs_x = ctx.needs_input_grad[0]
        grad_x, grad_a, grad_b = linear_backward(
            grads[0], x, inner, weight, a, b, keys, rates, starts, widths, sites, needs_x
        )
        return grad_x if needs_x else None, None, None, grad_a, grad_b, None, None, None


# The same for torch.compile, which would take the in-place product apart: as operators that it does
# not look into.
_compiled = torch.library.custom_op("spelltune::packed_linear", linear_forward, mutates_args=())
_compiled_backward = torch.library.custom_op(
    "spelltune::packed_linear_backward", linear_backward, mutates_args=()
)


@_compiled.register_fake
def _(
    x: Any, weight: Any, bias: Any, a: Any, b: Any, keys: Any, rates: Any, starts: Any, widths: Any,
    sites: Any,
) -> Any:  # fmt: skip
    adapters, tokens, _ = x.shape
    return (
        x.new_empty(adapters, tokens, weight.shape[1]),
        x.new_empty(adapters, tokens, a.shape[2]),
    )


@_compiled_backward.register_fake
def _(
    grad: Any, x: Any, inner: Any, weight: Any, a: Any, b: Any, keys: Any, rates: Any, starts: Any,
    widths: Any, sites: Any, needs_x: bool,
) -> Any:  # fmt: skip
    grad_x = x.new_empty(x.shape) if needs_x else x.new_empty(0)
    return grad_x, a.new_empty(a.shape), b.new_empty(b.shape)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, _, a, b, keys, rates, *parts = inputs
    ctx.save_for_backward(x, output[1], weight, a, b, keys, rates)
    ctx.parts = parts


def _compiled_gradients(ctx: Any, grad: torch.Tensor, _: Any) -> Any:
    needs_x = ctx.needs_input_grad[0]
    grad_x, grad_a, grad_b = _compiled_backward(grad, *ctx.saved_tensors, *ctx.parts, needs_x)
    nothing = (None,) * 5
    return grad_x if needs_x else None, None, None, grad_a, grad_b, *nothing


_compiled.register_autograd(_compiled_gradients, setup_context=_setup_context)


def keep_mask(keys: torch.Tensor, rates: torch.Tensor, site: int, width: int) -> torch.Tensor:
    """Factors of LoRA dropout, (K, tokens, width) fp32: 0 with probability rates (K,), else
    1 / (1 - rate).

    A hash of (key of the token, site, column) instead of a generator: Wellons' lowbias32.
    """
    column = torch.arange(width, device=keys.device) + site * 2**20
    bits = _hash32(keys[..., None] + _hash32(column))
    keep = bits >= (rates * 2.0**32).long()[:, None, None]
    return keep / (1 - rates.float())[:, None, None]


def _hash32(x: torch.Tensor) -> torch.Tensor:
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


class _AnswerLoss(torch.autograd.Function):
    """The gradient comes with the loss: the head is frozen, so a chunk's logits are read once and
    dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        smoothing: torch.Tensor,
        vocabulary: int,
        chunk: int,
        entropy_: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        adapters, tokens, width = hidden.shape
        flat, labels = hidden.reshape(-1, width), targets.flatten()
        shares, smooth = weights.flatten(), smoothing.repeat_interleave(tokens)
        losses = []
        grad = torch.empty_like(flat)
        for start in range(0, len(flat), chunk):
            part = slice(start, start + chunk)
            logits = flat[part] @ head.t()
            losses.append(entropy_(logits, labels[part], shares[part], smooth[part], vocabulary))
            torch.mm(logits, head, out=grad[part])
        ctx.save_for_backward(grad.view_as(hidden))
        return torch.cat(losses).view(adapters, tokens).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = ctx.saved_tensors
        scale = grads[0].to(grad.dtype)[:, None, None]
        return grad * scale, None, None, None, None, None, None, None


def answer_losses(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    smoothing: torch.Tensor,
    *,
    vocabulary: int,
    chunk: int = 4096,
    entropy_: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Each adapter's own `losses.answer_loss` in nats, (K,) fp32 or fp64.

    hidden (K, n, width) at the tokens before the answers', head (rows >= vocabulary, width),
    targets (K, n) with -100 where nothing counts, weights (K, n) one over the adapter's count of
    answer tokens, smoothing (K,). Logits exist for `chunk` tokens at a time.
    """
    losses: torch.Tensor = _AnswerLoss.apply(
        hidden, head, targets, weights, smoothing, vocabulary, chunk, entropy_ or cross_entropy_
    )
    return losses


def cross_entropy_(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    smoothing: torch.Tensor,
    vocabulary: int,
) -> torch.Tensor:
    """Weighted cross-entropy of each row, (n,) fp32 or fp64; the logits (n, columns) become their
    own gradient. Columns from `vocabulary` on are padding."""
    scores = logits[:, :vocabulary]
    wide = scores if scores.dtype == torch.float64 else scores.float()
    counted = targets != IGNORED
    label = targets.where(counted, 0)[:, None]
    log_sum = wide.logsumexp(-1, keepdim=True)
    wanted = (log_sum - wide.gather(-1, label))[:, 0]
    others = log_sum[:, 0] - wide.mean(-1)
    smooth = smoothing.to(wide.dtype)
    share = weights.to(wide.dtype)
    loss = torch.where(counted, share * ((1 - smooth) * wanted + smooth * others), 0)
    share = share.where(counted, 0)[:, None]
    gradient = (wide - log_sum).exp_() - smooth[:, None] / vocabulary
    gradient.scatter_add_(-1, label, (smooth - 1)[:, None])
    # Not by the product alone: a token that does not count may be anything.
    scores.copy_(torch.where(counted[:, None], gradient.mul_(share), 0))
    logits[:, vocabulary:] = 0
    return loss


def row_scores(
    logits: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """For logits (n, columns) and targets (n,): log p of each target in nats (fp32 or fp64), 0 for
    -100, and the arg max. Columns from `vocabulary` on are padding."""
    scores = logits[:, :vocabulary]
    wide = scores if scores.dtype == torch.float64 else scores.float()
    counted = targets != IGNORED
    found = wide.gather(-1, targets.where(counted, 0)[:, None])[:, 0] - wide.logsumexp(-1)
    return found.where(counted, 0), wide.argmax(-1)


@dataclass(frozen=True)
class Layout:
    """Where the stacks of all adapters lie in one row of numbers an adapter: every A, then every B.

    A stack holds those of layers that read the same input, side by side.
    """

    stacks: tuple[tuple[int, tuple[int, ...]], ...]  # in, and the out of each of its sites
    rank: int

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of each site."""
        return tuple((width_in, out) for width_in, outs in self.stacks for out in outs)

    @property
    def width_a(self) -> int:
        return sum(width_in for width_in, _ in self.shapes) * self.rank

    @property
    def width(self) -> int:
        return sum(width_in + width_out for width_in, width_out in self.shapes) * self.rank

    def views(self, flat: torch.Tensor) -> list[Lora]:
        """The stacks in flat (K, width): a (K, in, n R), b (K, R, sum of out)."""
        at, at_b, stacks = 0, self.width_a, []
        for width_in, outs in self.stacks:
            size, size_b = width_in * len(outs) * self.rank, sum(outs) * self.rank
            stacks.append(
                Lora(
                    flat[:, at : at + size].unflatten(1, (width_in, len(outs) * self.rank)),
                    flat[:, at_b : at_b + size_b].unflatten(1, (self.rank, sum(outs))),
                )
            )
            at, at_b = at + size, at_b + size_b
        return stacks

    def sites(self, flat: torch.Tensor) -> list[Lora]:
        """The same of each site: a (K, in, R), b (K, R, out)."""
        return [
            Lora(*pair)
            for (_, outs), (a, b) in zip(self.stacks, self.views(flat), strict=True)
            for pair in zip(a.chunk(len(outs), 2), b.split(outs, 2), strict=True)
        ]

    def put(self, flat: torch.Tensor, slot: int, pairs: Sequence[Lora]) -> None:
        """Write one adapter's a (in, r) and b (r, out) of each site into its row, the rest of the
        rank zero."""
        flat[slot] = 0
        for site, pair in zip(self.sites(flat), pairs, strict=True):
            rank = pair.a.shape[1]
            site.a[slot, :, :rank] = pair.a.to(flat)
            site.b[slot, :rank] = pair.b.to(flat)

    def take(self, flat: torch.Tensor, slot: int, rank: int) -> list[Lora]:
        """One adapter's a (in, r) and b (r, out) of each site, on the CPU."""
        row = flat[slot : slot + 1].cpu()
        return [
            Lora(a[0, :, :rank].contiguous(), b[0, :rank].contiguous()) for a, b in self.sites(row)
        ]


def first_weights(
    shapes: Iterable[tuple[int, int]], *, rank: int, seed: int, dtype: torch.dtype
) -> list[Lora]:
    """A fresh adapter as PEFT draws it after `set_seed(seed)` on a base in `dtype`: a (in, r) and b
    (r, out) in fp32 for each (in, out), in the order of the model's layers.

    PEFT makes both layers (a draw each) and then draws A again; a 16-bit base rounds it.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for width_in, width_out in shapes:
        a = torch.empty(rank, width_in)
        for tensor in (a, torch.empty(width_out, rank), a):
            torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        if dtype in (torch.bfloat16, torch.float16):
            a = a.to(dtype).float()
        pairs.append(Lora(a.t().contiguous(), torch.zeros(rank, width_out)))
    return pairs


def adapter_config(
    *, rank: int, alpha: float, dropout: float, targets: Sequence[str], conv1d: bool, base: str
) -> Any:
    """PEFT's configuration of an adapter, as `spelling_model.add_lora` makes it."""
    from peft import LoraConfig

    options: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": list(targets),
        "bias": "none",
        "fan_in_fan_out": conv1d,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    return LoraConfig(**options)


def to_peft(names: Sequence[str], pairs: Sequence[Lora]) -> dict[str, torch.Tensor]:
    """An adapter under the names and in the shapes of PEFT's adapter_model.safetensors."""
    tensors = {}
    for name, (a, b) in zip(names, pairs, strict=True):
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.t().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.t().contiguous()
    return tensors


def from_peft(names: Sequence[str], tensors: dict[str, torch.Tensor]) -> list[Lora]:
    """The adapter in PEFT's tensors; KeyError where a layer is missing."""
    return [
        Lora(
            tensors[f"base_model.model.{name}.lora_A.weight"].t().contiguous(),
            tensors[f"base_model.model.{name}.lora_B.weight"].t().contiguous(),
        )
        for name in names
    ]
