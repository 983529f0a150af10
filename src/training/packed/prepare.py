"""What comes before a packed run's first step: the shared base, and the data of each run."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from src.config import RunConfig
from src.models import spelling_model as spelling
from src.models import utils as machine
from src.models.multi_lora.adapters import LoraPair, initial_weights
from src.models.multi_lora.base import FrozenBase, read_base
from src.models.multi_lora.optimizer import OPTIMIZERS, Optimizer
from src.training import scoring
from src.training.data_loaders import Splits, load_splits
from src.training.early_stopping import stopping_problems
from src.training.packed.batches import ExampleArrays
from src.training.packed.eligibility import refusal, shared_settings
from src.training.packed.run import PackedRun, Trial
from src.training.utils import Reporter, TrainingError


def settings_of_a_pack(config: RunConfig) -> dict[str, Any]:
    """`shared_settings` with the precision that this machine resolves it to."""
    precision = machine.resolve_precision(config.training.precision)
    return shared_settings(config) | {"precision": precision}


@dataclass(frozen=True)
class SharedBase:
    """The frozen base model that all runs of a pack share, and what was loaded with it."""

    settings: dict[str, Any]  # see settings_of_a_pack
    vocabulary: spelling.Vocabulary
    frozen: FrozenBase
    targets: list[str]  # names of the adapted layers
    parameters: int
    stored_dtype: torch.dtype  # that PEFT rounds a fresh adapter to
    layer_names: list[str]  # full name of each adapted layer
    layer_shapes: list[tuple[int, int]]  # (in, out) of each

    @staticmethod
    def load(config: RunConfig, reporter: Reporter) -> "SharedBase":
        """The base of a pack with this run in it."""
        settings = settings_of_a_pack(config)
        reporter.phase(f"loading {config.model.name}")
        vocabulary = spelling.load_vocabulary(settings["model"], revision=settings["revision"])
        model = spelling.load_base(
            settings["model"],
            vocabulary,
            revision=settings["revision"],
            load_in_4bit=False,
            max_length=config.model.max_length,
            precision=settings["precision"],
            backend="peft",
            gradient_checkpointing=False,
            seed=config.training.seed,
        )
        targets = spelling.resolve_targets(model, config.lora.target_modules)
        frozen = read_base(model, targets, machine.dtype_of(settings["precision"]))
        return SharedBase(
            settings,
            vocabulary,
            frozen,
            targets,
            sum(p.numel() for p in model.parameters()),
            model.dtype,
            [layer.name for layer in frozen.adapted_layers],
            [(layer.in_features, layer.out_features) for layer in frozen.adapted_layers],
        )

    @property
    def name(self) -> str:
        return str(self.settings["model"])

    @property
    def optimizer(self) -> type[Optimizer]:
        return OPTIMIZERS[self.settings["optimizer"]]

    @property
    def tokenizer(self) -> Any:
        return self.vocabulary.tokenizer

    def initial_weights(self, run: PackedRun) -> list[LoraPair]:
        """The adapter that PEFT draws for the run's seed."""
        return initial_weights(
            self.layer_shapes, rank=run.rank, seed=run.config.training.seed, dtype=self.stored_dtype
        )


class RunReader:
    """Reads the data of trials; trials with the same data share their rows."""

    def __init__(self, base: SharedBase):
        self.base = base
        self._splits = cache(load_splits)
        self._encoded: dict[
            tuple[Any, ...], tuple[dict[str, list[scoring.Row]], ExampleArrays]
        ] = {}

    def read(self, trial: Trial) -> PackedRun:
        """The run of a trial, without an adapter. Refuses what the pack cannot train."""
        config, reporter = trial.config, trial.reporter
        if why := refusal(config):
            raise TrainingError(why)
        if wrong := stopping_problems(config.early_stopping):
            raise TrainingError("; ".join(f"{name}: {text}" for name, text in wrong.items()))
        own, shared = settings_of_a_pack(config), self.base.settings
        if other := [name for name in own if own[name] != shared[name]]:
            raise TrainingError(f"this trial has another {other[0]} than its pack")
        reporter.phase(f"reading {config.data.task}")
        data = config.data
        splits = self._splits(
            task=data.task, path=data.path, hub_id=data.hub_id, revision=data.revision
        )
        rows, arrays = self._rows(config, splits)
        identity = {
            "config": config.model_dump(),
            "data": splits.fingerprint,
            "tokenizer": self.base.vocabulary.fingerprint,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "versions": machine.versions(),
        }
        trainable = sum(sum(shape) for shape in self.base.layer_shapes) * config.lora.r
        about = {
            "backend": "peft",
            "backend_note": None,
            "engine": "packed",
            "engine_note": None,
            "precision": shared["precision"],
            "device": identity["device"],
            "threads": torch.get_num_threads(),
            "target_modules": self.base.targets,
            "rows": {split: len(encoded) for split, encoded in rows.items()},
            "rows_dropped_as_duplicates": splits.duplicates,
            "words_in_two_splits": splits.leaks,
            "longest_row_tokens": max(len(row) for encoded in rows.values() for row in encoded),
            "data_fingerprint": splits.fingerprint,
            "trainable_parameters": trainable,
            "parameters": self.base.parameters + trainable,
            "versions": identity["versions"],
        }
        return PackedRun(trial, rows, arrays, identity, about)

    def _rows(
        self, config: RunConfig, splits: Splits
    ) -> tuple[dict[str, list[scoring.Row]], ExampleArrays]:
        """The rows of each split, and those of training as arrays."""
        limit, template = config.evaluation.max_rows, config.data.template
        length = config.model.max_length
        key = (splits.fingerprint, template, limit, length)
        if key not in self._encoded:
            validation = splits.validation
            if limit is not None and len(validation) > limit:
                # The same rows in every run, whatever its seed: runs are compared on them.
                validation = validation.sample(limit, random_state=0).sort_index()
            tokenizer = self.base.tokenizer
            frames = {"train": splits.train, "validation": validation, "test": splits.test}
            rows = {
                split: scoring.encode(tokenizer, frame, template) for split, frame in frames.items()
            }
            for split, encoded in rows.items():
                scoring.check_lengths(
                    encoded, split, max_length=length, context=self.base.vocabulary.context_tokens
                )
            self._encoded[key] = rows, ExampleArrays.of(rows["train"], tokenizer.pad_token_id)
        return self._encoded[key]
