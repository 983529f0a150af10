"""What a setting says that it affects is what it affects, under each engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from src.config import RunConfig, Setting, affecting, by_name, get, settings, with_overrides
from src.config.effects import EFFECTS
from src.models import spelling_model
from src.tasks import task
from src.tasks.built_in import correct
from src.tasks.words import target_words
from src.training import data_loaders
from src.training.checkpointing import step_dir
from src.training.packed.eligibility import pack_key
from src.training.packed.engine import train_pack
from src.training.packed.run import RunSpec
from src.training.train import train
from tests.helpers import tiny

STEP = 4  # of 12, whose adapters are compared
ROUNDING = 1e-5  # L2 norm of a difference that two packs of the same runs may have, relative
SETTINGS = by_name()
ONLY_SCORED = {
    "data.score_right_words",
    "data.held_out_phrasings",
}  # of the data, and never trained on
DECISIVE = sorted(affecting("weights", "data") - ONLY_SCORED)

# What has to be set otherwise for a setting to mean anything.
CONTEXTS: dict[str, dict[str, Any]] = {
    "optimizer.momentum": {"optimizer.name": "sgd"},
    "data.task": {"data.path": None},
    "data.mix": {"data.path": None},
    "data.right_words": {"data.path": None, "data.task": "correct"},
    "data.length_spread": {"data.path": None, "data.task": "correct"},
    "data.system_prompt": {"data.template": "chat"},
    # Of built-in words, the longest of which take more tokens so.
    "data.separator": {"data.path": None, "model.max_length": 128},
    "data.phrasings": {"data.path": None, "model.max_length": 128},
    "data.multi_token_words": {"data.path": None, "model.max_length": 128},
    "data.hub_id": {"data.path": None},
    "data.revision": {"data.path": None, "data.hub_id": "someone/words"},
    "model.revision": {"model.name": "someone/model"},
}
# Where the next one in line would be none, or would not show within so few steps.
VALUES: dict[str, Any] = {
    "backend": "unsloth",
    "model.name": "someone/model",
    "model.revision": "v1",
    "model.load_in_4bit": True,
    "model.max_length": 16,
    "lora.target_modules": ["c_attn"],
    "lora.bias": "all",
    "data.task": "correct",
    "data.mix": {"spell_out": 0.5, "correct": 0.5},
    "data.path": "other words",
    "data.hub_id": "someone/words",
    "data.revision": "v1",
    "data.template": "{question}:",
    "data.system_prompt": "Spell.",
    "data.length_spread": 1.0,
    "training.max_grad_norm": 1e-3,
    "training.precision": "bf16",
    "optimizer.epsilon": 1e-2,
    "optimizer.weight_decay": 1.0,
    "early_stopping.criteria": ["plateau"],
    "early_stopping.divergence_factor": 1e9,
    "early_stopping.metric": "val/cer",
    "early_stopping.patience": 7,
    "early_stopping.plateau_evaluations": 9,
    "early_stopping.target": -1.0,
    "checkpointing.max_gib": 2.5,
    "checkpointing.save_steps": 2,
    "evaluation.max_rows": 4,
    "evaluation.suites": ["general"],
    "evaluation.suite_every": 1,
    "tracking.group": "others",
    "tracking.tags": ["other"],
}


def other_value(setting: Setting, value: Any) -> Any:
    """A valid value of the setting that is not `value`."""
    if setting.name == "engine":
        return "trl" if value == "packed" else "packed"
    if setting.name in VALUES:
        return VALUES[setting.name]
    if setting.choices:
        return next(choice for choice in setting.choices if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}-other"
    return value + 1 if isinstance(value, int) else value * 0.5 + 0.07


def plain(folder: Path, engine: str) -> RunConfig:
    """The config that all others change."""
    return tiny.config_of(
        folder,
        **{
            "engine": engine,
            "data.path": str(folder / "words"),
            "model.load_in_4bit": False,
            "training.precision": "fp32",
            "early_stopping.patience": None,
            "evaluation.eval_steps": 50,
            "checkpointing.save_steps": STEP,
        },
    )


def changed(config: RunConfig, names: list[str]) -> RunConfig:
    """The config with other values of these settings."""
    values = {name: other_value(SETTINGS[name], get(config, name)) for name in names}
    return with_overrides(config.model_dump(), values)


Weights = dict[str, torch.Tensor]


class Trained:
    """Adapters of STEP by the config that made them, or the sentence that refused it."""

    def __init__(self, engine: str, folder: Path):
        self.engine, self.folder = engine, folder
        self.plain = plain(folder, engine)
        self.ends: dict[str, Weights | str] = {}

    def train(self, configs: list[RunConfig]) -> None:
        """Train those that have not been trained yet; by engine packed at once what may be."""
        new = {c.model_dump_json(): c for c in configs if c.model_dump_json() not in self.ends}
        packs: dict[Any, list[RunConfig]] = {}
        for key, config in new.items():
            packs.setdefault(pack_key(config) if config.engine == "packed" else key, []).append(
                config
            )
        for pack in packs.values():
            trials = [self._trial(config) for config in pack]
            outcomes: list[Any] = []
            try:
                if pack[0].engine == "packed":
                    outcomes = [(one.config, end) for one, end in train_pack(trials)]
                else:
                    (one,) = trials
                    options = {"output_dir": one.output_dir, "checkpoints_dir": one.checkpoints_dir}
                    outcomes = [(one.config, train(one.config, one.reporter, **options))]
            except ValueError as error:  # ModelError, DataError or TrainingError
                outcomes = [(config, error) for config in pack]
            folders = {one.config.model_dump_json(): one.checkpoints_dir for one in trials}
            for config, end in outcomes:
                key = config.model_dump_json()
                if isinstance(end, Exception):
                    assert isinstance(end, ValueError), end
                    self.ends[key] = str(end)
                else:
                    file = step_dir(folders[key], STEP) / "adapter_model.safetensors"
                    self.ends[key] = load_file(file)

    def _trial(self, config: RunConfig) -> RunSpec:
        place = self.folder / f"{self.engine} {len(list(self.folder.iterdir()))}"
        place.mkdir()
        return RunSpec(config, tiny.Recorder(stop_at=STEP), place / "out", place / "steps")

    def of(self, config: RunConfig) -> Weights | str:
        return self.ends[config.model_dump_json()]

    def pair(self, name: str) -> tuple[RunConfig, RunConfig]:
        """Two configs that differ in one setting alone."""
        before = with_overrides(self.plain.model_dump(), CONTEXTS.get(name, {}))
        after = changed(before, [name])
        if name == "data.path":
            after = with_overrides(before.model_dump(), {name: str(self.folder / VALUES[name])})
        return before, after


@pytest.fixture(scope="module", params=["trl", "packed"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    """Every pair of configs that differ in one decisive setting, trained by one engine."""
    folder = tmp_path_factory.mktemp("effects")
    tiny.save_model(folder / "gpt2", "gpt2", 32)
    (folder / "gpt2" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tiny.save_model(folder / "newest", "gpt2", 32, seed=1)
    tiny.save_model(folder / "v1", "gpt2", 32, seed=2)
    tiny.data(folder / "words")
    tiny.data(folder / VALUES["data.path"], train=14)
    read = spelling_model.from_pretrained

    def read_hub_model(kind: Any, name: str, revision: str | None, **options: Any) -> Any:
        there = folder / (revision or "newest") if name == "someone/model" else name
        return read(kind, str(there), revision, **options)

    def read_hub_data(hub_id: str, revision: str | None) -> dict[str, pd.DataFrame]:
        words = tiny.WORDS if revision else tiny.WORDS[::-1]
        parts = {"train": words[:12], "validation": words[12:16], "test": words[16:20]}
        return {split: tiny.frame(part) for split, part in parts.items()}

    pairs = [(word[1:] + word[0], word) for word in tiny.WORDS]
    # A sample of the built-in words, and the only one that is one token of the tokenizer.
    words = ["assistant", *target_words()[::40]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spelling_model, "from_pretrained", read_hub_model)
        patch.setattr(data_loaders, "read_hub", read_hub_data)
        patch.setattr(correct, "misspellings", lambda: pairs)
        patch.setattr(task, "target_words", lambda: words)
        found = Trained(request.param, folder)
        indifferent = changed(found.plain, sorted(SETTINGS.keys() - set(DECISIVE)))
        found.train([config for name in DECISIVE for config in found.pair(name)] + [indifferent])
        yield found


def distance(one: Weights, other: Weights) -> float:
    """L2 norm of the difference, relative; infinite for adapters of other shapes."""
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        return float("inf")
    a, b = (torch.cat([w[key].flatten() for key in sorted(w)]).double() for w in (one, other))
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", DECISIVE)
def test_a_setting_that_decides_the_weights_does_so_or_is_refused(
    trained: Trained, name: str
) -> None:
    before, after = map(trained.of, trained.pair(name))
    assert not isinstance(before, str), before
    if isinstance(after, str):
        assert name in after or f"{name.rpartition('.')[2]} {VALUES[name]}" in after, after
        return
    assert distance(before, after) > ROUNDING


def test_all_other_settings_leave_the_weights_as_they_are(trained: Trained) -> None:
    names = sorted(SETTINGS.keys() - set(DECISIVE))
    config = changed(trained.plain, names)
    assert all(get(config, name) != get(trained.plain, name) for name in names)
    before, after = trained.of(trained.plain), trained.of(config)
    assert not isinstance(before, str) and not isinstance(after, str)
    if trained.engine == "trl":
        assert all(torch.equal(before[key], after[key]) for key in before)
    else:  # pack_size parts them, and the other pack's sums have another order
        assert distance(before, after) < ROUNDING


def test_every_setting_says_what_it_affects() -> None:
    assert not [setting.name for setting in settings() if setting.effects == EFFECTS]
