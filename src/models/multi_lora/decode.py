"""Scores and greedy answers of several adapters in one batch, over one key-value cache."""

from collections.abc import Sequence

import torch

from src.models.losses import IGNORED
from src.models.multi_lora.adapters import Lora
from src.models.multi_lora.base import (
    FrozenBase,
    Geometry,
    Ops,
    block,
    embed,
    hidden_states,
    split_heads,
)

CHUNK = 4096  # rows whose logits exist at once


@torch.no_grad()
def teacher_forced(
    base: FrozenBase,
    lora: Sequence[Lora],
    ids: torch.Tensor,
    wanted: torch.Tensor,
    targets: torch.Tensor,
    *,
    ops: Ops = Ops(),  # noqa: B008
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each target in nats and whether the arg max hits it, both (K, n).

    ids (K, rows, length), wanted (K, n) and targets (K, n) as in `base.hidden_states` and
    `adapters.answer_losses`.
    """
    hidden = hidden_states(base, lora, ids, wanted, ops=ops)
    log_p, hits = [], []
    for rows, labels in zip(
        hidden.flatten(0, 1).split(CHUNK), targets.flatten().split(CHUNK), strict=True
    ):
        found, best = ops.row_scores(rows @ base.head.t(), labels, base.vocabulary)
        log_p.append(found)
        hits.append(best == labels)
    return torch.cat(log_p).view(targets.shape), torch.cat(hits).view(targets.shape)


@torch.no_grad()
def greedy_tokens(
    base: FrozenBase,
    lora: Sequence[Lora],
    ids: torch.Tensor,
    lengths: torch.Tensor,
    limits: torch.Tensor,
    *,
    eos: int,
    ops: Ops = Ops(),  # noqa: B008
) -> torch.Tensor:
    """The most likely next tokens after each prompt, (K, rows, largest limit), EOS after the end.

    ids (K, rows, length) right-padded prompts of `lengths` (K, rows) tokens, limits (K, rows) the
    most new tokens; a limit of 0 leaves a row out.
    """
    adapters, rows, length = ids.shape
    count, budget = adapters * rows, int(limits.max())
    device, geometry = ids.device, base.geometry
    shape = (len(base.layers), 2, count, geometry.kv_heads, length + budget, geometry.head_width)
    cache = torch.zeros(shape, dtype=base.dtype, device=device)
    last, limits = lengths.flatten() - 1, limits.flatten()

    filled = iter(range(len(base.layers)))

    def remember(
        qkv: torch.Tensor,
        geometry: Geometry,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        length: int,
    ) -> torch.Tensor:
        index, (_, k, v) = next(filled), split_heads(qkv, geometry, rotary, length)
        cache[index, 0, :, :, :length] = k.transpose(1, 2)
        cache[index, 1, :, :, :length] = v.transpose(1, 2)
        mixed: torch.Tensor = ops.attention(qkv, geometry, rotary, length)
        return mixed

    # Of the last block only each prompt's last token is read.
    wanted = torch.arange(rows, device=device) * length + lengths - 1
    hidden = hidden_states(base, lora, ids, wanted, ops=ops._replace(attention=remember))

    token = _most_likely(hidden.flatten(0, 1), base, ops)
    answers = torch.full((count, budget), eos, device=device)
    done = limits < 1
    at = last
    for step in range(budget):
        answers[:, step] = torch.where(done, eos, token)
        done = done | (token == eos) | (limits <= step + 1)
        # Reading the device makes it wait, so not after every token.
        if step % 4 == 3 and bool(done.all()) or step == budget - 1:
            break
        at = torch.where(done, at, at + 1)
        seen = length + step + 1  # slots that may hold something
        hidden = embed(base, token, at).view(adapters, rows, -1)
        rotary = None
        if base.rotary is not None:
            rotary = base.rotary[0][at][:, None], base.rotary[1][at][:, None]
        delta = None
        for index, layer in enumerate(base.layers):

            def attend(
                qkv: torch.Tensor,
                keys: torch.Tensor = cache[index, 0, :, :, :seen],
                values: torch.Tensor = cache[index, 1, :, :, :seen],
                at: torch.Tensor = at,
                rotary: tuple[torch.Tensor, torch.Tensor] | None = rotary,
            ) -> torch.Tensor:
                q, k, v = split_heads(qkv, geometry, rotary, 1)
                mixed = ops.cached_attention(q, k, v, keys, values, at)
                return mixed.view(adapters, rows, -1)

            here = base.lora_of(index, lora)
            hidden, delta = block(hidden, delta, layer, here, geometry, attend, ops=ops)
        hidden = ops.add_norm(hidden, delta, base.norm, geometry.epsilon)[1]
        token = _most_likely(hidden.flatten(0, 1), base, ops)
    return answers.view(adapters, rows, budget)


def _most_likely(hidden: torch.Tensor, base: FrozenBase, ops: Ops) -> torch.Tensor:
    """The arg max over the vocabulary for each of hidden (n, width)."""
    nothing = torch.full((CHUNK,), IGNORED, device=hidden.device)
    return torch.cat(
        [
            ops.row_scores(rows @ base.head.t(), nothing[: len(rows)], base.vocabulary)[1]
            for rows in hidden.split(CHUNK)
        ]
    )
