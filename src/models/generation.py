"""Answers of a causal language model to prompts: greedy ones, and sampled ones."""

from typing import Any

import numpy as np
import torch

from src.models.decoding import Decoding
from src.models.randomness import plain_generation
from src.models.utils import autocast


def greedy_answers(
    model: Any,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int,
    precision: str = "fp32",
) -> list[list[int]]:
    """The most likely tokens after each prompt, up to EOS (excluded) or `max_new_tokens`.

    The prompts are one batch, padded on the left. The model must be in evaluation mode.
    """
    return _generated(model, prompts, max_new_tokens, pad_token_id, eos_token_id, precision)


def likeliest_answers(
    model: Any,
    prompts: list[list[int]],
    *,
    count: int,
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int,
    precision: str = "fp32",
) -> list[list[list[int]]]:
    """For each prompt the tokens of `count` answers that a beam search finds, the likeliest first.

    An answer is as likely as the product of its tokens, EOS included; its length does not count. A
    search of `count` + 1 beams may miss a likelier one, and the greedy one too.
    """
    found = _generated(
        model,
        prompts,
        max_new_tokens,
        pad_token_id,
        eos_token_id,
        precision,
        num_beams=count + 1,
        num_return_sequences=count,
        length_penalty=0.0,
    )
    return [found[start : start + count] for start in range(0, len(found), count)]


def sampled_answers(
    model: Any,
    prompts: list[list[int]],
    draws: np.ndarray,
    *,
    decoding: Decoding,
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int,
    precision: str = "fp32",
) -> list[list[int]]:
    """As `greedy_answers`, with tokens that are drawn by `decoding`; `draws` are its draws, float64
    (prompts, max_new_tokens)."""
    from transformers import LogitsProcessorList

    start, places = max(map(len, prompts)), torch.from_numpy(draws).to(model.device)

    def only_drawn(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        chosen = drawn_tokens(logits, places[:, ids.shape[1] - start], decoding)
        return torch.full_like(logits, -torch.inf).scatter(1, chosen[:, None], 0.0)

    return _generated(
        model,
        prompts,
        max_new_tokens,
        pad_token_id,
        eos_token_id,
        precision,
        logits_processor=LogitsProcessorList([only_drawn]),
    )


def drawn_tokens(logits: torch.Tensor, draws: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Token of each row, int64 (rows,), from logits (rows, vocabulary) and draws (rows,) in [0, 1).

    Temperature, top-k and top-p apply in this order, as in transformers. Among the tokens that are
    left, in the order of their ids, the draw is looked up in the cumulative probabilities: one that
    rounding moves a little still falls on the same token. Of equal logits the first is the more
    likely one, as for argmax, so top_k=1 is greedy.
    """
    scaled = logits.double()
    scaled = (scaled - scaled.amax(-1, keepdim=True)) / decoding.temperature
    ordered, tokens = scaled.sort(descending=True, stable=True)
    shares = ordered[:, : decoding.top_k].softmax(-1)
    tokens = tokens[:, : decoding.top_k]
    if decoding.top_p < 1:
        more_likely = shares.cumsum(-1) - shares
        shares = shares.where(more_likely < decoding.top_p, 0.0)
    cumulative = torch.zeros_like(scaled).scatter(1, tokens, shares).cumsum(-1)
    places = draws[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, places, right=True)[:, 0]
    return found.clamp(max=logits.shape[1] - 1)  # of logits that are no numbers


@torch.no_grad()
def _generated(
    model: Any,
    prompts: list[list[int]],
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int,
    precision: str,
    **more: Any,
) -> list[list[int]]:
    """The tokens with the highest scores after each prompt, which a processor in `more` may set;
    with beams in `more`, those of each beam one after the other."""
    longest = max(map(len, prompts))
    rows = [[pad_token_id] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    with autocast(precision), plain_generation(model):
        tokens = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
            **{"num_beams": 1} | more,
        )
    answers = tokens[:, longest:].tolist()
    return [a[: a.index(eos_token_id)] if eos_token_id in a else a for a in answers]
