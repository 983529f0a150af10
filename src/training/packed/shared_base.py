"""The frozen base model that all runs of a pack share."""

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from src.config import RunConfig
from src.models import preloaded
from src.models import utils as machine
from src.models.gguf.convert import readable
from src.models.multi_lora.adapters import LoraPair
from src.models.multi_lora.base import FrozenBase, read_base
from src.models.multi_lora.families import FAMILIES
from src.models.multi_lora.optimizer import OPTIMIZERS, Optimizer
from src.models.spelling_model import Vocabulary, resolve_targets
from src.training.packed.base_cache import BaseCache, ReadBase, StoredTokenizer, key_of_base
from src.training.packed.eligibility import longest_row, shared_settings
from src.training.packed.run import PackedRun
from src.training.prompts import format_of
from src.training.utils import Reporter

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
    read: ReadBase
    vocabulary: Vocabulary
    _fresh: dict[tuple[int, int], list[LoraPair]] = field(default_factory=dict)

    @staticmethod
    def load(config: RunConfig, reporter: Reporter, cache_dir: Path | None = None) -> "SharedBase":
        """The base of a pack with this run in it: as an earlier pack kept it in `cache_dir`, else
        as transformers reads it."""
        settings, end = settings_of_a_pack(config), format_of(config).end
        reporter.phase(f"loading {config.model.name}")
        cache = BaseCache(cache_dir)

        def keys() -> tuple[list[Any], str]:
            base = preloaded.key_of(settings["model.name"], base_arguments(config))
            return base, key_of_base(base, config.lora.target_modules, end)

        base, entry = keys()
        read = None if preloaded.is_ready(base) else cache.read(entry)
        if read is not None:
            preloaded.forget()
        else:
            read = _read(config, settings, end)
            base, entry = keys()  # its files may have come just now
            cache.keep(entry, read)
        return SharedBase(settings, base, read, Vocabulary(read.tokenizer, read.context_tokens))

    @property
    def name(self) -> str:
        return str(self.settings["model.name"])

    @cached_property
    def folder(self) -> str:
        """The name under which transformers finds it, which adapters carry: of a GGUF file the
        folder that it was converted to."""
        return readable(self.name)

    @cached_property
    def layer_names(self) -> list[str]:
        """Full name of each adapted layer."""
        return [layer.name for layer in self.frozen.adapted_layers]

    @property
    def frozen(self) -> FrozenBase:
        return self.read.frozen

    @property
    def optimizer(self) -> type[Optimizer]:
        return OPTIMIZERS[self.settings["optimizer.name"]]

    @property
    def tokenizer(self) -> Any:
        return self.vocabulary.tokenizer

    def initial_weights(self, run: PackedRun) -> list[LoraPair]:
        """The adapter that PEFT draws for the run's seed; the same one for other runs with it."""
        drawn = run.rank, run.config.training.seed
        if drawn not in self._fresh:
            if len(self._fresh) >= FRESH_KEPT:
                self._fresh.clear()
            self._fresh[drawn] = self.frozen.fresh_adapter(*drawn, self.read.stored_dtype)
        return self._fresh[drawn]

    def setup(self, config: RunConfig) -> dict[str, Any]:
        """The resolved setup of a run in this pack, for its record."""
        layers = self.frozen.adapted_layers
        trainable = config.lora.r * sum(layer.in_features + layer.out_features for layer in layers)
        return {
            "backend": "peft",
            "backend_note": None,
            "engine": "packed",
            "engine_note": None,
            "precision": self.settings["training.precision"],
            "target_modules": self.read.targets,
            "trainable_parameters": trainable,
            "parameters": self.read.parameters + trainable,
        }


def _read(config: RunConfig, settings: dict[str, Any], end: str | None) -> ReadBase:
    """A base as transformers reads it; answers end with the token `end`, if there is one."""
    name = settings["model.name"]
    vocabulary = preloaded.load_vocabulary(name, revision=settings["model.revision"])
    vocabulary.end_answers_with(end)
    model = preloaded.load_base(name, vocabulary, **base_arguments(config))
    targets = resolve_targets(model, config.lora.target_modules)
    dtype = machine.dtype_of(settings["training.precision"])
    frozen = read_base(model, targets, dtype, longest_row(config))
    return ReadBase(
        frozen,
        targets,
        FAMILIES[model.config.model_type].transposed,
        sum(parameter.numel() for parameter in model.parameters()),
        model.dtype,
        vocabulary.context_tokens,
        StoredTokenizer.of(vocabulary.tokenizer) or vocabulary.tokenizer,
        _files_of(vocabulary.tokenizer),
    )


def _files_of(tokenizer: Any) -> dict[str, bytes]:
    """The files that `save_pretrained` writes, which takes as long as the rest of a checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save_pretrained(name)
        files = (file for file in Path(name).rglob("*") if file.is_file())
        return {str(file.relative_to(name)): file.read_bytes() for file in files}
