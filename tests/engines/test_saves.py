"""Checkpoints under both engines: saves that fail, and which are kept."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

from src.config import RunConfig
from src.training import checkpointing, run_policy, saving
from src.training.background import call_here
from src.training.packed import files
from src.training.packed.engine import train_pack
from src.training.packed.run import RunSpec
from src.workers.call_pool import CallPool
from tests.helpers import tiny
from tests.helpers.live import mounted
from tests.helpers.policy import kept, run, same_adapter

WRITE_ERRORS = {
    "system": OSError(errno.ENOSPC, "No space left on device"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
    "torch, closing": RuntimeError("basic_ios::clear: iostream error"),
    "safetensors": SafetensorError('Error while serializing: I/O error: "No space left on device"'),
    "tokenizers": Exception("No space left on device (os error 28)"),
}


def failing_at(monkeypatch: pytest.MonkeyPatch, error: BaseException, *steps: int) -> None:
    """Saves at these steps raise `error` when half of their files are there."""
    original = checkpointing.commit

    def commit(written: Path, target: Path, *arguments: Any) -> Path:
        if target.name in {f"step-{step}" for step in steps}:
            raise error
        return original(written, target, *arguments)

    monkeypatch.setattr(checkpointing, "commit", commit)


def each_error(errors: Mapping[str, Exception]) -> pytest.MarkDecorator:
    """Each of these errors under the packed engine, the first one under TRL too: what they are
    taken for is decided where both engines save."""
    cases = [("packed", name) for name in errors] + [("trl", next(iter(errors)))]
    return pytest.mark.parametrize(
        ("engine", "error"),
        [(engine, errors[name]) for engine, name in cases],
        ids=[f"{engine}-{name}" for engine, name in cases],
    )


@each_error(WRITE_ERRORS)
def test_a_save_that_cannot_be_written_is_a_warning(
    config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    failing_at(monkeypatch, error, 4, 6)
    result, reporter = run(config(), tmp_path)
    assert (result.step, result.stopped) == (12, False)
    assert kept(tmp_path) == [3, 8, 9, 12]
    assert [step for step, _ in reporter.warnings] == [4, 6]
    (_, best), (_, other) = reporter.warnings
    assert best.startswith("no checkpoint at step 4: ") and "No space left" in best
    assert best.endswith("; its adapter was the best so far, and is not kept")
    assert "best" not in other
    assert not (tmp_path / "steps" / checkpointing.STAGING).exists()


PASSING = {
    "system": OSError(errno.EIO, "Input/output error"),
    "network disk": OSError(errno.ETIMEDOUT, "Connection timed out"),
    "safetensors": SafetensorError("I/O error: Stale file handle (os error 116)"),
    "tokenizers": Exception("Input/output error (os error 5)"),
}


@each_error(PASSING)
def test_a_save_is_tried_again_where_the_error_of_the_disk_passes(
    config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    failed: list[str] = []
    for name in ("commit", "commit_adapter"):
        original = getattr(checkpointing, name)

        def once(written: Path, target: Path, *arguments: Any, original: Any = original) -> Any:
            if target.name in ("step-4", "final") and target.name not in failed:
                failed.append(target.name)
                raise error
            return original(written, target, *arguments)

        monkeypatch.setattr(checkpointing, name, once)
    result, reporter = run(config(), tmp_path)
    assert failed == ["step-4", "final"] and not reporter.warnings
    assert result.step == 12 and 4 in kept(tmp_path)
    checkpointing.verify_adapter(tmp_path / "out/final")


def test_a_disk_without_room_for_the_folder_of_a_save_is_a_warning(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpointing.stage

    def stage(folder: Path) -> Path:
        if folder.name == "steps" and kept(tmp_path) == [3]:
            raise WRITE_ERRORS["system"]
        return original(folder)

    monkeypatch.setattr(checkpointing, "stage", stage)
    result, reporter = run(config(), tmp_path)
    assert result.step == 12 and kept(tmp_path) == [3]
    assert [step for step, _ in reporter.warnings] == [4, 6, 8, 9, 12]
    assert all("No space left" in text for _, text in reporter.warnings)


def test_the_best_is_never_one_that_was_not_saved(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_at(monkeypatch, WRITE_ERRORS["torch"], 8, 12)
    result, reporter = run(config(), tmp_path)
    losses = reporter.curve("val/loss")
    assert losses[12] < losses[8] < losses[4]
    assert result.best_step == 4
    assert same_adapter(tmp_path / "out/final", tmp_path / "steps/step-4")
    assert result.metrics["val/loss"] == pytest.approx(losses[4])
    assert [*reporter.curve("test/loss")] == [4]  # and none of the adapter that is not kept


def test_the_only_evaluation_was_of_an_adapter_that_was_not_saved(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter of the last step is kept all the same: there is no better one."""
    failing_at(monkeypatch, WRITE_ERRORS["system"], 12)
    result, reporter = run(config(evaluation__eval_steps=50), tmp_path)
    assert [step for step, _ in reporter.warnings] == [12]
    manifest = json.loads((tmp_path / "out/final" / checkpointing.MANIFEST).read_text())
    assert (result.step, result.best_step, manifest["step"]) == (12, 12, 12)
    assert result.metrics["test/loss"] == reporter.curve("test/loss")[12]


def test_the_kept_adapter_is_scored_while_its_checkpoint_is_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU does not wait for the disk there."""
    scoring, original = threading.Event(), checkpointing.commit

    class Scoring(tiny.Recorder):
        def phase(self, text: str, **about: Any) -> None:
            super().phase(text, **about)
            if text.startswith("test "):
                scoring.set()

    def commit(written: Path, target: Path, *arguments: Any) -> Path:
        if target.name == "step-12":
            assert scoring.wait(300)
        return original(written, target, *arguments)

    monkeypatch.setattr(checkpointing, "commit", commit)
    settings = tiny.config_of(base, **{"engine": "packed", "lora.dropout": 0.0})
    result, _ = run(settings, tmp_path, reporter=Scoring())
    assert result.step == 12 and 12 in kept(tmp_path)


def test_a_divergence_waits_for_the_best_checkpoint_that_is_being_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverged, original = threading.Event(), checkpointing.commit

    class Diverges(tiny.Recorder):
        def metrics(self, step: int, values: Mapping[str, float]) -> None:
            super().metrics(step, values)
            if step == 5 and "train/loss" in values:
                diverged.set()

    def commit(written: Path, target: Path, *arguments: Any) -> Path:
        if target.name == "step-4":
            assert diverged.wait(300)
            time.sleep(0.5)
        return original(written, target, *arguments)

    monkeypatch.setattr(checkpointing, "commit", commit)
    monkeypatch.setattr(
        run_policy, "divergence", lambda _: "it diverged" if diverged.is_set() else None
    )
    settings = tiny.config_of(base, **{"engine": "packed", "lora.dropout": 0.0})
    result, reporter = run(settings, tmp_path, reporter=Diverges())
    assert (result.reason, result.best_step) == ("early stopping: it diverged", 4)
    assert not reporter.warnings
    assert same_adapter(tmp_path / "out/final", tmp_path / "steps/step-4")


@pytest.mark.parametrize("error", [MemoryError("no memory"), KeyError("a bug")])
def test_what_says_nothing_of_the_disk_ends_the_run(
    config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    failing_at(monkeypatch, error, 4)
    with pytest.raises(type(error)):
        run(config(), tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("kib", [40, 90, 170, 400])
def test_a_full_disk_leaves_what_was_saved_and_the_run_goes_on(
    config: Callable[..., RunConfig], tmp_path: Path, kib: int
) -> None:
    """Whichever file of a checkpoint is the first that has no room."""
    with mounted(tmp_path / "steps", "1100k"):
        filler = tmp_path / "steps" / "filler"
        filler.write_bytes(os.urandom(1100 * 1024 - 4096 - kib * 1024))
        result, reporter = run(config(), tmp_path)
        assert (result.step, result.stopped) == (12, False)
        assert reporter.warnings
        assert all("No space left" in text for _, text in reporter.warnings)
        there = kept(tmp_path)
        assert result.best_step in there or not there
        assert not (tmp_path / "steps" / checkpointing.STAGING).exists()


@pytest.mark.root
@pytest.mark.parametrize("inodes", [3, 8])
def test_a_disk_without_free_inodes_costs_checkpoints_and_not_the_run(
    config: Callable[..., RunConfig], tmp_path: Path, inodes: int
) -> None:
    with mounted(tmp_path / "steps", "20m", f"nr_inodes={inodes}"):
        result, reporter = run(config(), tmp_path)
        assert (result.step, result.stopped, kept(tmp_path)) == (12, False, [])
        assert reporter.warnings
        assert all("No space left" in text for _, text in reporter.warnings)


def test_a_checkpoint_that_cannot_be_removed_is_a_warning(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpointing.remove_folder

    def remove(folder: Path) -> None:
        if folder.name == "step-3":
            raise OSError(errno.EROFS, "Read-only file system")
        original(folder)

    monkeypatch.setattr(checkpointing, "remove_folder", remove)
    result, reporter = run(config(checkpointing__keep_last=2), tmp_path)
    assert result.step == 12
    assert reporter.warnings and "Read-only file system" in reporter.warnings[0][1]
    assert [step for step, _, _ in reporter.checkpoints] == [3, 4, 6, 8, 9, 12]


def test_the_newest_and_the_best_and_a_forks_checkpoint_are_kept(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    class Forks(tiny.Recorder):
        def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
            super().checkpoint(step, path, is_best)
            if step == 3:
                checkpointing.keep_for_fork(path.parent, step)

    # The first evaluation stays the best: no later one is better by so much.
    settings = config(checkpointing__keep_last=2, early_stopping__min_delta=100)
    result, reporter = run(settings, tmp_path, reporter=Forks())
    assert result.best_step == 4
    assert kept(tmp_path) == [3, 4, 9, 12]
    assert [step for step, _, best in reporter.checkpoints if best] == [4]
    assert reporter.removed == [6]


def test_a_quota_keeps_the_best_and_the_last_two(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    settings = config(checkpointing__max_gib=1e-6, early_stopping__min_delta=100)
    _, reporter = run(settings, tmp_path)
    assert kept(tmp_path) == [4, 9, 12]
    assert sorted(reporter.removed) == [3, 6]


@pytest.mark.parametrize("name", ["adamw_torch", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_states_of_optimizer_and_schedule_are_those_that_pytorch_writes(
    base: Path, tmp_path: Path, name: str, schedule: str
) -> None:
    """Made without an optimizer of PyTorch, which would import its compiler."""
    settings = tiny.config_of(
        base,
        **{"engine": "packed", "lora.dropout": 0.0, "scheduler.name": schedule},
        **{"scheduler.warmup_steps": 0},
        **{"optimizer.name": name, "optimizer.weight_decay": 0.02, "optimizer.momentum": 0.7},
        **{"optimizer.beta1": 0.8, "optimizer.beta2": 0.95, "optimizer.epsilon": 1e-7},
    )
    run(settings, tmp_path)
    folder = tmp_path / "steps/step-9"
    state, rate = torch.load(folder / "optimizer.pt"), settings.training.learning_rate
    adapter = load_file(folder / "adapter_model.safetensors")
    groups = [{"params": [*adapter.values()], "weight_decay": 0.02}]
    groups.append({"params": [], "weight_decay": 0.0})
    made: torch.optim.Optimizer
    if name == "sgd":
        made = torch.optim.SGD(groups, lr=rate, momentum=0.7)
    else:
        made = torch.optim.AdamW(groups, lr=rate, betas=(0.8, 0.95), eps=1e-7)
    factor = partial(lambda step: (12 - step) / 12)
    scheduler = LambdaLR(made, (lambda step: 1) if schedule == "constant" else factor)
    for _ in range(9):
        made.step()
        scheduler.step()
    assert state["param_groups"] == made.state_dict()["param_groups"]
    assert torch.load(folder / "scheduler.pt") == scheduler.state_dict()
    made.load_state_dict(state)
    for parameter in adapter.values():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    steps = [own["step"].item() for own in made.state_dict()["state"].values() if "step" in own]
    assert steps == [10] * len(adapter) * (name == "adamw_torch")


def test_files_that_other_processes_write_are_the_same(base: Path, tmp_path: Path) -> None:
    """A process that is killed, and a disk that takes nothing, are as they would be here."""
    pool = CallPool(processes=2)
    pool.prepare(partial(files.prepare_writing, None))

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        if function is saving.write_checkpoint and arguments[:2] == (specs[0].checkpoints_dir, 9):
            callers = psutil.Process().children()
            next(one for one in callers if "src.workers.calls" in one.cmdline()).kill()
        return pool.call(function, *arguments)

    found: dict[str, dict[str, Any]] = {}
    for name, where in (("here", call_here), ("there", call)):
        specs = {}
        for seed in range(3):
            folder = tmp_path / name / str(seed)
            folder.mkdir(parents=True)
            if seed == 2:
                (folder / "steps").write_text("no folder can be made here")
            settings = {"engine": "packed", "lora.dropout": 0.0, "training.seed": seed}
            specs[seed] = RunSpec(
                tiny.config_of(base, **settings, **{"checkpointing.keep_last": 2}),
                tiny.Recorder(), folder / "out", folder / "steps",
            )  # fmt: skip
        ends = train_pack(specs.values(), call=where)
        assert not [outcome for _, outcome in ends if isinstance(outcome, Exception)]
        found[name] = {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in sorted((tmp_path / name).rglob("*"))
            if file.is_file() and file.name != checkpointing.MANIFEST
        }
        reporters = [cast(tiny.Recorder, one.reporter) for one in specs.values()]
        found[name] |= {
            str(seed): (
                [(step, text.replace(name, "")) for step, text in one.warnings],
                one.removed,
                [step for step, _, _ in one.checkpoints],
            )
            for seed, one in enumerate(reporters)
        }
    assert pool.processes < 2
    assert found["there"].keys() == found["here"].keys()
    assert {n for n, content in found["there"].items() if content != found["here"][n]} == set()
    warnings, _, saved = found["there"]["2"]
    assert [step for step, _ in warnings] and not saved and found["there"]["0"][2]
