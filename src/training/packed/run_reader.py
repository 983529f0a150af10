"""Reads the data of packed runs."""

from functools import cache
from pathlib import Path
from typing import Any

from src.config import RunConfig
from src.models.multi_lora.step import ARITHMETIC
from src.training.background import Background, Call
from src.training.data_loaders import arguments_of, load_splits
from src.training.examples import Examples
from src.training.identity import run_identity
from src.training.packed.arrays import ExampleArrays
from src.training.packed.eligibility import refusal
from src.training.packed.run import PackedRun, RunSpec
from src.training.packed.shared_base import SharedBase, settings_of_a_pack
from src.training.row_cache import RowCache
from src.training.rows import Row
from src.training.run_policy import RunPolicy
from src.training.throughput import TimeSpent
from src.training.utils import TrainingError


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
