"""The TRL engine on small random models: learns, stops, restores its best, repeats exactly."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.config import RunConfig, affecting, by_name, get, load_config
from src.models.metrics import METRICS, PARTIAL
from src.models.utils import ModelError
from src.training import checkpointing
from src.training import train as engine
from src.training.data_files import DataError
from src.training.early_stopping import Diverged
from src.training.train import train
from src.training.trl_arguments import plan
from src.training.utils import TrainingError, TrainingResult
from tests.helpers import tiny


def short_run(base: Path, shape: str = "gpt2", **changes: Any) -> RunConfig:
    """A short run of 8 steps; `changes` by dotted name, with __ for the dot."""
    values = {
        "backend": "peft",
        "engine": "trl",
        "model.name": str(base / shape),
        "model.max_length": 64,
        "data.path": str(base / "words"),
        "lora.dropout": 0.1,
        "training.max_steps": 8,
        "training.per_device_train_batch_size": 4,
        "training.learning_rate": 5e-3,
        "training.logging_steps": 1,
        "scheduler.warmup_steps": 0,
        "evaluation.eval_steps": 4,
        "evaluation.max_new_tokens": 4,
        "checkpointing.save_steps": 4,
        "early_stopping.metric": "val/loss",
        "early_stopping.mode": "min",
    } | {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(preset="tiny-spell", overrides=values)


def run(
    config: RunConfig, folder: Path, stop_at: int | None = None
) -> tuple[TrainingResult, tiny.Recorder]:
    reporter = tiny.Recorder(stop_at)
    result = train(config, reporter, output_dir=folder / "out", checkpoints_dir=folder / "steps")
    return result, reporter


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_learns_one_batch_by_heart(base: Path, tmp_path: Path, shape: str) -> None:
    words = tmp_path / "words"
    words.mkdir()
    line = json.dumps({"question": "cat", "answer": "c a t"})
    for split in ("train", "validation", "test"):
        (words / f"{split}.jsonl").write_text(line)
    config = short_run(
        base,
        shape,
        data__path=str(words),
        lora__r=32,
        lora__alpha=64,
        lora__dropout=0,
        training__max_steps=200,
        training__learning_rate=6e-3,
        training__logging_steps=40,
        evaluation__eval_steps=200,
        evaluation__max_new_tokens=8,
        checkpointing__save_steps=200,
    )
    result, reporter = run(config, tmp_path)
    assert result.metrics["val/exact_match"] == result.metrics["test/exact_match"] == 1
    assert result.metrics["val/loss"] < 0.1
    assert reporter.curve("val/exact_match")[0] == 0
    step, split, predictions = reporter.evaluations[-1]
    assert (step, split) == (200, "test")
    row = predictions.iloc[0]
    assert row["word"] == row["expected"] == row["predicted"] == "c a t"
    assert row["question"] == "cat" and row["correct"] and row["edit_distance"] == 0
    assert -row["log_probability"] / row["answer_tokens"] == pytest.approx(
        result.metrics["test/loss"]
    )


def test_what_is_reported_and_left_behind(base: Path, tmp_path: Path) -> None:
    result, reporter = run(short_run(base), tmp_path)
    assert result.step == 8 and not result.stopped and result.reason is None
    assert set(reporter.curve("val/loss")) == {0, 4, 8}
    assert set(reporter.curve("train/loss")) == set(range(1, 9))
    for name in ("lr", "grad_norm", "tokens_per_second"):
        assert set(reporter.curve(name)) == set(range(1, 9))
    assert any(name.endswith("memory_gib") for _, name, _ in reporter.points)
    assert set(result.metrics) == {
        *(
            f"{split}/{name}"
            for split in ("val", "test")
            for name in METRICS
            if name not in PARTIAL
        ),
    }
    assert reporter.values["backend"] == "peft" and reporter.values["precision"] == "fp32"
    assert reporter.values["trainer"]["learning_rate"] == 5e-3
    assert reporter.values["rows"] == {"train": 15, "validation": 5, "test": 5}
    final = tmp_path / "out" / "final"
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        file.name for file in final.iterdir()
    }
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base / "gpt2"), str(final))
    assert all("lora_" in key for key in adapter(final))
    names = {file.name for file in (tmp_path / "steps" / "step-8").iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
    assert not (tmp_path / "steps" / checkpointing.STAGING).exists()
    assert not (tmp_path / "out" / checkpointing.STAGING).exists()


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_the_base_is_bitwise_unchanged(
    base: Path, tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.models import spelling_model

    seen = []
    original = spelling_model.load_base

    def load_base(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        seen.append((model, {name: p.clone() for name, p in model.named_parameters()}))
        return model

    monkeypatch.setattr(spelling_model, "load_base", load_base)
    run(short_run(base, shape), tmp_path)
    (model, before), *_ = seen
    after = {
        name.replace(".base_layer", ""): p
        for name, p in model.named_parameters()
        if "lora_" not in name
    }
    assert equal(before, after)


def test_the_loss_is_over_the_answers_of_the_whole_step(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny.data(tmp_path / "words", train=8)
    config = short_run(
        base,
        data__path=str(tmp_path / "words"),
        training__label_smoothing=0.2,
        training__gradient_accumulation_steps=4,
        training__per_device_train_batch_size=2,
        training__max_steps=1,
    )
    _, reporter = run(config, tmp_path)

    tokenizer = AutoTokenizer.from_pretrained(base / "gpt2")
    model = AutoModelForCausalLM.from_pretrained(base / "gpt2").eval()
    total, tokens = 0.0, 0
    for word in tiny.WORDS[:8]:
        prompt = tokenizer(f"<human>: {word}\n<assistant>:")["input_ids"]
        answer = tokenizer(" " + " ".join(word))["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            log_p = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        for place, token in enumerate(answer, start=len(prompt) - 1):
            total -= (0.8 * log_p[place, token] + 0.2 * log_p[place].mean()).item()
            tokens += 1
    assert reporter.curve("train/loss")[1] == pytest.approx(total / tokens, rel=1e-4)


def test_the_same_seed_gives_the_same_bits(base: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run(short_run(base, training__seed=seed), tmp_path / name)
    one, again, other = (adapter(tmp_path / n / "out/final") for n in ("one", "again", "other"))
    assert equal(one, again)
    assert not equal(one, other)


def test_evaluations_do_not_disturb_the_training(base: Path, tmp_path: Path) -> None:
    for name, eval_steps in (("often", 1), ("once", 8)):
        run(short_run(base, evaluation__eval_steps=eval_steps), tmp_path / name)
    often, once = (adapter(tmp_path / name / "steps/step-8") for name in ("often", "once"))
    assert equal(often, once)


def test_rows_come_in_an_order_of_their_own() -> None:
    from src.training.trl import Shuffled

    def order(seed: int, epoch: int) -> list[int]:
        sampler = Shuffled(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4
    torch.rand(1)
    assert order(0, 0) == orders[0]


def test_a_stop_ends_within_a_step_and_keeps_the_adapter(base: Path, tmp_path: Path) -> None:
    config = short_run(base, training__max_steps=1000, evaluation__eval_steps=3)
    result, reporter = run(config, tmp_path, stop_at=4)
    assert result.stopped and result.reason == "stopped at step 5"
    # Recorder asks once step 4 is logged; the trainer looks after step 5.
    assert result.step == 5 and result.best_step == 3
    assert [step for step, _, _ in reporter.checkpoints] == [3, 4, 5]
    assert not any(split == "test" for _, split, _ in reporter.evaluations)
    assert equal(adapter(tmp_path / "out/final"), adapter(tmp_path / "steps/step-3"))
    assert result.metrics["val/loss"] == reporter.curve("val/loss")[3]


def test_a_stop_before_the_first_evaluation_keeps_the_newest(base: Path, tmp_path: Path) -> None:
    result, _ = run(short_run(base), tmp_path, stop_at=1)
    assert result.stopped and result.step == result.best_step == 2
    assert equal(adapter(tmp_path / "out/final"), adapter(tmp_path / "steps/step-2"))


def test_a_stop_before_the_first_step(base: Path, tmp_path: Path) -> None:
    result, _ = run(short_run(base), tmp_path, stop_at=0)
    assert result.stopped and result.step == 0 and result.metrics == {}
    assert (tmp_path / "out/final/adapter_model.safetensors").is_file()


def test_early_stopping(base: Path, tmp_path: Path) -> None:
    config = short_run(
        base,
        training__max_steps=1000,
        evaluation__eval_steps=2,
        early_stopping__patience=2,
        early_stopping__min_delta=100,
    )
    result, _ = run(config, tmp_path)
    assert not result.stopped and result.step == 6 and result.best_step == 2
    assert result.reason == (
        "early stopping: val/loss was not better than at step 2 in 2 evaluations"
    )


def test_the_best_is_restored_and_scored_again(base: Path, tmp_path: Path) -> None:
    # The highest loss is the `best` here, so that the best is not the last.
    config = short_run(
        base,
        training__max_steps=12,
        training__learning_rate=5e-2,
        evaluation__eval_steps=2,
        checkpointing__save_steps=2,
        early_stopping__mode="max",
    )
    result, reporter = run(config, tmp_path)
    curve = reporter.curve("val/loss")
    losses = [(step, v) for step, name, v in reporter.points if name == "val/loss" and step]
    best_step = max((s for s, _ in losses), key=lambda s: curve[s])
    assert result.best_step == best_step != result.step == 12
    assert equal(adapter(tmp_path / "out/final"), adapter(tmp_path / f"steps/step-{best_step}"))
    assert not equal(adapter(tmp_path / "out/final"), adapter(tmp_path / "steps/step-12"))
    # Its numbers are reported last, and are those of its first scoring.
    again = [value for step, value in losses if step == best_step]
    assert len(again) == 2 and again[0] == again[1] == result.metrics["val/loss"]
    kept = {*(step for step, _, _ in reporter.checkpoints)} - {*reporter.removed}
    assert kept == {best_step, 10, 12} == {*checkpointing.steps(tmp_path / "steps")}
    assert [step for step, _, is_best in reporter.checkpoints if is_best][-1] == best_step


def test_retention_goes_by_step(tmp_path: Path) -> None:
    for step in (900, 1000, 200, 30):  # made in another order than their steps
        (tmp_path / f"step-{step}").mkdir()
    assert checkpointing.retain(tmp_path, keep_last=2, best_step=30) == [200]
    assert checkpointing.steps(tmp_path) == [30, 900, 1000]


def test_retention_keeps_forks_and_a_quota_spares_best_and_last_two(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50, 60):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / "file").write_bytes(bytes(2**20))
    checkpointing.keep_for_fork(tmp_path, 20)
    mib = 1 / 1024
    assert checkpointing.retain(tmp_path, keep_last=5, best_step=30, max_gib=5 * mib) == [10]
    assert checkpointing.retain(tmp_path, keep_last=5, best_step=30, max_gib=0.1 * mib) == [40]
    assert checkpointing.steps(tmp_path) == [20, 30, 50, 60]


OTHER_VALUES: dict[str, Any] = {
    "backend": "peft",
    "model.name": "gpt2",
    "model.revision": "v1",
    "lora.target_modules": ["c_attn"],
    "data.task": "correct",
    "data.mix": {"spell_out": 0.5, "count": 0.5},
    "data.path": "words.csv",
    "data.hub_id": "user/words",
    "data.revision": "v1",
    "evaluation.max_new_tokens": 9,
    "training.precision": "bf16",
}


# These reach the libraries through `plan`, which `train` unpacks into their calls; the run policy
# has the others, and the rows are made by the prompt's format.
OF_THE_ROWS = {"data.template", "data.system_prompt"}
OF_THE_TRAINER = sorted(
    affecting("weights", "data", "cost") - {"engine"} - OF_THE_ROWS | {"training.logging_steps"}
)


@pytest.mark.parametrize("name", OF_THE_TRAINER)
def test_every_setting_reaches_the_trainer(name: str) -> None:
    base = {"optimizer.name": "sgd"} if name == "optimizer.momentum" else {}
    before = load_config(overrides=base)
    value = get(before, name)
    setting = by_name()[name]
    if name in OTHER_VALUES:
        value = OTHER_VALUES[name]
    elif setting.choices:
        value = next(choice for choice in setting.choices if choice != value)
    elif isinstance(value, bool):
        value = not value
    elif isinstance(value, int):
        value += 1
    else:
        value = value * 0.75 + 0.0003
    after = load_config(overrides=base | {name: value})
    assert get(after, name) != get(before, name)

    def built(config: RunConfig) -> dict[str, Any]:
        return asdict(plan(config))

    assert built(before) != built(after)
    # The new value itself arrives, not only a difference.
    words = {
        "model.load_in_4bit": "load_in_4bit",
        "training.precision": "bf16",
        "data.mix": "(('count', 0.5), ('spell_out', 0.5))",
    }
    assert words.get(name, repr(value) if isinstance(value, str) else str(value)) in str(
        built(after)
    )


def test_the_seed_reaches_every_part() -> None:
    built = plan(load_config(overrides={"training.seed": 7}))
    arguments = built.arguments
    seeds = [built.base["seed"], built.lora["seed"], arguments["seed"], arguments["data_seed"]]
    assert seeds == [7] * 4


def test_a_library_that_changes_a_setting_is_caught(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.training.trl import SpellingTrainer

    original = SpellingTrainer.__init__

    def meddle(self: Any, *, args: Any, **kwargs: Any) -> None:
        args.gradient_accumulation_steps = 2
        original(self, args=args, **kwargs)

    monkeypatch.setattr(SpellingTrainer, "__init__", meddle)
    with pytest.raises(TrainingError, match="gradient_accumulation_steps 1 became 2"):
        run(short_run(base), tmp_path)


def test_sgd_and_its_momentum(base: Path, tmp_path: Path) -> None:
    config = short_run(base, optimizer__name="sgd", optimizer__momentum=0.5)
    used = run(config, tmp_path)[1].values["trainer"]
    assert used["optimizer_class"] == "SGD" and used["optimizer_momentum"] == 0.5


def test_gradient_checkpointing_changes_no_number(base: Path, tmp_path: Path) -> None:
    for name, on in (("with", True), ("without", False)):
        changes = {"training__gradient_checkpointing": on, "lora__dropout": 0}
        run(short_run(base, "llama", **changes), tmp_path / name)
    with_it, without = (adapter(tmp_path / name / "out/final") for name in ("with", "without"))
    assert all(torch.allclose(with_it[k], without[k], atol=1e-5) for k in with_it)


def test_a_loss_that_is_no_number_ends_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.training import trl

    monkeypatch.setattr(trl, "answer_loss", lambda logits, *_, **__: logits.sum() * math.nan)
    with pytest.raises(Diverged, match="loss is nan at step 1: .* lower training.learning_rate"):
        run(short_run(base), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__max_length": 20}, "rows are longer than model.max_length of 20 tokens; the lo"),
        ({"data__path": "/nowhere.csv"}, "no file /nowhere.csv"),
        (
            {"data__template": " x" * 130 + "{question}", "model__max_length": 512},
            "longer than the base model's context of 128 tokens; the longest has",
        ),
        ({"early_stopping__metric": "val/bleu"}, "val/bleu' is not recorded; take one of val/ex"),
        (
            {"engine": "packed", "lora__bias": "all"},
            "lora.bias: the packed engine trains no biases",
        ),
        ({"model__name": "/nowhere"}, "no such folder"),
        ({"lora__target_modules": ["q_proj"]}, "it has c_attn, c_fc, c_proj"),
    ],
)
def test_bad_input_is_said_before_training(
    base: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((DataError, ModelError, TrainingError), match=message):
        run(short_run(base, **changes), tmp_path)
    assert not (tmp_path / "steps").exists()


def test_experiments_go_the_road_of_the_command_line(
    base: Path, tmp_path: Path, home: Path
) -> None:
    files = []
    for name, changes in (
        ("refused", {"data__path": "/nowhere.csv"}),
        ("failed", {"early_stopping__metric": "val/bleu"}),
        ("good", {}),
    ):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(json.dumps(short_run(base, **changes).model_dump()))
    refused, failed, (output_dir, results) = engine.run_experiments(files)
    for (_, failure), reason in ((refused, "/nowhere.csv"), (failed, "val/bleu")):
        assert failure["status"] == "FAILED" and reason in failure["reason"]
    assert output_dir is not None and output_dir.parent == home / "results" / "runs"
    assert (output_dir / "final" / "adapter_model.safetensors").is_file()
    assert results["step"] == 8 and 0 <= results["metrics"]["test/exact_match"] <= 1
