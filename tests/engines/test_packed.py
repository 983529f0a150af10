"""The packed engine: a packed trial is the same run as a solo run; no neighbour can change it."""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.packed.results import Results
from benchmarks.packed.steps import phase_packed
from src.models.losses import IGNORED, answer_loss
from src.models.multi_lora.adapters import (
    LoraStack,
    to_peft,
    zeros_like,
)
from src.models.multi_lora.base import read_base
from src.models.multi_lora.forward import hidden_states
from src.models.multi_lora.linear import Dropout, FusedSlices, keep_mask, packed_linear
from src.models.multi_lora.optimizer import SGD, AdamW, Optimizer, make_optimizer
from src.models.multi_lora.shapes import SHAPES as TARGETS
from src.models.multi_lora.step import (
    AdapterState,
    BatchShape,
    LossNumbers,
    Options,
    Pack,
    StepInput,
    idle_row,
)
from src.models.spelling_model import add_lora, lora_config
from src.models.utils import ModelError
from tests.helpers import families

SHAPES = ("gpt2", "llama", "qwen2")


@dataclass(frozen=True)
class Solo:
    """One adapter's settings; `rows` a step in micro-batches of `micro`."""

    rank: int
    alpha: float
    rate: float
    seed: int
    steps: int
    rows: int = 4
    micro: int = 2
    smoothing: float = 0.0
    dropout: float = 0.0
    schedule: str = "cosine"
    warmup: int = 2
    optimizer: Optimizer = AdamW(max_grad_norm=0.3, weight_decay=0.01)


ADAPTERS = [
    Solo(4, 8, 5e-3, seed=1, steps=8),
    Solo(2, 4, 1e-2, seed=2, steps=5, rows=6, micro=3, smoothing=0.1),  # leaves midway
    Solo(8, 4, 1e-3, seed=3, steps=8, schedule="linear", warmup=0),
    Solo(4, 8, 5e-3, seed=4, steps=8, rows=2, micro=1,
         optimizer=AdamW(5.0, 0.1, beta1=0.8, beta2=0.9, eps=1e-6)),
]  # fmt: skip


def model_of(shape: str, dtype: torch.dtype, *, vocabulary: int = 320, head_dim: int = 16) -> Any:
    """A random model whose layers all matter: biases and norms are random too."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    torch.manual_seed(0)
    shared: dict[str, Any] = {"vocab_size": vocabulary, "initializer_range": 0.1, "pad_token_id": 1}
    wide: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 64 // head_dim,
        "num_key_value_heads": 32 // head_dim,
        "max_position_embeddings": 128,
    }
    model: Any
    if shape in families.MODELS:
        model = families.random_model(shape, vocabulary)
    elif shape == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(n_layer=2, n_embd=64, n_head=64 // head_dim, n_positions=128,
                       resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **shared)
        )  # fmt: skip
    elif shape.startswith("llama"):
        model = LlamaForCausalLM(LlamaConfig(**wide, **shared))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**wide, **shared))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            is_norm = "norm" in name or "ln_" in name
            torch.nn.init.normal_(parameter, float(is_norm and "bias" not in name), 0.2)
    return model.to(dtype).eval().requires_grad_(False)


def targets_of(shape: str) -> list[str]:
    if shape in families.MODELS:
        return sorted(TARGETS[families.MODELS[shape][0]])
    if shape == "gpt2":
        return ["c_attn", "c_fc", "c_proj"]
    if shape == "llama, three layers":
        return ["q_proj", "up_proj", "v_proj"]
    return ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def rows_of(seed: int, count: int, head: int = 0) -> list[tuple[list[int], list[int]]]:
    """Random prompts and answers of different lengths; all begin with the same `head` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(2, 290, (length,), generator=generator).tolist()

    first = tokens(head, head + 1)
    return [(first + tokens(3, 9), tokens(2, 7)) for _ in range(count)]


Rows = Sequence[tuple[list[int], list[int]]]


def plain_loop(model: Any, shape: str, solo: Solo, steps: list[Rows]) -> dict[str, torch.Tensor]:
    """The adapter after a plain PEFT loop over the same rows: micro-batches, clipping, AdamW."""
    from peft import get_peft_model_state_dict
    from transformers import get_scheduler

    model, _ = add_lora(
        model, backend="peft", r=solo.rank, alpha=solo.alpha, dropout=0.0,
        target_modules=targets_of(shape), bias="none", gradient_checkpointing=False,
        max_length=64, seed=solo.seed,
    )  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.to(model.dtype)
    own = solo.optimizer
    options: dict[str, Any] = {"lr": solo.rate, "weight_decay": own.weight_decay}
    optimizer: torch.optim.Optimizer
    if isinstance(own, SGD):
        optimizer = torch.optim.SGD(trained, momentum=own.momentum, **options)
    else:
        options |= {"betas": (own.beta1, own.beta2), "eps": own.eps}
        optimizer = torch.optim.AdamW(trained, **options)
    schedule = get_scheduler(solo.schedule, optimizer, solo.warmup, solo.steps)
    for rows in steps[: solo.steps]:
        count = sum(len(answer) for _, answer in rows)
        for start in range(0, len(rows), solo.micro):
            part = rows[start : start + solo.micro]
            longest = max(len(prompt) + len(answer) for prompt, answer in part)
            ids, labels, mask = [], [], []
            for prompt, answer in part:
                pad = longest - len(prompt) - len(answer)
                ids.append(prompt + answer + [1] * pad)
                labels.append([IGNORED] * len(prompt) + answer + [IGNORED] * pad)
                mask.append([1] * (longest - pad) + [0] * pad)
            logits = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
            labels_ = torch.tensor(labels)
            if model.dtype == torch.float64:  # answer_loss computes in fp32
                loss = torch.nn.functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1), labels_[:, 1:].flatten(), reduction="sum",
                    label_smoothing=solo.smoothing,
                ) / count  # fmt: skip
            else:
                loss = answer_loss(logits, labels_, label_smoothing=solo.smoothing, tokens=count)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, own.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    found = {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}
    model.unload()
    return found


def factor(solo: Solo, step: int) -> float:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule: Any = get_scheduler(solo.schedule, optimizer, solo.warmup, solo.steps)
    return float(schedule.lr_lambdas[0](step))


def shape_of(rows: Sequence[Rows], roomier: int = 0) -> BatchShape:
    """The shape that holds these rows, and `roomier` more of everything."""
    return BatchShape(
        max(len(r) for r in rows) + roomier,
        max(len(prompt) + len(answer) for r in rows for prompt, answer in r) + roomier,
        max(sum(len(answer) for _, answer in r) for r in rows) + roomier,
    )


def batch(
    solos: Sequence[Solo | None], rows: Sequence[Rows], step: int, shape: BatchShape | None = None
) -> StepInput:
    """A packed step of `rows`; None is an idle slot."""
    shape = shape or shape_of(rows)
    most, longest, answers = shape
    ids = torch.ones(len(solos), most, longest, dtype=torch.long)
    positions = torch.zeros(len(solos), answers, dtype=torch.long)
    targets = torch.full((len(solos), answers), IGNORED)
    optimizer = next(type(solo.optimizer) for solo in solos if solo is not None)
    reals = torch.tensor([idle_row(optimizer)] * len(solos), dtype=torch.float64)
    for slot, (solo, part) in enumerate(zip(solos, rows, strict=True)):
        if solo is None:
            continue
        at = 0
        for index, (prompt, answer) in enumerate(part):
            ids[slot, index, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            first = index * longest + len(prompt) - 1
            positions[slot, at : at + len(answer)] = torch.arange(first, first + len(answer))
            targets[slot, at : at + len(answer)] = torch.tensor(answer)
            at += len(answer)
        rate = solo.rate * factor(solo, step)
        numbers = LossNumbers(1 / at, solo.smoothing, solo.dropout)
        row = *solo.optimizer.hyper(step + 1, rate), *numbers
        reals[slot] = torch.tensor(row, dtype=torch.float64)
    keys = torch.tensor([[0 if solo is None else 100 * solo.seed + step] for solo in solos])
    return StepInput(shape, torch.cat([ids.flatten(1), positions, targets, keys], 1), reals)


def fresh(solo: Solo, pack: Pack) -> AdapterState:
    params = pack.base.fresh_adapter(solo.rank, solo.seed, pack.base.dtype)
    return AdapterState(params, tuple(zeros_like(params) for _ in pack.state))


def pack_of(model: Any, shape: str, solos: Sequence[Solo], **options: Any) -> Pack:
    base = read_base(model, targets_of(shape), model.dtype, longest=64)
    pack = Pack(
        base,
        len(solos),
        max(solo.rank for solo in solos),
        optimizer=type(solos[0].optimizer),
        dropout=any(solo.dropout for solo in solos),
        options=Options(**options),
    )
    for slot, solo in enumerate(solos):
        pack.put(slot, fresh(solo, pack), solo.alpha / solo.rank)
    return pack


def steps_of(solos: Sequence[Solo], steps: int, head: int = 0) -> list[list[Rows]]:
    """Rows of each adapter in each step; those of one share their first `head` tokens."""
    return [
        [rows_of(1000 * solo.seed + step, solo.rows, head) for solo in solos]
        for step in range(steps)
    ]


def trained(pack: Pack, slot: int, solo: Solo) -> dict[str, torch.Tensor]:
    names = [layer.name for layer in pack.base.adapted_layers]
    return to_peft(names, pack.take(slot, solo.rank).params)


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The L2 norm of the difference of two adapters, relative to the other's."""
    assert one.keys() == other.keys()
    here, there = (
        torch.cat([t[key].flatten() for key in sorted(t)]).double() for t in (one, other)
    )
    return ((here - there).norm() / there.norm()).item()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_head_that_rows_share_gets_the_gradients_of_all_of_them(
    shape: str, norms_in_float64: None
) -> None:
    model = model_of(shape, torch.float64)
    pack = pack_of(model, shape, ADAPTERS, at_once=1)
    rows = steps_of(ADAPTERS, 8, head=5)
    for step, now in enumerate(rows):
        there = [solo if step < solo.steps else None for solo in ADAPTERS]
        pack.run([batch(there, now, step, shape_of(now, roomier=step % 2))])
    for slot, solo in enumerate(ADAPTERS):
        alone = plain_loop(model, shape, solo, [now[slot] for now in rows])
        assert difference(trained(pack, slot, solo), alone) <= 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at_once", [3, 1])
def test_a_packed_adapter_is_the_one_it_would_be_alone(shape: str, at_once: int) -> None:
    model = model_of(shape, torch.float64)
    rows = steps_of(ADAPTERS, 8)
    for slot, packed in enumerate(packed_adapters(model, shape, rows, at_once)):
        alone = plain_loop(model, shape, ADAPTERS[slot], [now[slot] for now in rows])
        assert difference(packed, alone) <= 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at_once", [3, 1])
def test_in_fp32_a_pack_rounds_no_more_than_a_run_alone(shape: str, at_once: int) -> None:
    """Also with a head that each adapter's rows share. How much that is depends on the processor,
    so both are held against float64."""
    model, exact = model_of(shape, torch.float32), model_of(shape, torch.float64)
    rows = steps_of(ADAPTERS, 8, head=5)
    for slot, packed in enumerate(packed_adapters(model, shape, rows, at_once)):
        own = [now[slot] for now in rows]
        true, alone = (plain_loop(one, shape, ADAPTERS[slot], own) for one in (exact, model))
        assert difference(packed, true) <= 1e-6 + 2 * difference(alone, true)


def packed_adapters(
    model: Any, shape: str, rows: list[Any], at_once: int
) -> list[dict[str, torch.Tensor]]:
    """ADAPTERS, trained in one pack; each leaves it after its last step."""
    pack = pack_of(model, shape, ADAPTERS, at_once=at_once)
    for step, now in enumerate(rows):
        there = [solo if step < solo.steps else None for solo in ADAPTERS]
        pack.run([batch(there, now, step, shape_of(now, roomier=step % 2))])
    return [trained(pack, slot, solo) for slot, solo in enumerate(ADAPTERS)]


def test_only_some_of_the_layers_that_read_the_same_carry_adapters() -> None:
    shape = "llama, three layers"
    model = model_of(shape, torch.float64)
    pack = pack_of(model, shape, ADAPTERS)
    assert len(pack.base.adapted_layers) == 3 * len(pack.base.layers)
    rows = steps_of(ADAPTERS, 5)
    for step, now in enumerate(rows):
        pack.run([batch(ADAPTERS, now, step)])
    for slot, solo in enumerate(ADAPTERS):
        alone = plain_loop(model, shape, solo, [now[slot] for now in rows])
        assert difference(trained(pack, slot, solo), alone) <= 1e-12


def test_sgd_and_one_adapter_alone_and_a_padded_head() -> None:
    model = model_of("gpt2", torch.float64, vocabulary=300)
    solo = Solo(4, 8, 0.5, seed=1, steps=4, warmup=1, smoothing=0.2,
                optimizer=SGD(0.5, 0.01, momentum=0.9))  # fmt: skip
    pack = pack_of(model, "gpt2", [solo], head_chunk=5)
    assert pack.base.head.shape[0] == 320
    rows = steps_of([solo], 4)
    for step, now in enumerate(rows):
        pack.run([batch([solo], now, step)])
    alone = plain_loop(model, "gpt2", solo, [now[0] for now in rows])
    assert difference(trained(pack, 0, solo), alone) <= 1e-12


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_losses_and_gradient_norms_are_those_of_the_solo_run(shape: str) -> None:
    model = model_of(shape, torch.float64)
    pack = pack_of(model, shape, ADAPTERS)
    rows = steps_of(ADAPTERS, 1)[0]
    ((losses, norms, stepped),) = pack.run([batch(ADAPTERS, rows, 0)])
    assert stepped.tolist() == [1, 1, 1, 1]
    for slot, (solo, part) in enumerate(zip(ADAPTERS, rows, strict=True)):
        # A fresh adapter adds nothing, so the loss is the base's.
        total, tokens = 0.0, 0
        for prompt, answer in part:
            log_p = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            for place, token in enumerate(answer, start=len(prompt) - 1):
                smooth = solo.smoothing
                total -= ((1 - smooth) * log_p[place, token] + smooth * log_p[place].mean()).item()
                tokens += 1
        assert losses[slot].item() == pytest.approx(total / tokens, rel=1e-12)
        assert norms[slot] > 0


@pytest.mark.parametrize("neighbour", ["other rows", "nan", "idle"])
@pytest.mark.parametrize("at_once", [None, 1])
def test_no_neighbour_changes_a_bit(neighbour: str, at_once: int | None) -> None:
    model = model_of("gpt2", torch.float32)
    solos = [Solo(4, 8, 5e-3, seed=1, steps=6, dropout=0.1), ADAPTERS[1], ADAPTERS[2]]
    rows = steps_of(solos, 6)
    room = BatchShape(6, 20, 80)
    weights = []
    for changed in (False, True):
        pack = pack_of(model, "gpt2", solos, at_once=at_once)
        for step, now in enumerate(rows):
            there: list[Solo | None] = list(solos)
            if changed and step >= 2:
                if neighbour == "other rows":
                    now = [now[0], rows_of(77 + step, 6), now[2]]
                    if at_once == 1:  # nor does the room that its rows need
                        room = shape_of(now, roomier=3)
                elif neighbour == "nan":
                    pack.params[1, 5] = pack.compute_params[1, 5] = math.nan
                else:
                    there[1] = None
            ((losses, _, stepped),) = pack.run([batch(there, now, step, room)])
            if changed and step >= 2:
                assert stepped.tolist() == [1, float(neighbour == "other rows"), 1]
                assert math.isfinite(losses[1]) is (neighbour != "nan")
        weights.append([trained(pack, slot, solo) for slot, solo in enumerate(solos)])
    for slot in (0, 2):
        assert all(torch.equal(weights[0][slot][k], weights[1][slot][k]) for k in weights[0][slot])
    assert not any(torch.equal(weights[0][1][k], weights[1][1][k]) for k in weights[0][1])


@pytest.mark.parametrize("shape", SHAPES)
def test_peft_computes_the_same_logits_from_the_saved_adapter(shape: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import save_file

    model = model_of(shape, torch.float32)
    pack = pack_of(model, shape, ADAPTERS)
    for step, now in enumerate(steps_of(ADAPTERS, 3)):
        pack.run([batch(ADAPTERS, now, step)])
    ids = torch.randint(2, 290, (len(ADAPTERS), 2, 9))
    places = torch.arange(18).repeat(len(ADAPTERS), 1)
    with torch.no_grad():
        hidden = hidden_states(pack.base, pack.stacks(), ids, places)
        packed = (hidden @ pack.base.head.t())[..., : pack.base.vocabulary].view(4, 2, 9, -1)
    for slot, solo in enumerate(ADAPTERS):
        save_file(trained(pack, slot, solo), tmp_path / "adapter_model.safetensors")
        config = lora_config(
            r=solo.rank, alpha=solo.alpha, dropout=0.0, targets=targets_of(shape), bias="none",
            conv1d=shape == "gpt2",
        )  # fmt: skip
        config.save_pretrained(str(tmp_path))
        loaded = PeftModel.from_pretrained(model, str(tmp_path))
        with torch.no_grad():
            logits = loaded(ids[slot]).logits
            assert (logits - packed[slot]).abs().max() < 1e-4 * logits.abs().max()
            assert (logits - loaded.unload()(ids[slot]).logits).abs().max() > 1e-3


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_is_the_one_peft_draws(shape: str, dtype: torch.dtype) -> None:
    from peft import get_peft_model_state_dict

    model = model_of(shape, dtype)
    base = read_base(model, targets_of(shape), dtype)
    layers = base.adapted_layers
    drawn = to_peft([layer.name for layer in layers], base.fresh_adapter(4, 11, dtype))
    adapted, _ = add_lora(
        model, backend="peft", r=4, alpha=8, dropout=0.0, target_modules=targets_of(shape),
        bias="none", gradient_checkpointing=False, max_length=64, seed=11,
    )  # fmt: skip
    expected = get_peft_model_state_dict(adapted)
    assert drawn.keys() == expected.keys()
    assert all(torch.equal(drawn[key], expected[key]) for key in drawn)


def test_dropout_zeroes_the_share_it_should_and_each_mask_is_its_own() -> None:
    rates = torch.tensor([0.1, 0.5, 0.0])
    drop = Dropout.of(torch.tensor([1, 2, 1]), rates, 10, 20)
    mask = keep_mask(*drop, 0, 500)
    for one, rate in zip(mask, rates.tolist(), strict=True):
        assert (one == 0).double().mean().item() == pytest.approx(rate, abs=0.005)
        assert one.mean().item() == pytest.approx(1, abs=0.01)
        # No token and no column is favoured.
        for across in (0, 1):
            assert ((one == 0).double().mean(across) - rate).abs().max() < 0.2
    half = torch.full((4,), 0.5)
    drop = Dropout.of(torch.tensor([7, 8, 9, 10]), half, 10, 20)
    first, *others = keep_mask(*drop, 0, 500) == 0
    others += [keep_mask(*drop, 1, 500)[0] == 0, keep_mask(*drop.for_block(1), 0, 500)[0] == 0]
    for other in others:
        assert (first == other).double().mean().item() == pytest.approx(0.5, abs=0.01)
    # Rows that are padded to another length keep their masks.
    longer = keep_mask(*Dropout.of(torch.tensor([7]), half[:1], 12, 23), 0, 500)[0] == 0
    assert torch.equal(longer.view(12, 23, 500)[:10, :20], first.view(10, 20, 500))
    positions = torch.tensor([[3, 100]] * 4)
    some = keep_mask(*drop.at_positions(positions), 0, 500)[0]
    assert torch.equal(some == 0, first[positions[0]])


def test_dropout_gives_its_own_gradient() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    a, b = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    drop = Dropout.of(torch.tensor([3, 4]), torch.tensor([0.5, 0.25]), 1, 5)

    def compute(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, w, None, LoraStack(a, b), FusedSlices((0,), (7,), (1,)), drop)

    inputs = [tensor.requires_grad_() for tensor in (x, a, b)]
    assert torch.autograd.gradcheck(compute, inputs)


def test_the_benchmark_keeps_a_profile_of_what_it_measures(tmp_path: Path) -> None:
    found = Results(tmp_path, "tiny")
    asked = Namespace(shape="tiny", variants="2,2+at_once=1+ragged", seconds_each=0.0, out=tmp_path)
    phase_packed(found, asked)
    assert found.value("2", "adapters") == found.value("2+at_once=1+ragged", "adapters") == 2
    fewer = found.value("2+at_once=1+ragged", "tokens_a_step")
    assert 0.6 < fewer / found.value("2", "tokens_a_step") < 0.9
    profile = [row for row in found.rows if row["phase"] == "profile of 2"]
    assert sum(row["share"] for row in profile) == pytest.approx(1, abs=0.02)
    assert {"aten::bmm", "the rest"} <= {row["kernel"] for row in profile}
    assert "aten::bmm" in (tmp_path / "profile-tiny-2.txt").read_text()
    assert "## profile of 2" in (tmp_path / "tiny.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "mish"}, "no mish"),
        ({"scale_attn_by_inverse_layer_idx": True}, "no gpt2 with scale_attn_by_inverse_layer_idx"),
    ],
)
def test_a_base_that_it_cannot_compute_is_refused(change: dict[str, Any], message: str) -> None:
    model = model_of("gpt2", torch.float32)
    for name, value in change.items():
        setattr(model.config, name, value)
    with pytest.raises(ModelError, match=message):
        read_base(model, targets_of("gpt2"), torch.float32)


def test_an_optimizer_that_it_does_not_know_is_refused() -> None:
    settings = {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-6, "momentum": 0.5}
    assert make_optimizer("adamw_torch", settings, 1.0) == AdamW(1.0, 0.1, 0.8, 0.9, 1e-6)
    assert make_optimizer("sgd", settings, 1.0) == SGD(1.0, 0.1, 0.5)
    with pytest.raises(KeyError, match="lion"):
        make_optimizer("lion", settings, 1.0)
