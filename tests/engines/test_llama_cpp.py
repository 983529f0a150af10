"""llama.cpp answers as Spelltune does: 100 words by an exported model, each letter the same."""

from pathlib import Path

import pytest

from src.config import load_config
from src.models.prompt_format import raw_format
from src.training.merge import export_gguf
from src.training.train import train
from tests.helpers import llama_cpp, tiny

pytestmark = pytest.mark.slow


def test_llama_cpp_gives_the_answers_that_the_run_was_scored_by(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    installed = tmp_path_factory.mktemp("llama_cpp")
    if why := llama_cpp.install(installed):
        pytest.skip(f"{llama_cpp.PACKAGE} cannot be installed: {why}")
    config = load_config(preset="tiny-spell", overrides={
        "backend": "peft", "engine": "trl", "training.max_steps": 100,
        "scheduler.warmup_steps": 10, "evaluation.eval_steps": 100, "evaluation.max_rows": 50,
        "checkpointing.save_steps": 100, "tracking.mode": "off",
    })  # fmt: skip
    told = tiny.Recorder()
    train(config, told, output_dir=home / "run", checkpoints_dir=home / "checkpoints")
    scored = next(frame for _, split, frame in told.evaluations if split == "test")[:100]
    assert scored["correct"].mean() > 0.1  # it has learned to answer
    form = raw_format(config.data.template)
    prompts = [form.prompt(question) for question in scored["question"]]
    for kind, least in (("f16", 99), ("q8_0", 95)):  # 8 bits round what is nearly a draw
        file = home / f"tiny.{kind}.gguf"
        export_gguf(config, home / "run" / "final", file, kind)
        longest = config.evaluation.max_new_tokens or 64
        found = llama_cpp.answers(installed, file, prompts, longest)
        same = [a.strip() == b.strip() for a, b in zip(found, scored["predicted"], strict=True)]
        print(f"{kind}: {sum(same)} of {len(same)} answers equal")
        assert len(same) == 100 and sum(same) >= least
