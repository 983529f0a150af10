"""Each family of base models: the packed engine computes what transformers and PEFT compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from src.models import spelling_model as spelling
from src.models.losses import IGNORED
from src.models.multi_lora.decode import greedy_tokens, teacher_forced
from src.models.spelling_model import lora_config
from src.training.train import train
from tests.engines.test_packed import (
    ADAPTERS,
    batch,
    difference,
    model_of,
    pack_of,
    plain_loop,
    shape_of,
    steps_of,
    targets_of,
    trained,
)
from tests.helpers import tiny
from tests.helpers.families import MODELS, random_model

STEPS = 5  # the second adapter leaves before the last one


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize("name", MODELS)
def test_a_packed_adapter_is_the_one_it_would_be_alone(
    name: str, at_once: int | None, norms_in_float64: None
) -> None:
    model = model_of(name, torch.float64)
    assert spelling.resolve_targets(model, None) == targets_of(name)  # every linear layer
    solos = ADAPTERS[:2]
    pack = pack_of(model, name, solos, at_once=at_once)
    # One adapter at a time, its rows lie flat and share their head.
    rows = steps_of(solos, STEPS + 1, head=5)
    for step, now in enumerate(rows):
        there = [solo if step < (8, STEPS)[slot] else None for slot, solo in enumerate(solos)]
        pack.run([batch(there, now, step, shape_of(now, roomier=step % 2))])
    for slot, (solo, steps) in enumerate(zip(solos, (STEPS + 1, STEPS), strict=True)):
        alone = plain_loop(model, name, solo, [now[slot] for now in rows[:steps]])
        assert difference(trained(pack, slot, solo), alone) <= 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_peft_scores_and_answers_the_same_from_the_saved_adapter(name: str, tmp_path: Path) -> None:
    model = model_of(name, torch.float32)
    solos = ADAPTERS[:2]
    pack = pack_of(model, name, solos)
    for step, now in enumerate(steps_of(solos, 2)):
        pack.run([batch(solos, now, step)])
    torch.manual_seed(5)
    ids = torch.randint(2, 290, (2, 3, 14))
    lengths = torch.tensor([[9, 6, 14], [4, 14, 11]])
    # Teacher forcing of all tokens: each predicts the next one.
    places = (torch.arange(3)[:, None] * 14 + torch.arange(13)).flatten().repeat(2, 1)
    targets = ids[:, :, 1:].flatten(1)
    scores, hits, _ = teacher_forced(pack.base, pack.stacks(), ids, places, targets)
    answers = greedy_tokens(pack.base, pack.stacks(), ids, lengths, torch.full((2, 3), 6), eos=-1)
    assert scores.shape == targets.shape and not (targets == IGNORED).any()
    for slot, solo in enumerate(solos):
        save_file(trained(pack, slot, solo), tmp_path / "adapter_model.safetensors")
        lora_config(
            r=solo.rank, alpha=solo.alpha, dropout=0.0, targets=targets_of(name), bias="none",
            conv1d=False,
        ).save_pretrained(str(tmp_path))  # fmt: skip
        loaded = PeftModel.from_pretrained(model, str(tmp_path)).eval()
        with torch.no_grad():
            expected = loaded(ids[slot]).logits[:, :-1].log_softmax(-1)
            picked = expected.gather(-1, ids[slot, :, 1:, None])[..., 0].flatten()
            assert (scores[slot] - picked).abs().max() < 1e-4 * picked.abs().max()
            right = expected.argmax(-1) == ids[slot, :, 1:]
            assert hits[slot].tolist() == right.flatten().tolist()
            for row in range(3):
                assert answers[slot, row].tolist() == without_cache(
                    loaded, ids[slot, row, : lengths[slot, row]], 6
                )
        loaded.unload()


def test_both_engines_bound_the_attention_of_gemma_2(tmp_path: Path) -> None:
    """PyTorch's own attention, transformers' default, leaves the bound out without a word."""
    base = tmp_path / "base"
    random_model("Gemma 2").save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    config = tiny.config_of(tmp_path, **{
        "model.name": str(base), "model.max_length": 40, "evaluation.max_new_tokens": 8,
        "data.path": str(tiny.data(tmp_path / "words", 8, 3, 3)), "training.max_steps": 3,
        "lora.dropout": 0.0,
    })  # fmt: skip
    found = []
    for engine in ("packed", "trl"):
        out = tmp_path / engine
        train(
            config.model_copy(update={"engine": engine}), tiny.Recorder(),
            output_dir=out / "out", checkpoints_dir=out / "steps",
        )  # fmt: skip
        found.append(load_file(out / "out/final/adapter_model.safetensors"))
    assert difference(*found) < 1e-5


def without_cache(model: Any, prompt: torch.Tensor, count: int) -> list[int]:
    """The `count` most likely tokens after a prompt."""
    ids = prompt[None]
    for _ in range(count):
        ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), 1)
    return ids[0, len(prompt) :].tolist()
