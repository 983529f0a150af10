"""Base models with random weights, packs of fresh adapters, and random steps for them."""

from typing import Any, NamedTuple

from src.models.losses import IGNORED


class RowKind(NamedTuple):
    """Tokens of random rows: of a head that all share, and the fewest and most of each part."""

    head: int
    words: tuple[int, int]  # the rest of the prompt
    answers: tuple[int, int]

    @property
    def length(self) -> int:
        """The most tokens of a row."""
        return self.head + self.words[1] + self.answers[1]


ROWS, LENGTH, ANSWER = 16, 32, 12  # a step of one adapter
ROW_KINDS = {
    "uniform": RowKind(0, (LENGTH - ANSWER, LENGTH - ANSWER), (ANSWER, ANSWER)),
    "ragged": RowKind(7, (2, 7), (6, 18)),  # as the tasks have them
    "chat": RowKind(30, (2, 7), (6, 13)),  # under the template of a chat model
}
PAD = 1
RANKS, ALPHAS, RATES = (2, 4, 8, 16), (8.0, 16.0, 32.0, 64.0), (1e-4, 2e-4, 5e-4, 1e-3)

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"kind": "gpt2", "width": 768, "layers": 12, "heads": 12, "vocabulary": 50257},
    "qwen": {
        "kind": "qwen2", "width": 896, "layers": 24, "heads": 14, "kv_heads": 2,
        "vocabulary": 151936, "inner": 4864,
    },
    "smollm2": {
        "kind": "llama", "width": 576, "layers": 30, "heads": 9, "kv_heads": 3,
        "vocabulary": 49152, "inner": 1536,
    },
    "tiny": {"kind": "gpt2", "width": 64, "layers": 2, "heads": 2, "vocabulary": 320},
    "tiny-qwen": {
        "kind": "qwen2", "width": 64, "layers": 2, "heads": 2, "kv_heads": 1,
        "vocabulary": 320, "inner": 128,
    },
}  # fmt: skip


def random_model(shape: str, dtype: Any) -> Any:
    """A causal model of this shape with random weights, frozen."""
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    s = SHAPES[shape]
    torch.manual_seed(0)
    model: Any
    if s["kind"] == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_layer=s["layers"], n_embd=s["width"], n_head=s["heads"],
                vocab_size=s["vocabulary"], n_positions=128, resid_pdrop=0, embd_pdrop=0,
                attn_pdrop=0, activation_function="gelu_pytorch_tanh", bos_token_id=0,
                eos_token_id=0, pad_token_id=1,
            )
        )  # fmt: skip
    else:
        config, kind = {
            "llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)
        }[s["kind"]]  # fmt: skip
        model = kind(
            config(
                num_hidden_layers=s["layers"], hidden_size=s["width"],
                intermediate_size=s["inner"], num_attention_heads=s["heads"],
                num_key_value_heads=s["kv_heads"], vocab_size=s["vocabulary"],
                max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=0,
                eos_token_id=0, pad_token_id=1,
            )
        )  # fmt: skip
    return model.to(device(), dtype).eval().requires_grad_(False)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def flop_of_a_step(base: Any) -> float:
    """Of one adapter's step: forward and the gradient of the activations through the frozen layers
    for each token that is read, and the head at the answers; the adapters' own products not
    counted."""
    body = sum(part.weight.numel() for layer in base.layers for part in layer.linears)
    head = base.vocabulary * base.head.shape[1]
    return float(ROWS * 4 * (body * (LENGTH - 1) + head * ANSWER))


def targets_of(shape: str) -> list[str]:
    if SHAPES[shape]["kind"] == "gpt2":
        return ["c_attn", "c_fc", "c_proj"]
    return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def pack_of(base: Any, adapters: int, **options: Any) -> Any:
    """A pack of fresh adapters over the grid r x alpha x learning rate."""
    from src.models.multi_lora.adapters import zeros_like
    from src.models.multi_lora.step import AdapterState, Options, Pack

    ranks = [RANKS[-1] if adapters == 1 else RANKS[slot % 4] for slot in range(adapters)]
    pack = Pack(base, adapters, max(ranks), options=Options(**options))
    drawn: dict[int, AdapterState] = {}
    for slot, rank in enumerate(ranks):
        if rank not in drawn:
            params = base.fresh_adapter(rank, rank, base.dtype)
            moments = tuple(zeros_like(params) for _ in pack.state)
            drawn[rank] = AdapterState(params, moments)
        pack.put(slot, drawn[rank], ALPHAS[slot // 4 % 4] / rank)
    return pack


def draw_rows(kind: RowKind, rows: tuple[int, ...], top: int, generator: Any = None) -> Any:
    """Random token ids (*rows, length) below `top`, and the tokens of prompts and answers
    (*rows, 1)."""
    import torch

    def between(least: int, most: int) -> Any:
        return torch.randint(least, most + 1, (*rows, 1), generator=generator)

    ids = torch.randint(5, top, (*rows, kind.length), generator=generator)
    ids[..., : kind.head] = ids[..., :1, : kind.head]
    return ids, kind.head + between(*kind.words), between(*kind.answers)


def steps_of(base: Any, adapters: int, count: int, rows: str = "uniform") -> list[Any]:
    """Random steps of ROWS rows of one of ROW_KINDS."""
    import torch

    from src.models.multi_lora.inputs import BatchShape, LossNumbers, StepInput
    from src.models.multi_lora.optimizer import AdamW
    from src.training.packed.batches import ANSWERS_MULTIPLE, padded_length

    kind = ROW_KINDS[rows]
    length = padded_length(kind.length - 1, adapters * ROWS)
    optimizer = AdamW(max_grad_norm=0.3, weight_decay=0.01)
    top = min(base.vocabulary, 1500)
    steps = []
    for step in range(count):
        ids, prompts, answers = draw_rows(kind, (adapters, ROWS), top)
        place = torch.arange(kind.length)
        labelled = (place >= prompts) & (place < prompts + answers)
        read = (place < prompts + answers - 1)[:, :, :-1]
        most = int(answers.sum(1).max())
        shape = BatchShape(ROWS, length, -(-most // ANSWERS_MULTIPLE) * ANSWERS_MULTIPLE)
        positions = torch.zeros(adapters, shape.answers, dtype=torch.long)
        targets = torch.full_like(positions, IGNORED)
        reals = []
        for slot in range(adapters):
            row, at = labelled[slot].nonzero().unbind(1)
            positions[slot, : len(row)] = row * length + at - 1
            targets[slot, : len(row)] = ids[slot, row, at]
            hyper = optimizer.hyper(step + 1, RATES[slot // 16 % 4])
            reals.append((*hyper, *LossNumbers(loss_weight=1 / len(row))))
        padded = torch.where(read, ids[:, :, :-1], PAD)
        padded = torch.nn.functional.pad(padded, (0, length - kind.length + 1), value=PAD).flatten(
            1
        )
        keys = torch.zeros(adapters, 1, dtype=torch.long)
        integers = torch.cat([padded, positions, targets, keys], 1).int()
        steps.append(StepInput(shape, integers, torch.tensor(reals)))
    return steps


def laid_flat(base: Any, steps: list[Any]) -> list[Any]:
    """These steps as the packed engine lays them flat on a GPU."""
    from src.models.multi_lora.inputs import parts_of
    from src.models.multi_lora.rows import FlatRows
    from src.models.multi_lora.step import Options
    from src.training.packed.batches import BatchBuilder

    batches, flat = BatchBuilder(PAD, base, Options(flat=True)), []
    for step in steps:
        ids, positions, targets, _ = parts_of(step.shape, step.integers.long())
        counted = targets != IGNORED
        layout = FlatRows.of(ids, positions, counted)
        shape = batches.flat_shape(
            ROWS, step.shape.length, layout.source.shape[1], counted.sum(1).numpy(),
            shared=bool(layout.heads.any()), total=len(ids) * ROWS,
        )  # fmt: skip
        flat.append(in_room(step, shape))
    return flat


def in_room(step: Any, shape: Any) -> Any:
    """A step of padded rows in a FlatShape, whose rows are no shorter."""
    import torch
    from torch.nn.functional import pad

    from src.models.multi_lora.inputs import parts_of

    ids, positions, targets, keys = parts_of(step.shape, step.integers)
    length, most = ids.shape[2], min(shape.answers, targets.shape[1])
    positions = positions // length * shape.length + positions % length
    ids = pad(ids, (0, shape.length - length), value=PAD)
    more = 0, shape.answers - most
    parts = pad(positions[:, :most], more), pad(targets[:, :most], more, value=IGNORED)
    integers = torch.cat((ids.flatten(1), *parts, keys[:, None]), 1)
    return step._replace(shape=shape, integers=integers)


def tokens_of(step: Any) -> int:
    """Tokens of the rows of a step, without padding."""
    ids = step.integers[:, : step.shape.rows * step.shape.length]
    # The last token of each row is only predicted.
    return int((ids != PAD).sum()) + len(ids) * step.shape.rows
