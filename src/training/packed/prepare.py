"""Prepares packed runs: loads the shared base, reads the data of each run."""

import tempfile
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from src.config import RunConfig
from src.models import preloaded
from src.models import spelling_model as spelling
from src.models import utils as machine
from src.models.gguf.convert import readable
from src.models.multi_lora.adapters import LoraPair
from src.models.multi_lora.base import FrozenBase, read_base
from src.models.multi_lora.optimizer import OPTIMIZERS, Optimizer
from src.models.multi_lora.step import ARITHMETIC
from src.training.background import Background, Call
from src.training.data_loaders import arguments_of, load_splits
from src.training.examples import Examples
from src.training.identity import run_identity
from src.training.packed.arrays import ExampleArrays
from src.training.packed.eligibility import longest_row, refusal, shared_settings
from src.training.packed.run import PackedRun, RunSpec
from src.training.row_cache import RowCache
from src.training.rows import Row
from src.training.run_policy import RunPolicy
from src.training.throughput import TimeSpent
from src.training.utils import Reporter, TrainingError

FRESH_KEPT = 16  # adapters that were drawn, of a few to many megabytes


def settings_of_a_pack(config: RunConfig) -> dict[str, Any]:
    """`shared_settings` with the precision that this machine resolves it to."""
    precision = machine.resolve_precision(config.training.precision)
    return shared_settings(config) | {"training.precision": precision}


def base_arguments(config: RunConfig) -> dict[str, Any]:
    """The arguments of `load_base` for the base of a pack with this run in it."""
    return {
        "revision": config.model.revision,
        "load_in_4bit": False,
        "max_length": config.model.max_length,
        "precision": machine.resolve_precision(config.training.precision),
        "backend": "peft",
        "gradient_checkpointing": False,
        "seed": config.training.seed,
    }


@dataclass(frozen=True)
class SharedBase:
    """The frozen base model that all runs of a pack share, and what was loaded with it."""

    settings: dict[str, Any]  # see settings_of_a_pack
    key: list[Any]  # of its model, see `preloaded.key_of`
    vocabulary: spelling.Vocabulary
    frozen: FrozenBase
    targets: list[str]  # names of the adapted layers
    parameters: int
    stored_dtype: torch.dtype  # that PEFT rounds a fresh adapter to
    layer_names: list[str]  # full name of each adapted layer
    layer_shapes: list[tuple[int, int]]  # (in, out) of each
    _fresh: dict[tuple[int, int], list[LoraPair]] = field(default_factory=dict)

    @staticmethod
    def load(config: RunConfig, reporter: Reporter) -> "SharedBase":
        """The base of a pack with this run in it."""
        settings = settings_of_a_pack(config)
        reporter.phase(f"loading {config.model.name}")
        vocabulary = preloaded.load_vocabulary(
            settings["model.name"], revision=settings["model.revision"]
        )
        name, arguments = settings["model.name"], base_arguments(config)
        model = preloaded.load_base(name, vocabulary, **arguments)
        targets = spelling.resolve_targets(model, config.lora.target_modules)
        dtype = machine.dtype_of(settings["training.precision"])
        frozen = read_base(model, targets, dtype, longest_row(config))
        return SharedBase(
            settings,
            preloaded.key_of(name, arguments),
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
        return str(self.settings["model.name"])

    @cached_property
    def folder(self) -> str:
        """The name under which transformers finds it, which adapters carry: of a GGUF file the
        folder that it was converted to."""
        return readable(self.name)

    @property
    def optimizer(self) -> type[Optimizer]:
        return OPTIMIZERS[self.settings["optimizer.name"]]

    @property
    def tokenizer(self) -> Any:
        return self.vocabulary.tokenizer

    @cached_property
    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer as `save_pretrained` writes it, which takes as long as the rest of a
        checkpoint: {path in its folder: content}."""
        with tempfile.TemporaryDirectory() as name:
            self.tokenizer.save_pretrained(name)
            files = (file for file in Path(name).rglob("*") if file.is_file())
            return {str(file.relative_to(name)): file.read_bytes() for file in files}

    def initial_weights(self, run: PackedRun) -> list[LoraPair]:
        """The adapter that PEFT draws for the run's seed; the same one for other runs with it."""
        drawn = run.rank, run.config.training.seed
        if drawn not in self._fresh:
            if len(self._fresh) >= FRESH_KEPT:
                self._fresh.clear()
            self._fresh[drawn] = self.frozen.fresh_adapter(*drawn, self.stored_dtype)
        return self._fresh[drawn]

    def setup(self, config: RunConfig) -> dict[str, Any]:
        """The resolved setup of a run in this pack, for its record."""
        trainable = sum(sum(shape) for shape in self.layer_shapes) * config.lora.r
        return {
            "backend": "peft",
            "backend_note": None,
            "engine": "packed",
            "engine_note": None,
            "precision": self.settings["training.precision"],
            "target_modules": self.targets,
            "trainable_parameters": trainable,
            "parameters": self.parameters + trainable,
        }


class RunReader:
    """Reads the data of runs; runs with the same data share their examples."""

    def __init__(
        self,
        base: SharedBase,
        spent: TimeSpent,
        background: Background,
        call: Call,
        cache_dir: Path | None,
    ):
        self.base, self.spent, self.background, self.call = base, spent, background, call
        self._row_cache = RowCache(cache_dir, base.name, base.settings["model.revision"])
        self._splits = cache(load_splits)
        self._examples: dict[tuple[Any, ...], tuple[Examples, ExampleArrays]] = {}
        self._suite_rows: dict[Any, list[Row]] = {}

    def read(self, spec: RunSpec) -> PackedRun:
        """A run without its adapter. Refuses what the pack cannot train."""
        config, reporter = spec.config, spec.reporter
        if why := refusal(config):
            raise TrainingError(why)
        own, shared = settings_of_a_pack(config), self.base.settings
        if other := [name for name in own if own[name] != shared[name]]:
            raise TrainingError(f"this run has another {other[0]} than its pack")
        reporter.phase(f"reading {config.data.trained_on}")
        examples, arrays = self._read(config)
        policy = RunPolicy(
            config,
            reporter,
            output_dir=spec.output_dir,
            checkpoints_dir=spec.checkpoints_dir,
            identity=run_identity(
                config,
                data=examples.fingerprint,
                tokenizer=self.base.vocabulary.fingerprint,
                engine="packed",
                arithmetic=ARITHMETIC,
            ),
            spent=self.spent,
            jobs=self.background.queue(),
            call=self.call,
        )
        return PackedRun(spec, examples, arrays, policy)

    def _read(self, config: RunConfig) -> tuple[Examples, ExampleArrays]:
        """The examples of all splits, and those of training as arrays."""
        data = config.data
        splits = self._splits(**arguments_of(config))
        asked = config.evaluation
        limits = asked.max_rows, config.model.max_length, asked.suite_rows, asked.suite_seen_rows
        key = (
            splits.fingerprint,
            splits.tasks,
            data.template,
            data.system_prompt,
            *limits,
            *asked.suites,
        )
        if key not in self._examples:
            examples = Examples.of(
                splits,
                self.base.vocabulary,
                config,
                encode=self._row_cache.encode,
                suite_rows=self._suite_rows,
            )
            arrays = ExampleArrays.of(examples.rows["train"], self.base.tokenizer.pad_token_id)
            self._examples[key] = examples, arrays
        return self._examples[key]
