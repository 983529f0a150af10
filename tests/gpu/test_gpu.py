"""What only a GPU can show: every backend on every shape, and runs that meet the end of its memory
or move between it and the CPU."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import CASES, start_case
from src import paths, store
from src.config import ConfigError, load_config, stored_config
from src.runs import attempts, estimate, launcher, machine, readiness, standby
from src.runs.locks import holder
from src.runs.timeouts import Timeouts
from src.store.tables import Run, Status
from tests.helpers.live import FEW, ended, queued, row, wait

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

GIB = 2**30
CONTEXT = 0.7  # GiB that a process takes on a GPU before its first tensor
OF_A_PACK = 0.5  # and for the kernels and graphs of a pack


@pytest.mark.parametrize(("shape", "bits"), sorted({case[:2] for case in CASES}))
def test_both_backends_train(shape: str, bits: int, tmp_path: Path) -> None:
    rows = {b: start_case((shape, bits, b), tmp_path) for b in ("peft", "unsloth")}
    for backend, found in rows.items():
        assert not found["problem"], "\n".join(found.get("log", [found["problem"]]))
        assert found["backend"] == backend
        # 12 layers 768 wide with rank 16, in fp32, and no embeddings beside them.
        assert found["adapter_mib"] < 10
    one, other = (found["metrics"]["val/loss"] for found in rows.values())
    assert one == pytest.approx(other, abs=0.02)


@pytest.fixture
def large(small: dict[str, Any], home: Path) -> dict[str, Any]:
    """Settings of a short run whose steps take GiB: 4,096 rows of 20 digits."""
    file = home / "many.csv"
    words = [f"{n:05d}" * 4 for n in range(5200)]
    file.write_text(
        "\n".join(["question,answer", *(f"Spell the word: {w},{' '.join(w)}" for w in words)])
    )
    return small | {
        "data.path": str(file),
        "model.max_length": 128,
        "lora.dropout": 0.0,
        "training.per_device_train_batch_size": 4096,
        "training.max_steps": 4,
        "evaluation.eval_steps": 4,
        "evaluation.max_rows": 8,
        "engine": "trl",
    }


@contextmanager
def only(free: float) -> Iterator[None]:
    """So many GiB of the GPU's memory stay free: the rest is taken."""
    import torch

    taken = torch.empty(int(torch.cuda.mem_get_info()[0] - free * GIB), dtype=torch.uint8, device=0)
    try:
        yield
    finally:
        del taken
        torch.cuda.empty_cache()


def texts(run_id: str) -> list[str]:
    with store.reading() as session:
        return [event.text for event in store.list_events(session, run_id)]


def test_a_run_moves_between_gpu_and_cpu(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = launcher.launch(load_config(overrides=small | {"checkpointing.save_steps": 5}))
    began = 0

    def further(run: Run) -> bool:
        return run.status == Status.RUNNING and (run.step or 0) > began + 5

    used = []
    for visible in (None, "", None):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        if used:
            # The supervisor that ends has the old environment, and fills the slot as its last act.
            while holder(machine.slot_lock(0)):
                time.sleep(0.1)
            attempts.resume(row(run_id))
        wait(run_id, further)
        launcher.stop(run_id)
        run = wait(run_id, ended)
        assert run.status == Status.STOPPED, run.reason
        began = run.step or 0
        used.append((run.used["device"], run.used.get("resume")))
    (first, _), (second, there), (third, back) = used
    assert first == third != second == "cpu"
    assert there.startswith("warm from step-") and "another device" in there
    assert back.startswith("warm from step-") and "another device" in back


def test_out_of_memory_heals_with_a_smaller_micro_batch(large: dict[str, Any]) -> None:
    needs = estimate.measure(load_config(overrides=large)).peak_gib
    with only(CONTEXT + 0.7 * needs):
        run_id = launcher.launch(load_config(overrides=large | {"supervision.self_heal": True}))
        run = wait(run_id, ended, seconds=600)
    assert run.status == Status.COMPLETED, run.reason
    assert any("healed after cuda_oom" in text for text in texts(run_id))
    training = stored_config(run.config).training
    assert training.per_device_train_batch_size < 4096
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 4096


def test_what_does_not_fit_is_refused_with_the_largest_that_would(large: dict[str, Any]) -> None:
    with only(CONTEXT + 0.7 * estimate.measure(load_config(overrides=large)).peak_gib):
        found = estimate.measure(load_config(overrides=large))
        assert not found.fits
        rows = found.largest["training.per_device_train_batch_size"]
        assert 512 <= rows < 4096
        assert found.largest["training.gradient_accumulation_steps"] == 4096 // rows
        with pytest.raises(ConfigError, match="what fits: "):
            launcher.launch(load_config(overrides=large))
        smaller = launcher.launch(load_config(overrides=large | found.largest))
        assert wait(smaller, ended).status == Status.COMPLETED


def test_out_of_memory_halves_the_pack_and_all_its_runs_end(large: dict[str, Any]) -> None:
    own = large | {"engine": "packed", "training.per_device_train_batch_size": 512}
    one, eight = (
        estimate.measure(load_config(overrides=own), adapters=count).peak_gib for count in (1, 8)
    )
    with only(CONTEXT + OF_A_PACK + (one + eight) / 2):
        ids = launcher.launch_all(
            [load_config(overrides=own | {"training.seed": seed}) for seed in range(8)]
        )
        runs = [wait(run_id, ended, seconds=600) for run_id in ids]
    assert [run.status for run in runs] == [Status.COMPLETED] * 8, [run.reason for run in runs]
    assert runs[0].used["slots"] < 8
    assert "out of GPU memory" in paths.log_file(ids[0]).read_text()


def test_the_kernels_of_a_run_are_compiled_before_it_is_there(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps({"standby": 60}))
    for module in (standby, readiness):
        monkeypatch.setattr(module, "TIMEOUTS", Timeouts(standby=60))
    settings = small | FEW | {"engine": "packed", "lora.dropout": 0.0, "training.max_steps": 4}
    launcher.stop(queued(settings))  # the newest run, which the next one is taken to be like
    standby.keep_ready()

    def compiled(name: str) -> set[str]:
        return {path.name for path in (tmp_path / "kernels").rglob(f"{name}*.cubin")}

    needed = ("_activation_forward", "_activation_backward", "_adamw", "_cross_entropy")
    end = time.monotonic() + 300
    while not all(map(compiled, needed)):
        assert time.monotonic() < end, compiled("")
        time.sleep(0.5)
    run = wait(launcher.launch(load_config(overrides=settings)), ended)
    assert run.status == Status.COMPLETED, run.reason
    assert "trained by the standby trainer" in paths.log_file(run.id).read_text()
