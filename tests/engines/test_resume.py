"""Resume: the same bits as without the interruption, from verified checkpoints only."""

import errno
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from src import files
from src.analysis import model_files
from src.config import RunConfig, stored_config
from src.models.multi_lora.step import ARITHMETIC
from src.training import checkpointing, run_policy
from src.training.checkpointing import REQUIRED, BrokenCheckpoint, verify
from src.training.evaluate import evaluate
from src.training.identity import resume_exactness
from src.training.merge import merge
from src.training.train import train
from src.training.utils import TrainingError, TrainingResult
from tests.helpers import tiny


def run(
    config: RunConfig, folder: Path, *, stop_at: int | None = None, resume_from: Path | None = None
) -> tuple[TrainingResult, tiny.Recorder]:
    reporter = tiny.Recorder(stop_at)
    result = train(
        config,
        reporter,
        output_dir=folder / "out",
        checkpoints_dir=folder / "steps",
        resume_from=resume_from,
    )
    return result, reporter


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(autouse=True, scope="module")
def threads() -> None:
    """As many as a trainer has: several have to give the same bits too."""


Whole = tuple[Path, TrainingResult, tiny.Recorder]


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """The folder, result and reports of a training by an engine that nothing interrupts."""

    @cache
    def of(engine: str) -> Whole:
        folder = tmp_path_factory.mktemp("whole")
        return folder, *run(tiny.config_of(base, engine=engine), folder)

    return of


@pytest.fixture(scope="module")
def stopped_once(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    run(tiny.config_of(base), folder, stop_at=2)
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A folder of this test with a training that was stopped at step 3."""
    return Path(shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True))


@pytest.mark.parametrize("stop_at", [1, 4, 6, 10])
def test_a_resumed_training_ends_in_the_same_bits(
    base: Path, whole: Callable[[str], Whole], tmp_path: Path, stop_at: int
) -> None:
    config = tiny.config_of(base)
    undisturbed, result, seen = whole("trl")
    first, _ = run(config, tmp_path / "parts", stop_at=stop_at)
    # A stop that arrives in an evaluation cuts it short; the resume owes it.
    assert first.stopped and first.step == (4 if stop_at == 4 else stop_at + 1)
    second, reporter = run(
        config, tmp_path / "parts", resume_from=tmp_path / f"parts/steps/step-{first.step}"
    )
    assert (second.step, second.best_step, second.stopped) == (12, result.best_step, False)
    assert second.metrics == result.metrics
    assert reporter.values["resume"] == f"exact from step-{first.step}"
    # The kept adapter, and the newest one with its optimizer.
    for folder in ("out/final", "steps/step-12"):
        assert weights(tmp_path / "parts" / folder) == weights(undisturbed / folder)
    after = {s: v for s, v in seen.curve("train/loss").items() if s > first.step}
    assert reporter.curve("train/loss") == after


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_a_run_of_auto_on_a_cpu_resumes_to_the_same_bits(
    base: Path, whole: Callable[[str], Whole], tmp_path: Path, stop_at: int
) -> None:
    """It trains alone in the packed engine."""
    config = tiny.config_of(base, engine="auto")
    undisturbed, result, seen = whole("auto")
    assert seen.values["engine"] == "packed"
    first, _ = run(config, tmp_path / "parts", stop_at=stop_at)
    assert first.stopped and first.step < 12
    second, reporter = run(
        config, tmp_path / "parts", resume_from=tmp_path / f"parts/steps/step-{first.step}"
    )
    assert (second.step, second.metrics) == (12, result.metrics)
    written = json.loads((undisturbed / "steps/step-12/MANIFEST.json").read_text())
    assert written["arithmetic"] == ARITHMETIC
    assert reporter.values["resume"] == f"exact from step-{first.step}"
    for folder in ("out/final", "steps/step-12"):
        assert weights(tmp_path / "parts" / folder) == weights(undisturbed / folder)
    after = {s: v for s, v in seen.curve("train/loss").items() if s > first.step}
    assert reporter.curve("train/loss") == after


def test_a_finished_training_only_restores(
    base: Path, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    undisturbed, result, _ = whole("trl")
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    again, reporter = run(tiny.config_of(base), tmp_path, resume_from=tmp_path / "steps/step-12")
    assert again.metrics == result.metrics and not reporter.curve("train/loss")


def test_a_broken_file_of_any_name_is_refused_by_name(
    base: Path, stopped: Path, tmp_path: Path
) -> None:
    good = stopped / "steps/step-3"
    manifest = verify(good)
    assert manifest["step"] == 3 and set(REQUIRED) < set(manifest["files"])
    for name in manifest["files"]:
        for damage in ("flip", "cut", "delete"):
            bad = tmp_path / "bad" / "step-3"
            shutil.rmtree(bad.parent, ignore_errors=True)
            shutil.copytree(good, bad)
            content = bytearray((bad / name).read_bytes())
            if damage == "flip":
                content[len(content) // 2] ^= 1
                (bad / name).write_bytes(content)
            elif damage == "cut":
                (bad / name).write_bytes(content[:-1])
            else:
                (bad / name).unlink()
            with pytest.raises(BrokenCheckpoint, match=name):
                verify(bad)
    with pytest.raises(BrokenCheckpoint):
        run(tiny.config_of(base), tmp_path / "other", resume_from=bad)


def test_no_flipped_byte_of_a_manifest_goes_unseen(stopped: Path) -> None:
    folder = stopped / "steps/step-3"
    file = folder / "MANIFEST.json"
    whole = file.read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        file.write_bytes(flipped)
        with pytest.raises(BrokenCheckpoint, match=r"step-3: MANIFEST\.json"):
            verify(folder)
    for cut in (b"", whole[:-1], whole + b" ", whole.replace(b"\n", b"\r\n", 1)):
        file.write_bytes(cut)
        with pytest.raises(BrokenCheckpoint, match=r"step-3: MANIFEST\.json"):
            verify(folder)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"format": 9, "files": {}}', '{"format": 1}', '{"format": 2}']
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "step-1"
    folder.mkdir()
    if content is not None:
        (folder / "MANIFEST.json").write_text(content)
    with pytest.raises(BrokenCheckpoint, match="step-1"):
        verify(folder)
    assert not checkpointing.is_verified(folder)


def test_a_manifest_cannot_leave_out_a_file(stopped: Path) -> None:
    folder = stopped / "steps/step-3"
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    del manifest["files"]["optimizer.pt"]
    checkpointing.write_manifest(folder, manifest)
    (folder / "optimizer.pt").unlink()
    with pytest.raises(BrokenCheckpoint, match=r"optimizer\.pt"):
        verify(folder)


def test_the_kept_adapter_is_verified_before_every_use(
    base: Path, stopped: Path, tmp_path: Path
) -> None:
    config = tiny.config_of(base)
    good, data = stopped / "out/final", tmp_path / "words.csv"
    data.write_text("question,answer\nteh,the\n")
    checkpointing.verify_adapter(good)
    uses: dict[str, Callable[[Path], object]] = {
        "evaluate": lambda bad: evaluate(config, bad, data, progress=lambda done: None),
        "merge": lambda bad: merge(config, bad, tmp_path / "merged"),
        "export": lambda bad: model_files.copy_adapter(bad, tmp_path / "export", config),
    }
    for file in sorted(good.iterdir()):
        bad = tmp_path / "bad" / "final"
        shutil.rmtree(bad.parent, ignore_errors=True)
        shutil.copytree(good, bad)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        (bad / file.name).write_bytes(content)
        for use in uses.values():
            with pytest.raises(BrokenCheckpoint, match=f"final: {file.name}"):
                use(bad)
    assert not (tmp_path / "merged").exists() and not (tmp_path / "export").exists()
    model_files.copy_adapter(good, tmp_path / "export", config)
    # Its adapter_config.json is another one.
    assert not (tmp_path / "export" / checkpointing.MANIFEST).exists()


def test_an_adapter_of_an_earlier_version_opens_without_a_manifest(tmp_path: Path) -> None:
    for name in checkpointing.ADAPTER:
        with pytest.raises(BrokenCheckpoint, match=f"{name} is missing"):
            checkpointing.verify_adapter(tmp_path)
        (tmp_path / name).write_text("x")
    checkpointing.verify_adapter(tmp_path)


def test_a_best_checkpoint_that_was_damaged_is_not_kept(base: Path, tmp_path: Path) -> None:
    policy = run_policy.RunPolicy(
        tiny.config_of(base),
        reporter := tiny.Recorder(None),
        output_dir=tmp_path / "out",
        checkpoints_dir=tmp_path / "steps",
        identity={},
    )
    written = tmp_path / "steps" / "step-4"
    written.mkdir(parents=True)
    policy.step = 4
    policy.evaluated({policy.config.early_stopping.metric: 0.5})
    policy.step = 8

    def write(folder: Path) -> None:
        folder.mkdir()
        for name in checkpointing.ADAPTER:
            (folder / name).write_text("newest")

    policy.keep_best(load=lambda checkpoint: pytest.fail("damaged, and loaded"), write=write)
    checkpointing.verify_adapter(tmp_path / "out/final")
    assert policy.kept_step == 8 and policy.final_due("validation")
    assert any("is damaged" in str(warning) for warning in reporter.warnings)


def test_a_passing_error_of_the_disk_breaks_no_checkpoint(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {"adapter_config.json": errno.ESTALE, "optimizer.pt": errno.EIO}

    def sometimes(path: object, *given: Any, **named: Any) -> Any:
        if number := failing.pop(Path(str(path)).name, None):
            raise OSError(number, "passing")
        return open(path, *given, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(files, "open", sometimes, raising=False)
    verify(stopped / "steps/step-3")
    assert not failing


def test_an_incomplete_save_never_gets_a_name(tmp_path: Path) -> None:
    written = checkpointing.stage(tmp_path) / "checkpoint-1"
    written.mkdir()
    for name in REQUIRED[:-1]:
        (written / name).write_text("x")
    with pytest.raises(BrokenCheckpoint, match=REQUIRED[-1]):
        checkpointing.commit(written, tmp_path / "step-1", {})
    assert not (tmp_path / "step-1").exists()


def test_changed_data_is_refused_and_other_changes_are_called_warm() -> None:
    one = {
        "data": "a",
        "tokenizer": "t",
        "config": {"data": {"template": "{question}:"}},
        "device": "cpu",
        "vectors": "AVX2",
        "versions": {"torch": "1"},
    }
    assert resume_exactness(one, one, "step-3") == "exact from step-3"
    wider = resume_exactness(one, one | {"vectors": "AVX512"}, "step-3")
    assert wider == "warm from step-3: another kind of processor"
    before = {name: value for name, value in one.items() if name != "vectors"}  # did not tell
    assert resume_exactness(before, one, "step-3") == "exact from step-3"
    with pytest.raises(TrainingError, match="data changed since step-3"):
        resume_exactness(one, one | {"data": "b"}, "step-3")
    assert resume_exactness(one, one | {"versions": {"torch": "2"}}, "step-3").startswith("warm")
    now = stored_config(one["config"]).model_dump()  # settings that came later than the checkpoint
    assert resume_exactness(one, one | {"config": now}, "step-3") == "exact from step-3"
    now["checkpointing"]["keep_last"] += 1  # nothing that the weights or scores depend on
    now["pack_size"] += 1
    assert resume_exactness(one, one | {"config": now}, "step-3") == "exact from step-3"
    now["lora"]["r"] += 1
    assert (
        resume_exactness(one, one | {"config": now}, "step-3") == "warm from step-3: another config"
    )
    packed = one | {"engine": "packed", "config": {"engine": "auto"}}
    new = packed | {"arithmetic": 2}
    assert resume_exactness(new, new, "step-3") == "exact from step-3"
    for older in (packed, packed | {"arithmetic": 1}, packed | {"arithmetic": 3}):
        assert resume_exactness(older, new, "step-3") == (
            "warm from step-3: another version of the packed engine, which rounds otherwise"
        )
    gpu = one | {"device": "H200"}
    assert resume_exactness(gpu, gpu, "step-3") == "warm from step-3: on a GPU"


def test_the_adapter_file_holds_tensors_only(stopped: Path) -> None:
    tensors = load_file(stopped / "steps/step-3/adapter_model.safetensors")
    assert tensors and all("lora_" in name for name in tensors)
