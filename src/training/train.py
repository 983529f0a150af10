"""The TRL engine: data, base model, adapter, training, final scores; from top to bottom.

transformers, trl and peft are imported inside the functions: Unsloth, where it is taken, has to be
imported before them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from src.config import RunConfig
from src.paths import ROOT
from src.training import checkpointing
from src.training.data_loaders import load_splits
from src.training.packed.eligibility import EngineChoice, choose_engine
from src.training.run_policy import resume_exactness
from src.training.trl_arguments import TrlPlan, plan
from src.training.utils import Reporter, TrainingError, TrainingResult

# Read once, when the first library imports huggingface_hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


class ExperimentFailed(RuntimeError):
    """A run that did not complete. Its text is the run's reason; `output_dir` may be None."""

    def __init__(self, status: str, reason: str, output_dir: Path | None = None):
        super().__init__(f"{status}: {reason}")
        self.status, self.reason, self.output_dir = status, reason, output_dir


def load_libraries(config: RunConfig) -> EngineChoice:
    """Import what `train` uses for `config`, in the order that its libraries need."""
    choice = choose_engine(config)
    if choice.packed:
        from src.training.packed import engine

        engine.load_libraries()
        return choice
    from src.models import spelling_model, utils

    precision = utils.resolve_precision(config.training.precision)
    spelling_model.choose_backend(config.backend, precision=precision)
    from src.training import trl  # noqa: F401

    return choice


def train(
    config: RunConfig,
    reporter: Reporter,
    *,
    output_dir: Path,
    checkpoints_dir: Path,
    resume_from: Path | None = None,
    engine: EngineChoice | None = None,
) -> TrainingResult:
    """Train one adapter and keep its best evaluation in output_dir/final.

    With `resume_from`, a checkpoint, it goes on from there and ends, on a CPU, in the very bits of
    a training that was never interrupted. BrokenCheckpoint or TrainingError where it cannot.

    Asked to stop, it ends after the step it is in, with a checkpoint and with the best adapter so
    far in final/ (the newest one, before the first evaluation), and leaves the test set alone.
    `SPELLTUNE_THREADS` in the environment bounds the CPU threads, for machines that train several
    runs at once. `engine` is what `load_libraries` chose, where it was called.
    """
    reporter.phase("loading libraries")
    engine = engine or choose_engine(config)
    if engine.packed:
        from src.training.packed.engine import train_one
        from src.training.packed.run import Trial

        return train_one(Trial(config, reporter, output_dir, checkpoints_dir, resume_from))

    import torch

    from src.models import spelling_model as spelling
    from src.models import utils as machine
    from src.training import scoring

    if threads := os.environ.get("SPELLTUNE_THREADS"):
        torch.set_num_threads(int(threads))
    precision = machine.resolve_precision(config.training.precision)
    asked = plan(config, precision=precision)
    backend, note = spelling.choose_backend(asked.backend, precision=precision)

    reporter.phase(f"reading {config.data.task}")
    splits = load_splits(**asked.data)
    validation = splits.validation
    if asked.max_rows is not None and len(validation) > asked.max_rows:
        # The same rows in every run, whatever its seed: runs are compared on them.
        validation = validation.sample(asked.max_rows, random_state=0).sort_index()
    vocabulary = spelling.load_vocabulary(**asked.vocabulary)
    tokenizer, context = vocabulary.tokenizer, vocabulary.context_tokens
    rows = {}
    for split, frame in (
        ("train", splits.train),
        ("validation", validation),
        ("test", splits.test),
    ):
        rows[split] = scoring.encode(tokenizer, frame, asked.template)
        scoring.check_lengths(
            rows[split], split, max_length=config.model.max_length, context=context
        )

    identity = {
        "config": config.model_dump(),
        "data": splits.fingerprint,
        "tokenizer": vocabulary.fingerprint,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": machine.versions(),
    }
    manifest: dict[str, Any] | None = None
    if resume_from is not None:
        manifest = checkpointing.verify(resume_from)
        reporter.used({"resume": resume_exactness(manifest, identity, resume_from.name)})

    reporter.phase(f"loading {config.model.name}")
    model, backend, note = _load(asked, vocabulary, backend, note)
    model, targets = spelling.add_lora(model, backend=backend, **asked.lora)
    reporter.used(
        {
            "backend": backend,
            "backend_note": note,
            "engine": "trl",
            "engine_note": engine.reason,
            "precision": precision,
            "device": identity["device"],
            "threads": torch.get_num_threads(),
            "target_modules": targets,
            "rows": {split: len(encoded) for split, encoded in rows.items()},
            "rows_dropped_as_duplicates": splits.duplicates,
            "words_in_two_splits": splits.leaks,
            "longest_row_tokens": max(len(row) for encoded in rows.values() for row in encoded),
            "data_fingerprint": identity["data"],
            **machine.parameter_counts(model),
            "versions": identity["versions"],
        }
    )

    def scored(split: str, step: int) -> dict[str, float] | None:
        """Metrics by name of the adapter as it is, reported; None when a stop came in between."""
        prefix = "val" if split == "validation" else split
        with machine.random_state_kept():
            found = scoring.score(
                model,
                tokenizer,
                rows[split],
                context=context,
                progress=lambda done: reporter.phase(f"{split} {done:,} of {len(rows[split]):,}"),
                stop=reporter.stop_requested,
                **asked.evaluation,
            )
        if found is None:
            return None
        values = {f"{prefix}/{name}": value for name, value in found[0].items()}
        reporter.metrics(step, values)
        reporter.evaluation(step, split, found[1])
        reporter.phase("training")
        return values

    from src.training.trl import build_trainer

    trainer = build_trainer(
        asked, model, tokenizer, rows["train"], reporter, scored, checkpoints_dir, backend, identity
    )
    reporter.metrics(manifest["step"] if manifest else 0, machine.memory_gib())
    if manifest is None:
        begun = scored("validation", 0) is not None
        if begun:
            trainer.train()
        step = trainer.state.global_step
        stopped = trainer.stopped or not begun
    else:
        assert resume_from is not None
        _restore(model, resume_from)
        trainer.go_on_from(resume_from, manifest)
        step = manifest["step"]
        if step < config.training.max_steps and not (trainer.stopped or trainer.early_stop):
            trainer.train(resume_from_checkpoint=str(resume_from))
            step = trainer.state.global_step
        stopped = trainer.stopped

    best_step = step if trainer.history.best_step is None else trainer.history.best_step
    if best_step != step:
        reporter.phase(f"restoring the adapter of step {best_step}")
        _restore(model, checkpointing.step_dir(checkpoints_dir, best_step))
    _save_final(model, tokenizer, output_dir)

    validation_values: Mapping[str, float] | None = trainer.best_values
    test_values = None
    if not stopped:
        if best_step != step or not validation_values:
            # Again, so that the numbers are those of the adapter that was saved.
            validation_values = scored("validation", best_step)
        if validation_values is not None:
            test_values = scored("test", best_step)
        stopped = test_values is None
    reporter.phase("")
    return TrainingResult(
        stopped=stopped,
        reason=f"stopped at step {step}" if stopped else trainer.early_stop,
        step=step,
        best_step=best_step,
        metrics={**(validation_values or trainer.best_values), **(test_values or {})},
    )


def _load(
    asked: TrlPlan, vocabulary: Any, backend: str, note: str | None
) -> tuple[Any, str, str | None]:
    """The base model, the backend that loaded it, and why not Unsloth."""
    from src.models.spelling_model import ModelError, load_base

    arguments = {"vocabulary": vocabulary, **asked.vocabulary, **asked.base}
    try:
        return load_base(backend=backend, **arguments), backend, note
    except ModelError as error:
        if backend != "unsloth" or asked.backend == "unsloth":
            raise
        return load_base(backend="peft", **arguments), "peft", f"{error}, so PEFT trains."


def _restore(model: Any, checkpoint: Path) -> None:
    """Load the adapter of a checkpoint into the model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(str(checkpoint / "adapter_model.safetensors"))
    outcome: Any = set_peft_model_state_dict(model, weights)
    if strange := outcome.unexpected_keys:
        raise TrainingError(f"{checkpoint} holds another adapter, with {strange[0]}")


def _save_final(model: Any, tokenizer: Any, output_dir: Path) -> None:
    from src.training.trl import save_adapter

    staging = checkpointing.stage(output_dir)
    save_adapter(model, tokenizer, staging / "final")
    checkpointing.replace_folder(staging / "final", output_dir / "final")
    staging.rmdir()


def run_experiment(config_path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Train the YAML file at `config_path` as a run of the run table, and wait for it.

    Returns its output folder and what its eval_results.yaml holds; raises ExperimentFailed when it
    did not complete.
    """
    (run,) = _launched([config_path])
    return _completed(run)


def run_experiments(
    config_paths: Sequence[str | Path],
) -> list[tuple[Path | None, dict[str, Any]]]:
    """`run_experiment` of all files, queued together: those of `engine: packed` that may share a
    process do. One that fails gives its status and reason instead."""
    results: list[tuple[Path | None, dict[str, Any]]] = []
    for run in _launched(config_paths) if config_paths else []:
        try:
            results.append(_completed(run))
        except ExperimentFailed as error:
            results.append((error.output_dir, {"status": error.status, "reason": error.reason}))
    return results


def _launched(config_paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What `spelltune launch` tells of each file's run at its end."""
    files = [str(Path(path).resolve()) for path in config_paths]
    command = [sys.executable, "-m", "src.cli", "launch", *files, "--wait", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout:  # refused before it became a run
        return [{"status": "FAILED", "reason": done.stderr.strip()} for _ in files]
    told = json.loads(done.stdout)
    return told if isinstance(told, list) else [told]


def _completed(run: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Output folder and evaluation of a run that `spelltune launch` told of; ExperimentFailed."""
    output_dir = Path(run["paths"]["output_dir"]) if "paths" in run else None
    if run["status"] != "COMPLETED" or output_dir is None:
        raise ExperimentFailed(run["status"], run.get("reason") or "no reason given", output_dir)
    return output_dir, yaml.safe_load((output_dir / "eval_results.yaml").read_text())
