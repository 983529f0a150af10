"""The check of a config before its launch: names, words and notes; no model and no data."""

import pytest

from src.config import ConfigError, RunConfig, load_config
from src.runs import checks


def problems(**changes: object) -> dict[str, str]:
    return checks.tracking_problems(
        load_config(
            overrides={f"tracking.{name}": value for name, value in changes.items()}
        ).tracking
    )


@pytest.mark.parametrize("sign", [*"/\\#?%:", *"-_. ()@é"])
def test_names_of_projects_are_refused_as_wandb_refuses_them(sign: str) -> None:
    import wandb

    name = f"spelling{sign}words"
    try:
        wandb.Settings(project=name)
        refused = False
    except wandb.errors.UsageError:
        refused = True
    found = problems(project=name, mode="offline")
    assert bool(found) == refused
    assert not refused or f"takes no {sign} in the name of a project" in found["tracking.project"]
    # Names that no tracker of W&B's sees are nobody's concern.
    assert problems(project=name, mode="off") == {}


@pytest.mark.parametrize("length", [0, 1, 64, 65])
def test_tags_are_refused_as_wandb_refuses_them(length: int) -> None:
    import wandb

    try:
        wandb.Settings(run_tags=["fine", "x" * length])
        refused = False
    except ValueError:
        refused = True
    found = problems(tags=["fine", "x" * length], mode="offline")
    assert bool(found) == refused
    assert not refused or "has 1 to 64 letters" in found["tracking.tags"]


def test_all_linear_is_the_default_as_in_peft() -> None:
    for value in ("all-linear", ["all-linear"], None):
        assert load_config(overrides={"lora.target_modules": value}).lora.target_modules is None
    for value in ("q_proj", ".*attn", ["all-linear", "q_proj"]):
        with pytest.raises(ConfigError) as refused:
            load_config(overrides={"lora.target_modules": value})
        text = refused.value.problems["lora.target_modules"]
        assert "such as [q_proj, v_proj], or all-linear alone" in text and repr(value) in text


def test_a_warm_up_that_is_no_shorter_than_the_run_has_a_note() -> None:
    def noted(scheduler: str, warmup: int, steps: int) -> list[str]:
        changes = {"scheduler.name": scheduler, "scheduler.warmup_steps": warmup}
        config: RunConfig = load_config(overrides=changes | {"training.max_steps": steps})
        return checks.setting_notes(config)

    (note,) = noted("linear", 20, 10)
    assert "warm-up of 20 steps" in note and "reaches 45% of its peak" in note
    assert len(noted("constant_with_warmup", 10, 10)) == 1
    assert noted("linear", 9, 10) == [] and noted("constant", 20, 10) == []
