"""The frozen base model that all runs of a pack share."""

import re
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
from src.models.prompt_format import PromptError
from src.models.spelling_model import Vocabulary, load_base, load_vocabulary, resolve_targets
from src.paths import base_model
from src.training.packed.base_cache import BaseCache, ReadBase, StoredTokenizer, key_of_base
from src.training.packed.eligibility import files_of, longest_row, refusal, shared_settings
from src.training.packed.run import PackedRun
from src.training.prompts import format_of
from src.training.utils import Reporter, TrainingError

COMMIT = re.compile("[0-9a-f]{40}")
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
        reporter.phase(f"loading {config.model.name}")
        key, read = _read(config, cache_dir)
        vocabulary = Vocabulary(read.tokenizer, read.context_tokens)
        return SharedBase(settings_of_a_pack(config), key, read, vocabulary)

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


def refused(config: RunConfig) -> Exception | None:
    """The reason why a run cannot be the first of a pack on this machine, or None."""
    if why := refusal(config):
        return TrainingError(why)
    try:
        if files_of(config).is_here:
            format_of(config)
    except PromptError as error:
        return error
    return None


def read_ahead(config: RunConfig, cache_dir: Path | None) -> None:
    """Read the base of `config` for the next pack of this process."""
    _, name = _keys(config)
    preloaded.keep([name], _read(config, cache_dir)[1])


def _read(config: RunConfig, cache_dir: Path | None) -> tuple[list[Any], ReadBase]:
    """The key of a base, see `preloaded.key_of`, and the base: as it was read ahead or is kept on
    the disk, else by transformers."""
    cache = BaseCache(cache_dir if _stays(config) else None)
    key, name = _keys(config)
    read = preloaded.take([name]) or cache.read(name)
    if read is None:
        read, before = _from_transformers(config), name
        key, name = _keys(config)
        if name == before:  # else its files were changed meanwhile, or have come just now
            cache.keep(name, read)
    return key, read


def _stays(config: RunConfig) -> bool:
    """True if the base is another one only where its files here change: transformers asks the hub
    for the newest files of a base there, unless it is asked for a commit."""
    files = files_of(config)
    return files.is_here and (files.is_local or bool(COMMIT.fullmatch(files.revision or "")))


def _keys(config: RunConfig) -> tuple[list[Any], str]:
    """The key of a base, and its name in the cache."""
    key = preloaded.key_of(base_model(config.model.name), base_arguments(config))
    end = format_of(config).end if files_of(config).is_here else None
    return key, key_of_base(key, config.lora.target_modules, end)


def _from_transformers(config: RunConfig) -> ReadBase:
    name, arguments = base_model(config.model.name), base_arguments(config)
    vocabulary = load_vocabulary(name, revision=config.model.revision)
    vocabulary.end_answers_with(format_of(config).end)
    model = load_base(name, vocabulary, **arguments)
    targets = resolve_targets(model, config.lora.target_modules)
    frozen = read_base(
        model, targets, machine.dtype_of(arguments["precision"]), longest_row(config)
    )
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
