"""Teacher-forced scores and greedy decoding of several adapters in one batch.

Dimension letters: __init__.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from src.models.losses import IGNORED, clearly_first
from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import FrozenBase, Geometry, Rotary
from src.models.multi_lora.flat import flat_hidden_states, has_flat_attention
from src.models.multi_lora.forward import (
    KernelSet,
    block,
    embed,
    hidden_states,
    span,
    split_heads,
)
from src.models.multi_lora.graphs import GraphPool
from src.models.multi_lora.loss import softcap_
from src.models.multi_lora.rows import FlatRows

# Tokens whose logits exist at once: no fewer on any device, and on a GPU as many as have this many
# logits, since a small vocabulary would take many small products.
MIN_CHUNK, LOGITS_AT_ONCE = 4096, 2**26


@torch.no_grad()
def teacher_forced(
    base: FrozenBase,
    stacks: Sequence[LoraStack],
    ids: torch.Tensor,  # (K, B, T) right-padded
    answer_positions: torch.Tensor,  # (K, N) indices into B * T
    targets: torch.Tensor,  # (K, N), IGNORED where nothing counts
    *,
    kernels: KernelSet = KernelSet(),  # noqa: B008
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each target in nats, True where it is the arg max, and True where it is
    so however the logits are computed (`losses.clearly_first`); (K, N) each."""
    # On a CPU one after the other, so that none is padded to its neighbours' rows.
    at_once = 1 if base.device.type == "cpu" else len(ids)
    parts = []
    for start in range(0, len(ids), at_once):
        own = slice(start, start + at_once)
        parts.append(
            _flat_states(
                base,
                [LoraStack(a[own], b[own]) for a, b in stacks],
                ids[own],
                answer_positions[own],
                targets[own] != IGNORED,
                kernels,
            )
        )
    hidden, chunk = torch.cat(parts), _chunk(base)
    log_p, hits, clear = [], [], []
    for tokens, labels in zip(
        hidden.flatten(0, 1).split(chunk), targets.flatten().split(chunk), strict=True
    ):
        logits = _logits(tokens, base)
        scores, best = kernels.row_scores(logits, labels, base.vocabulary)
        log_p.append(scores)
        hits.append(best == labels)
        clear.append(hits[-1] & clearly_first(logits[:, : base.vocabulary], best, base.dtype))
    log_p_, hits_, clear_ = (torch.cat(parts).view(targets.shape) for parts in (log_p, hits, clear))
    return log_p_, hits_, clear_


def _flat_states(
    base: FrozenBase,
    stacks: Sequence[LoraStack],
    ids: torch.Tensor,  # (K, B, T)
    answer_positions: torch.Tensor,  # (K, N)
    counted: torch.Tensor,  # (K, N) False where an answer position is padding
    kernels: KernelSet,
) -> torch.Tensor:
    """`hidden_states` of rows laid flat where that can be computed; zeros where not `counted`."""
    if has_flat_attention(base.geometry, ids.shape[2], base.device):
        # The padding of the answers comes last: it is computed for the widest adapter only.
        room, most = counted.shape[1], int(counted.sum(1).max())
        if not most:
            return base.head.new_zeros(*counted.shape, base.head.shape[1])
        rows = FlatRows.of(ids, answer_positions[:, :most], counted[:, :most])
        tokens = ids.flatten(1).gather(1, rows.source)
        hidden = flat_hidden_states(base, stacks, tokens, rows, kernels=kernels)
        hidden = F.pad(hidden, (0, 0, 0, room - most))
    else:
        hidden = hidden_states(base, stacks, ids, answer_positions, kernels=kernels)
    return hidden


@torch.no_grad()
def greedy_tokens(
    base: FrozenBase,
    stacks: Sequence[LoraStack],
    ids: torch.Tensor,  # (K, B, T) right-padded prompts
    lengths: torch.Tensor,  # (K, B) tokens of each prompt
    limits: torch.Tensor,  # (K, B) max new tokens; 0 leaves a row out
    *,
    eos: int,
    kernels: KernelSet = KernelSet(),  # noqa: B008
    graphs: GraphPool | None = None,
) -> torch.Tensor:
    """The most likely tokens after each prompt, (K, B, largest limit), EOS after the end. With
    `graphs`, all tokens but the first two of a row are computed by one CUDA graph."""
    adapters, rows, length = ids.shape
    budget = int(limits.max())
    cache = _Cache(base, adapters * rows, length + budget, kernels)
    # Only each prompt's last token is read from the last block.
    last_tokens = torch.arange(rows, device=ids.device) * length + lengths - 1
    prefill = kernels._replace(attention=cache.prefill)
    hidden = hidden_states(base, stacks, ids, last_tokens, kernels=prefill)

    answers = _Answers(
        _most_likely(hidden.flatten(0, 1), base, kernels),
        lengths.flatten() - 1,
        limits.flatten(),
        budget,
        eos,
    )
    # A graph has one size: all of the cache.
    filled = length if graphs is None else cache.slots

    def next_token() -> None:
        cache.begin_token(answers.positions, filled)
        hidden = embed(base, answers.token, answers.positions).view(adapters, rows, -1)
        delta = None
        for index, layer in enumerate(base.layers):
            hidden, delta = block(
                hidden,
                delta,
                layer,
                base.block_stacks(index, stacks),
                base.geometry,
                cache.attend,
                kernels=kernels,
            )
        hidden = kernels.add_norm(hidden, delta, base.norm, base.geometry.norm_eps)[1]
        answers.add(_most_likely(hidden.flatten(0, 1), base, kernels))

    compute = next_token
    for step in range(1, budget):
        # Reading `done` waits for the GPU, so not after every token.
        if step % 4 == 0 and bool(answers.done.all()):
            break
        if graphs is None:
            filled = length + step
        elif step == 2:  # the step before has loaded all that it needs
            compute = graphs.capture(next_token).replay
        compute()
    return answers.tokens.view(adapters, rows, budget)


class _Answers:
    """The tokens of all rows so far. What a graph reads and writes stays where it is."""

    def __init__(
        self,
        token: torch.Tensor,  # (rows,) the first of each
        positions: torch.Tensor,  # (rows,) of the token before it
        limits: torch.Tensor,  # (rows,) max tokens
        budget: int,
        eos: int,
    ):
        self.token, self.positions, self.limits, self.eos = token, positions, limits, eos
        self.tokens = torch.full((len(token), budget), eos, device=token.device)
        self.count = torch.zeros(1, dtype=torch.long, device=token.device)
        self.done = limits < 1
        self.add(token)

    def add(self, token: torch.Tensor) -> None:
        """Add each row's next token; nothing to a row that is done."""
        self.token.copy_(token)
        self.tokens.index_copy_(1, self.count, torch.where(self.done, self.eos, token)[:, None])
        self.count += 1
        self.done |= (token == self.eos) | (self.limits <= self.count)
        self.positions += ~self.done


class _Cache:
    """Keys and values of all rows; its methods are the attention of the blocks, called in order."""

    def __init__(self, base: FrozenBase, rows: int, slots: int, kernels: KernelSet):
        geometry = base.geometry
        shape = (len(base.layers), 2, rows, geometry.num_key_value_heads, slots, geometry.head_dim)
        self.keys_values = torch.zeros(shape, dtype=base.dtype, device=base.device)
        self.base, self.kernels, self.slots = base, kernels, slots
        self.block = 0  # index of the block whose attention is next

    def prefill(
        self, qkv: torch.Tensor, rotary: Rotary | None, geometry: Geometry, length: int
    ) -> torch.Tensor:
        """Causal attention within the prompts, whose keys and values are kept."""
        _, k, v = split_heads(qkv, geometry, span(rotary, 0, length), length)
        keys, values = self._next_block()
        keys[:, :, :length] = k.transpose(1, 2)
        values[:, :, :length] = v.transpose(1, 2)
        mixed: torch.Tensor = self.kernels.attention(qkv, rotary, geometry, length)
        return mixed

    def begin_token(self, positions: torch.Tensor, filled: int) -> None:
        """Set the position of each row's next token (rows,); slots from `filled` on are empty."""
        self.block, self.positions, self.filled = 0, positions, filled
        self.turned: dict[int, Rotary] = {}  # by id of a block's table

    def attend(self, qkv: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
        """Attention of the new tokens, (K, B, H d) of qkv (K, B, (H + 2 H_kv) d)."""
        if rotary is not None:
            if id(rotary) not in self.turned:
                cos, sin = rotary
                at = self.positions
                self.turned[id(rotary)] = cos[at][:, None], sin[at][:, None]
            rotary = self.turned[id(rotary)]
        geometry = self.base.geometry
        q, k, v = split_heads(qkv, geometry, rotary, 1)
        keys, values = (part[:, :, : self.filled] for part in self._next_block())
        mixed = self.kernels.cached_attention(q, k, v, keys, values, self.positions, geometry)
        return mixed.view(*qkv.shape[:2], -1)

    def _next_block(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of the next block, (rows, H_kv, slots, d) each."""
        keys, values = self.keys_values[self.block]
        self.block += 1
        return keys, values


def _most_likely(hidden: torch.Tensor, base: FrozenBase, kernels: KernelSet) -> torch.Tensor:
    """The arg max over the vocabulary at each of hidden (tokens, D)."""
    no_target = torch.full((len(hidden),), IGNORED, device=hidden.device)
    return torch.cat(
        [
            kernels.row_scores(_logits(rows, base), no_target[: len(rows)], base.vocabulary)[1]
            for rows in hidden.split(_chunk(base))
        ]
    )


def _chunk(base: FrozenBase) -> int:
    """Tokens whose logits are computed at once."""
    if base.device.type == "cpu":
        return MIN_CHUNK
    return max(MIN_CHUNK, LOGITS_AT_ONCE // len(base.head))


def _logits(hidden: torch.Tensor, base: FrozenBase) -> torch.Tensor:
    """The logits (tokens, V_pad) of hidden (tokens, D)."""
    return softcap_(hidden @ base.head.t(), base.logit_softcap)
