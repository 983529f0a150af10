"""Trains one adapter: picks the engine, and is the TRL engine from data to final scores.

transformers, trl and peft are imported inside the functions: Unsloth, where it is taken, has to be
imported before them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from src.config import RunConfig
from src.files import read_text
from src.paths import ROOT
from src.training.data_loaders import load_splits
from src.training.packed.eligibility import EngineChoice, choose_engine, files_of
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
        from src.training.packed import engine  # noqa: F401

        return choice
    from src.models import spelling_model, utils

    precision = utils.resolve_precision(config.training.precision)
    spelling_model.choose_backend(config.backend, precision=precision)
    from src.training import trl  # noqa: F401

    return choice


def preload(
    config: RunConfig, *, packed: bool, cache_dir: Path | None, stop: Callable[[], bool]
) -> None:
    """Read the base model of `config` for the training that comes next in this process, and make
    the context of its GPU and its kernels ready. After `load_libraries`, which tells if the packed
    engine trains. Ends early once `stop` returns True.

    Only what is on this machine: a download waits for its run.
    """
    if not files_of(config).is_here:
        return
    if packed:
        import torch

        from src.training.packed.rehearsal import rehearse
        from src.training.packed.shared_base import read_ahead
        from src.training.threads import start_warm_up

        start_warm_up()
        read_ahead(config, cache_dir)
        if torch.cuda.is_available() and not stop():
            rehearse(config, cache_dir, stop)
    else:
        from src.models import preloaded, spelling_model

        asked = plan(config)
        precision = asked.base["precision"]
        backend, _ = spelling_model.choose_backend(asked.backend, precision=precision)
        base = {"revision": config.model.revision, "backend": backend, **asked.base}
        preloaded.preload(asked.vocabulary["name"], **base)


def train(
    config: RunConfig,
    reporter: Reporter,
    *,
    output_dir: Path,
    checkpoints_dir: Path,
    resume_from: Path | None = None,
    cache_dir: Path | None = None,
    engine: EngineChoice | None = None,
) -> TrainingResult:
    """Train one adapter and keep its best evaluation in output_dir/final.

    With `resume_from`, a checkpoint, it goes on from there and ends, on a CPU, in the very bits of
    a training that was never interrupted. BrokenCheckpoint or TrainingError where it cannot.

    Asked to stop, it ends after the step it is in, with a checkpoint and with the best adapter so
    far in final/ (the newest one, before the first evaluation), and leaves the test set alone.
    `SPELLTUNE_THREADS` in the environment bounds the CPU threads, for machines that train several
    runs at once. `cache_dir` is the folder for what later runs need not compute again, and `engine`
    what `load_libraries` chose, where it was called.
    """
    reporter.phase("loading libraries")
    engine = engine or choose_engine(config)
    backend = config.backend
    if engine.packed:
        from src.models.multi_lora.base import CannotPack
        from src.training.packed.engine import train_one
        from src.training.packed.run import RunSpec

        try:
            return train_one(
                RunSpec(config, reporter, output_dir, checkpoints_dir, resume_from, cache_dir)
            )
        except CannotPack as error:
            # Raised before the first step, and only of what the weights show: see config_problem.
            if config.engine == "packed":
                raise
            engine = EngineChoice(False, str(error))
            # Unsloth has to be imported before the libraries that the packed engine imported.
            backend = "peft"
    return _train_with_trl(
        config,
        reporter,
        output_dir,
        checkpoints_dir,
        resume_from,
        cache_dir,
        backend=backend,
        engine_note=engine.reason,
    )


def _train_with_trl(
    config: RunConfig,
    reporter: Reporter,
    output_dir: Path,
    checkpoints_dir: Path,
    resume_from: Path | None,
    cache_dir: Path | None,
    *,
    backend: str,
    engine_note: str | None,
) -> TrainingResult:
    """Train one adapter: data, base model, adapter, training, final scores."""

    from src.models import preloaded
    from src.models import spelling_model as spelling
    from src.models import utils as machine
    from src.training import scoring
    from src.training.base_scores import BaseScores
    from src.training.examples import Examples
    from src.training.identity import run_identity
    from src.training.row_cache import RowCache
    from src.training.run_policy import RunPolicy
    from src.training.threads import set_threads
    from src.training.throughput import TimeSpent

    spent = TimeSpent("loading")
    set_threads()
    asked = replace(plan(config), backend=backend)
    precision = asked.base["precision"]
    backend, note = spelling.choose_backend(asked.backend, precision=precision)

    reporter.phase(f"reading {config.data.trained_on}")
    splits = load_splits(**asked.data)
    vocabulary = preloaded.load_vocabulary(**asked.vocabulary)
    encode = RowCache(cache_dir, **asked.vocabulary).encode
    examples = Examples.of(splits, vocabulary, config, encode=encode)
    policy = RunPolicy(
        config,
        reporter,
        output_dir=output_dir,
        checkpoints_dir=checkpoints_dir,
        identity=run_identity(config, data=examples.fingerprint, tokenizer=vocabulary.fingerprint),
        spent=spent,
    )
    if resume_from is not None:
        policy.resume(resume_from)

    reporter.phase(f"loading {config.model.name}")
    model, backend, note = _load(asked, vocabulary, backend, note)
    loaded = {"revision": config.model.revision, "backend": backend, **asked.base}
    of_base = BaseScores(
        cache_dir, preloaded.key_of(asked.vocabulary["name"], loaded), engine="trl"
    )
    model, targets = spelling.add_lora(model, backend=backend, **asked.lora)
    policy.begin(
        examples,
        backend=backend,
        backend_note=note,
        engine="trl",
        engine_note=engine_note,
        precision=precision,
        target_modules=targets,
        **machine.parameter_counts(model),
    )

    def scored(split: str, step: int) -> dict[str, float] | None:
        """Score the current adapter as that of `step`, and report it; None if a stop came first."""
        rows, is_base = examples.rows[split], step == 0 and resume_from is None
        with spent.on("scoring"), machine.random_state_kept():
            scores = of_base.find(rows, **asked.evaluation) if is_base else None
            scores = scores or scoring.score(
                model,
                vocabulary.tokenizer,
                rows,
                context=vocabulary.context_tokens,
                progress=lambda done: policy.progress(split, done, len(rows)),
                stop=reporter.stop_requested,
                **asked.evaluation,
            )
            if is_base and scores is not None:
                of_base.keep(rows, scores, **asked.evaluation)
        return None if scores is None else policy.scored(split, step, *scores)

    def evaluated() -> dict[str, float] | None:
        """Make the evaluation that is due: its validation scores, or None if a stop came first."""
        values = scored("validation", policy.step)
        for suite in policy.suites.due(policy.step):
            if values is None or scored(suite, policy.step) is None:
                return None
        return values

    from src.training.trl import build_trainer, save_adapter

    trainer = build_trainer(
        asked,
        policy,
        model,
        vocabulary.tokenizer,
        examples.rows["train"],
        backend=backend,
        validate=evaluated,
    )
    if resume_from is not None:
        _load_adapter(model, resume_from)
    if policy.evaluation_due:
        policy.evaluated(evaluated())
    if not policy.over:
        with spent.on("steps"):
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)

    with spent.on("waiting"):
        policy.keep_best(
            load=lambda checkpoint: _load_adapter(model, checkpoint),
            write=lambda folder: save_adapter(model, vocabulary.tokenizer, folder),
        )
    for split in policy.final_splits:
        if policy.final_due(split):
            policy.final_scores(scored(split, policy.kept_step))
    return policy.result()


def _load(
    asked: TrlPlan, vocabulary: Any, backend: str, note: str | None
) -> tuple[Any, str, str | None]:
    """The base model, the backend that loaded it, and why not Unsloth."""
    from src.models.preloaded import load_base
    from src.models.utils import ModelError

    arguments = {"vocabulary": vocabulary, **asked.vocabulary, **asked.base}
    try:
        return load_base(backend=backend, **arguments), backend, note
    except ModelError as error:
        if backend != "unsloth" or asked.backend == "unsloth":
            raise
        return load_base(backend="peft", **arguments), "peft", f"{error}, so PEFT trains."


def _load_adapter(model: Any, checkpoint: Path) -> None:
    """Load the adapter of a checkpoint into the model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(str(checkpoint / "adapter_model.safetensors"))
    outcome: Any = set_peft_model_state_dict(model, weights)
    if strange := outcome.unexpected_keys:
        raise TrainingError(f"{checkpoint} holds another adapter, with {strange[0]}")


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
    """The documents that `spelltune launch` prints of each file's run at its end."""
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
    return output_dir, yaml.safe_load(read_text(output_dir / "eval_results.yaml"))
