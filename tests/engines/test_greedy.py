"""Answers that teacher forcing tells: the same predictions, and only the others are decoded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from src.models import losses
from src.models import spelling_model as spelling
from src.models.generation import greedy_answers
from src.models.losses import NEAR_TIE, clearly_first
from src.models.multi_lora import decode
from src.models.multi_lora.adapters import from_peft
from src.models.multi_lora.base import read_base
from src.models.multi_lora.forward import hidden_states
from src.models.multi_lora.optimizer import AdamW
from src.models.multi_lora.step import Pack
from src.models.prompt_format import raw_format
from src.models.utils import dtype_of
from src.training import scoring
from src.training.packed import scorer
from src.training.packed.engine import train_pack
from src.training.packed.files import fresh_state
from src.training.packed.run import RunSpec
from src.training.rows import Row
from tests.helpers import tiny

TEMPLATE = "<human>: {question}\n<assistant>:"
WORDS = tiny.WORDS[:10]  # the first five were trained on, so their answers are right


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def trained(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A base and an adapter that knows the words that it was trained on, and no others."""
    folder = tmp_path_factory.mktemp("greedy")
    config = tiny.config_of(base, **{
        "model.name": str(base / request.param),
        "data.path": str(tiny.data(folder / "words", train=5)),
        "lora.dropout": 0.0, "lora.r": 8, "training.per_device_train_batch_size": 5,
        "training.gradient_accumulation_steps": 1, "training.learning_rate": 2e-2,
        "training.max_steps": 100, "evaluation.eval_steps": 100,
        "checkpointing.save_steps": 100, "training.logging_steps": 100,
    })  # fmt: skip
    spec = RunSpec(config, tiny.Recorder(), folder / "out", folder / "steps")
    ((_, outcome),) = train_pack([spec])
    assert not isinstance(outcome, Exception)
    return str(base / request.param), folder / "steps/step-100"


def loaded(name: str) -> tuple[Any, Any]:
    vocabulary = spelling.load_vocabulary(name, revision=None)
    model = spelling.load_base(
        name, vocabulary, revision=None, load_in_4bit=False, max_length=64, precision="fp32",
        backend="peft", gradient_checkpointing=False, seed=0,
    )  # fmt: skip
    return model, vocabulary.tokenizer


def pack_of(model: Any, adapter: Path, dtype: torch.dtype) -> Pack:
    """The adapter in the first of two slots; the other has what PEFT would add: nothing."""
    packed = read_base(model, spelling.resolve_targets(model, None), dtype)
    pack = Pack(packed, 2, 8)
    weights = from_peft(
        [layer.name for layer in packed.adapted_layers],
        load_file(adapter / "adapter_model.safetensors"),
    )
    pack.put(0, fresh_state(weights, AdamW), 32 / 8)
    return pack


Score = Callable[[int | None], pd.DataFrame]


def test_rows_are_cut_alike_by_a_template_and_by_its_format() -> None:
    tokenizer = tiny.tokenizer()
    rows = scoring.encode(tokenizer, tiny.frame(tiny.WORDS), TEMPLATE)
    assert rows == scoring.encode(tokenizer, tiny.frame(tiny.WORDS), raw_format(TEMPLATE))
    assert len(rows) == len(tiny.WORDS)


def engines(trained: tuple[str, Path], precision: str) -> Iterator[tuple[str, Score, list[Row]]]:
    """Of each engine, a function that scores the adapter with a limit of new tokens."""
    name, adapter = trained
    model, tokenizer = loaded(name)
    rows = scoring.encode(tokenizer, tiny.frame(WORDS), raw_format(TEMPLATE))
    pack = pack_of(model, adapter, dtype_of(precision))

    def packed(limit: int | None) -> pd.DataFrame:
        found = scorer.Scorer(pack.base, tokenizer, 128).score(
            pack.stacks, [(0, rows), (1, rows[:4])], batch_size=6, max_new_tokens=limit
        )
        assert found is not None
        return pd.concat([scores[1].to_pandas() for scores in found], ignore_index=True)

    yield "packed", packed, rows + rows[:4]
    adapted = PeftModel.from_pretrained(loaded(name)[0], str(adapter)).eval()

    def trl(limit: int | None) -> pd.DataFrame:
        found = scoring.score(
            adapted, tokenizer, rows, batch_size=6, max_new_tokens=limit, precision=precision
        )
        assert found is not None
        return found[1].to_pandas()

    yield "trl", trl, rows


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The prompts that either engine decodes."""
    prompts: list[tuple[int, ...]] = []
    of_one, of_many = scoring.greedy_answers, scorer.greedy_tokens

    def one(model: Any, asked: list[list[int]], **options: Any) -> Any:
        prompts.extend(tuple(prompt) for prompt in asked)
        return of_one(model, asked, **options)

    def many(base: Any, stacks: Any, ids: Any, lengths: Any, limits: Any, **options: Any) -> Any:
        for k, row in (limits > 0).nonzero().tolist():
            prompts.append(tuple(ids[k, row, : lengths[k, row]].tolist()))
        return of_many(base, stacks, ids, lengths, limits, **options)

    monkeypatch.setattr(scoring, "greedy_answers", one)
    monkeypatch.setattr(scorer, "greedy_tokens", many)
    return prompts


def decode_all(patch: pytest.MonkeyPatch) -> None:
    for module in (losses, decode):
        patch.setattr(
            module, "clearly_first", lambda scores, best, dtype: torch.zeros_like(best) > 0
        )


@pytest.mark.parametrize(("limit", "precision"), [(None, "fp32"), (3, "fp32"), (None, "bf16")])
def test_only_rows_with_a_wrong_token_are_decoded_and_all_answers_are_the_same(
    trained: tuple[str, Path], limit: int | None, precision: str, decoded: list[tuple[int, ...]]
) -> None:
    for engine, score, rows in engines(trained, precision):
        decoded.clear()
        found, asked = score(limit), sorted(decoded)
        with pytest.MonkeyPatch.context() as patch:
            decode_all(patch)
            decoded.clear()
            expected = score(limit)
        assert sorted(decoded) == sorted(tuple(row.prompt_ids) for row in rows), engine
        pd.testing.assert_frame_equal(found, expected)
        if limit is None:
            wrong = [row for row, right in zip(rows, expected["correct"], strict=True) if not right]
            must = sorted(tuple(row.prompt_ids) for row in wrong)
            # In bf16 also those whose answer is right by less than rounding.
            assert asked == must if precision == "fp32" else set(must) <= set(asked)
        assert 0 < len(asked) < len(rows), engine


def test_a_near_tie_is_not_clear() -> None:
    logits = torch.tensor([[4.0, 1.0, -8.0], [4.0, 4.0, 0.0], [4.0, 3.999, 0.0], [4.0, 3.6, -8.0]])
    best = logits.argmax(-1)
    for dtype, expected in (
        (torch.float32, [True, False, False, True]),
        (torch.bfloat16, [True, False, False, False]),
    ):
        assert clearly_first(logits, best, dtype).tolist() == expected
    # Logits far from 0 are rounded as coarsely as their size; near 0 their spread counts.
    shifted = torch.tensor([[-96.0, -100.0, -110.0], [0.0, -1.0, -29.0], [0.0, -2.0, -28.0]])
    assert clearly_first(shifted, torch.zeros(3, dtype=torch.long), torch.bfloat16).tolist() == [
        False, False, True
    ]  # fmt: skip
    nothing = torch.full((1, 3), torch.nan)
    assert clearly_first(nothing, torch.tensor([0]), torch.float32).tolist() == [False]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_forcing_and_decoding_differ_by_less_than_a_near_tie(
    trained: tuple[str, Path], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded(trained[0])
    pack = pack_of(model, trained[1], dtype_of(precision))
    rows = scoring.encode(tokenizer, tiny.frame(tiny.WORDS), raw_format(TEMPLATE))
    longest, budget = max(len(row.prompt_ids) for row in rows), 10
    ids = torch.ones(2, len(rows), longest + budget, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[:, index, : len(row.prompt_ids)] = torch.tensor(row.prompt_ids)
    lengths = torch.tensor([[len(row.prompt_ids) for row in rows]] * 2)
    seen: list[torch.Tensor] = []

    def most_likely(hidden: torch.Tensor, base: Any, kernels: Any) -> torch.Tensor:
        seen.append((hidden @ base.head.t())[:, : base.vocabulary].float())
        return seen[-1].argmax(-1)

    monkeypatch.setattr(decode, "_most_likely", most_likely)
    limits = torch.full_like(lengths, budget)
    answers = decode.greedy_tokens(
        pack.base, pack.stacks(), ids[:, :, :longest], lengths, limits, eos=-1
    )
    places = lengths[..., None] + torch.arange(budget)
    ids.scatter_(2, places, answers)
    offsets = torch.arange(len(rows))[:, None] * ids.shape[2]
    with torch.no_grad():
        hidden = hidden_states(pack.base, pack.stacks(), ids, (offsets + places - 1).flatten(1))
    forced = (hidden @ pack.base.head.t())[..., : pack.base.vocabulary].float()
    steps = torch.stack(seen[:budget], 1).view_as(forced)
    # By how much the two largest logits approach each other, at the size of the logits.
    change = (forced - steps).gather(-1, steps.topk(2).indices).diff(dim=-1)[..., 0].abs()
    high = steps.amax(-1)
    share = change / torch.maximum(high.abs(), high - steps.mean(-1))
    assert 0 < share.max() < NEAR_TIE[pack.base.dtype] / 2


@pytest.mark.parametrize("name", ["repetition_penalty", "suppress_tokens"])
def test_generation_settings_of_the_base_do_not_apply(base: Path, name: str) -> None:
    model, tokenizer = loaded(str(base / "gpt2"))
    options: dict[str, Any] = {"max_new_tokens": 8, "pad_token_id": 1, "eos_token_id": 0}
    prompts = [tokenizer(f"<human>: {word}\n<assistant>:")["input_ids"] for word in WORDS]
    expected = greedy_answers(model, prompts, **options)
    told = sorted({token for answer in expected for token in answer})
    values: dict[str, Any] = {"repetition_penalty": 3.0, "suppress_tokens": told}
    setattr(model.generation_config, name, values[name])
    own = model.generation_config
    assert greedy_answers(model, prompts, **options) == expected
    assert model.generation_config is own  # a merged model is written with it
