"""The check of a config before its launch: names, words and notes; no model and no data."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from src import files, store
from src.config import ConfigError, RunConfig, load_config, read_text, stored_config
from src.runs import attempts, checks, estimate, launch_notes
from src.sweeps import control, search, trial_checks
from tests.helpers.store import fill_run
from tests.helpers.sweeps import cli, measured, sweep_of


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
        return list(launch_notes.setting_notes(config).values())

    (note,) = noted("linear", 20, 10)
    assert note.startswith("the learning rate only rises, to 45% of its peak")
    assert "the warm-up of 20 steps is longer than the run of 10" in note
    (even,) = noted("constant_with_warmup", 10, 10)
    assert "is as long as the run of 10" in even
    assert noted("linear", 9, 10) == [] and noted("constant", 20, 10) == []


def test_a_rate_far_above_those_of_the_presets_has_a_note() -> None:
    def noted(**changes: Any) -> list[str]:
        overrides = {name.replace("__", "."): value for name, value in changes.items()}
        config = load_config(preset="tiny-spell", overrides=overrides)
        return list(launch_notes.setting_notes(config))

    assert noted() == noted(training__learning_rate=0.03) == []
    assert noted(training__learning_rate=0.031) == ["training.learning_rate"]
    # The preset of this base model has a tenth of that rate.
    gpt2 = {"model__name": "gpt2", "training__learning_rate": 2.1e-3}
    assert noted(**gpt2) == ["training.learning_rate"]
    # No preset says which rates suit another optimizer.
    assert noted(optimizer__name="sgd", training__learning_rate=5.0) == []


def test_sizes_that_do_not_fit_the_data_have_notes() -> None:
    def noted(train: int, validation: int, **changes: Any) -> dict[str, str]:
        overrides = {name.replace("__", "."): value for name, value in changes.items()}
        config = load_config(preset="tiny-spell", overrides=overrides)  # 32 rows a step
        rows = {"train": train, "validation": validation, "test": 100}
        return launch_notes.size_notes(config, {"rows": rows})

    assert noted(32, 100) == {}
    batch = noted(31, 100)["training.per_device_train_batch_size"]
    assert "a step takes 32 rows, and there are only 31 rows to train on" in batch
    few = noted(320, 25, data__path="/words.csv")["data.path"]
    assert "scores only 25 rows" in few and "one is 4 points" in few and "off by 20 points" in few
    assert list(noted(320, 400, evaluation__max_rows=50)) == ["evaluation.max_rows"]


def test_a_new_run_takes_no_at_sign_in_its_name_and_an_older_one_opens(home: Path) -> None:
    answer = cli("launch", "--set", "name=lr@10", "--set", "tracking.mode=off")
    assert answer.exit_code == 2
    assert "name: takes no @, which parts a run from the step of a checkpoint" in answer.stderr
    old = fill_run(name="lr@10")
    assert cli("show", old).exit_code == 0
    with store.reading() as session:
        run = store.find(session, old)
    assert stored_config(run.config).name == "lr@10"
    assert "@" not in attempts.fork_name(run)


def test_a_pipe_as_a_file_of_settings_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with monkeypatch.context() as patch:
        patch.setattr(files, "STREAM_SECONDS", 0.1)
        with pytest.raises(ConfigError, match="nothing came from it"):
            read_text(pipe)
    writing = threading.Thread(target=pipe.write_text, args=("lora:\n  r: 2\n",))
    writing.start()
    assert read_text(pipe) == "lora:\n  r: 2\n"
    writing.join()


@pytest.mark.parametrize("left", ["", "{", '{"fits": true}', "[]", "null"])
def test_a_cut_measurement_is_none(home: Path, left: str) -> None:
    config = load_config()
    measured(config, 1, step=0.1, gib=1.0)
    assert estimate.load(config) is not None
    estimate.measurement_file(config).write_text(left)
    assert estimate.load(config) is None and estimate.memory_problems(config) == {}


def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of each config whose data are looked at."""
    looked: list[dict[str, Any]] = []

    def check(config: RunConfig) -> dict[str, Any]:
        looked.append(config.model_dump())
        if config.data.path == "/gone.csv":
            raise ConfigError({"data.path": "no file /gone.csv"})
        rows = {"train": 80, "validation": 10, "test": 10}
        return {"rows": rows, "rows_by_task": {}, "multi_token_words": {}}

    monkeypatch.setattr(checks, "check", check)
    monkeypatch.setattr(trial_checks, "preview_notes", lambda preview: ["2 answers do not survive"])
    return looked


def test_a_sweep_checks_every_trial_that_it_can_know(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = seen(monkeypatch)
    space = {"data.path": ["/there.csv", "/gone.csv"], "lora.r": [2, 4],
             "training.learning_rate": [1e-3, 1e-2]}  # fmt: skip
    sweep = sweep_of(method="grid", space=space, budget=None)
    base = control.base_config(sweep)
    with pytest.raises(ConfigError) as caught:
        trial_checks.check_trials(sweep, base)
    assert list(caught.value.problems) == ["data.path"]
    told = caught.value.problems["data.path"]
    assert told.startswith("no file /gone.csv (in the trial with ") and "/gone.csv" in told
    assert {one["data"]["path"] for one in looked} == {"/there.csv", "/gone.csv"}
    assert len(looked) <= 3  # the same data are looked at once, if they can be read


def test_a_search_checks_its_first_draws_and_tells_what_a_launch_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen(monkeypatch)
    wrong = {"engine": "packed cannot train this"}
    monkeypatch.setattr(
        checks,
        "setting_problems",
        lambda c: wrong if c.lora.r == 8 and c.engine == "packed" else {},
    )
    sweep = sweep_of(space={"lora.r": [2, 4, 8], "engine": ["packed", "trl"]}, budget="6 trials")
    base = control.base_config(sweep)
    first = search.suggest(sweep, sweep.seed, 0, [])
    assert first is not None and first != {"lora.r": 8, "engine": "packed"}
    with pytest.raises(ConfigError, match="packed cannot train this"):
        trial_checks.check_trials(sweep, base)
    sweep = sweep_of(space={"lora.r": [2, 4]}, budget="2 trials")
    notes = trial_checks.check_trials(sweep, base)
    assert "2 answers do not survive" in notes
    assert sum("scores only 10 rows" in note for note in notes) == 1  # though two trials have it


def test_a_rate_that_one_trial_of_a_sweep_has_is_noted_before_the_launch_and_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen(monkeypatch)
    sweep = sweep_of(method="grid", space={"training.learning_rate": [1e-3, 5.0]}, budget=None)
    base = control.base_config(sweep)
    before = trial_checks.notes(sweep, base, None)
    assert [*before] == ["training.learning_rate"]
    for notes in (before.values(), trial_checks.check_trials(sweep, base)):
        assert sum("at a learning rate of 5 a run" in note for note in notes) == 1
