"""Settings: every shipped YAML validates, every problem is a sentence at its field."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.cli.options import overrides
from src.config import (
    CHAT,
    ConfigError,
    Setting,
    by_name,
    differences,
    from_text,
    get,
    load_config,
    override_text,
    parse_config,
    parse_override,
    presets,
    settings,
    stored_config,
    stored_values,
    to_text,
    to_yaml,
    with_overrides,
)
from src.models.multi_lora.shapes import config_problem
from src.paths import CONFIGS, ROOT
from src.training.data_loaders import load_splits
from src.training.packed.eligibility import longest_row, packed_problems


def problems(**overrides: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides={name.replace("__", "."): value for name, value in overrides.items()})
    return caught.value.problems


@pytest.mark.parametrize("setting", list(settings()), ids=lambda s: s.name)
def test_every_setting_says_what_it_is(setting: Setting) -> None:
    assert len(setting.help) > 20 and setting.help.endswith(".")


@pytest.mark.parametrize("preset", presets())
def test_every_preset_validates_and_survives_yaml(preset: str, tmp_path: Path) -> None:
    config = load_config(preset=preset)
    assert config.name == preset
    file = tmp_path / "again.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config


# What config.json of each says, as far as an engine asks.
CHAT_BASES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49152,
        "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
        "max_position_embeddings": 8192, "rope_theta": 100000, "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "vocab_size": 151936,
        "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 3072,
        "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1000000,
        "attention_bias": False, "use_sliding_window": False, "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "vocab_size": 128256,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
        "head_dim": 64, "max_position_embeddings": 131072, "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    },
}  # fmt: skip


@pytest.mark.parametrize("preset", CHAT_BASES)
def test_the_packed_engine_computes_the_presets_of_chat_models(preset: str) -> None:
    config = load_config(preset=preset)
    assert config.data.template == CHAT and config.engine == "auto"
    assert longest_row(config) < CHAT_BASES[preset]["max_position_embeddings"]
    assert config_problem(CHAT_BASES[preset], longest_row(config)) is None
    assert packed_problems(config) == {}


def test_trl_trains_the_preset_in_4_bits() -> None:
    config = load_config(preset="qwen3-4b-4bit")
    assert config.data.template == CHAT
    assert packed_problems(config).keys() == {"model.load_in_4bit"}


def test_no_yaml_holds_a_key_that_no_setting_reads() -> None:
    known = by_name().keys()
    for file in sorted(CONFIGS.rglob("*.yaml")):
        if file.parent.name == "sweeps":
            continue
        for section, values in yaml.safe_load(file.read_text()).items():
            names = (
                [f"{section}.{key}" for key in values] if isinstance(values, dict) else [section]
            )
            unknown = set(names) - known - {"include"}
            assert not unknown, f"{file.relative_to(ROOT)}: {unknown}"


def test_the_four_files_carry_the_agreed_values(tmp_path: Path) -> None:
    nothing = tmp_path / "own.yaml"
    nothing.write_text("name: own\n")
    config = load_config(nothing)
    expected = {
        "model.name": "gpt2",
        "model.load_in_4bit": True,
        "model.max_length": 512,
        "lora.bias": "none",
        "training.gradient_checkpointing": True,
        "training.seed": 42,
        "training.max_grad_norm": 0.3,
        "optimizer.name": "adamw_torch",
        "training.logging_steps": 10,
        "evaluation.eval_steps": 100,
        "checkpointing.save_steps": 200,
        "early_stopping.metric": "val/loss",
        "early_stopping.patience": 3,
        "training.precision": "auto",
        "data.template": "<human>: {question}\n<assistant>:",
    }
    assert {name: get(config, name) for name in expected} == expected


def test_the_default_is_the_tiny_preset() -> None:
    config = load_config()
    assert (config.name, config.model.name) == ("tiny-spell", "spelltune-tiny")


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lora: {r: 8}\ntraining: {max_steps: 7}\n")
    config = load_config(file, preset="tiny-correct", overrides={"lora.r": 4})
    assert (config.lora.r, config.training.max_steps, config.data.task) == (4, 7, "correct")
    assert config.lora.alpha == 64  # a section is merged, not replaced
    assert config.name == "mine"


def test_the_older_flat_shape_is_read(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "experiment_name": "old-one",
                "timestamp": "20250101",
                "lora_config": {"r": 8, "alpha": 16, "dropout": 0.1, "target_modules": ["c_attn"]},
                "training_config": {
                    "per_device_train_batch_size": 4,
                    "gradient_accumulation_steps": 2,
                    "warmup_steps": 11,
                    "max_steps": 99,
                    "learning_rate": "1e-4",
                },
            }
        )
    )
    config = load_config(file)
    assert config.name == "old-one"
    assert (config.lora.r, config.lora.alpha, config.lora.target_modules) == (8, 16, ["c_attn"])
    assert config.lora.dropout == 0.1
    assert (config.scheduler.warmup_steps, config.training.max_steps) == (11, 99)
    assert config.training.learning_rate == 1e-4
    assert config.rows_per_step == 8
    assert config.steps_per_epoch(17) == 3


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        ({"lora__rr": 3}, "lora.rr", "did you mean 'lora.r'"),
        ({"training__learning_rte": 1}, "training.learning_rte", "'training.learning_rate'"),
        ({"early_stoping__patience": 1}, "early_stoping", "'early_stopping'"),
        ({"lora__r": 0}, "lora.r", "must be at least 1; got 0"),
        ({"lora__dropout": 1}, "lora.dropout", "must be less than 1; got 1"),
        ({"training__learning_rate": "fast"}, "training.learning_rate", "got 'fast'"),
        ({"training__learning_rate": float("nan")}, "training.learning_rate", "finite"),
        ({"backend": "jax"}, "backend", "takes auto, unsloth or peft; got 'jax'"),
        ({"data__task": "corect"}, "data.task", "did you mean 'correct'"),
        ({"data__template": "{question} "}, "data.template", "ends in a space"),
        ({"data__template": "spell it"}, "data.template", "{question}"),
        ({"data__path": "a.csv", "data__hub_id": "a/b"}, "data.path", "keep one"),
        ({"name": "two\nlines"}, "name", "one line"),
        ({"training": 5}, "training", "got 5"),
    ],
)
def test_a_problem_stands_at_its_field(
    overrides: dict[str, object], field: str, words: str
) -> None:
    found = problems(**overrides)
    assert list(found) == [field]
    assert words in found[field]


# What pydantic says by itself, and no person would.
ITS_VOICE = re.compile("input should|should (have|be)|valid (string|number|integer)|or equal to")
ODD: list[Any] = ["", None, "x", "a b", 0, -1, 1.5, 1e12, 10**30, float("nan"), True, [], ["x", 1],
                  {}, {"a": "b"}, "y" * 30_000]  # fmt: skip


def test_no_value_of_any_setting_is_answered_in_the_voice_of_pydantic() -> None:
    values, told = load_config().model_dump(), []
    for setting in settings():
        for odd in ODD:
            told += _problems_of(values, {setting.name: odd})
    assert len(told) > 300
    assert not [sentence for sentence in told if ITS_VOICE.search(sentence)]
    assert not [sentence for sentence in told if "cannot be used" in sentence]  # each has its words


def _problems_of(values: dict[str, Any], changed: dict[str, Any]) -> list[str]:
    try:
        with_overrides(values, changed)
    except ConfigError as error:
        return list(error.problems.values())
    return []


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"name": ""}, "name: is empty; give it a name"),
        ({"model__name": ""}, "model.name: is empty; give it a name"),
        ({"training__learning_rate": None}, "is empty; enter a number, such as 0.0002"),
        ({"training__max_steps": 0}, "training.max_steps: must be at least 1; got 0"),
        ({"lora__alpha": -2}, "lora.alpha: must be more than 0; got -2"),
        ({"scheduler__name": "cosin"}, "or inverse_sqrt; got 'cosin'; did you mean 'cosine'?"),
        ({"data__task": "spell out"}, "takes letters, digits, underscores and dashes, no space"),
        ({"name": "n" * 90}, "name: has 90 characters; 80 at most"),
    ],
)
def test_a_problem_is_said_in_plain_words(overrides: dict[str, object], told: str) -> None:
    (problem,) = [f"{name}: {text}" for name, text in problems(**overrides).items()]
    assert told in problem


def test_all_problems_come_at_once() -> None:
    assert set(problems(lora__r=0, training__seed=-1)) == {"lora.r", "training.seed"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no file"),
        ("", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("training: {max_steps: [", "is not valid YAML"),
        ("\xff\xfe", "holds a str"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "broken.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(file)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tiny-spell'"):
        load_config(preset="tiny-spel")


def test_overrides_are_read() -> None:
    assert parse_override("lora.r=16") == ("lora.r", 16)
    assert parse_override("lora.target_modules=[c_attn, c_fc]")[1] == ["c_attn", "c_fc"]
    assert parse_override("early_stopping.patience=null")[1] is None
    assert parse_override("name=a=b") == ("name", "a=b")
    assert parse_override("model.load_in_4bit=true")[1] is True
    assert load_config(overrides=dict([parse_override("tracking.mode=off")])).tracking.mode == "off"
    with pytest.raises(ConfigError, match="SETTING=VALUE"):
        parse_override("lora.r")


AS_IT_STANDS = {
    "data.template": ["Fix #1: {question}", "a # {question}", "{question}: ", "[{question}]",
                      "'{question}'", "{question}\n>", 'say "{question}"', "no", "2026-01-02"],
    "name": ["7", "7.10", "2026-01-02", "a: b", "# one", "null", "true", "1e5", "- a", "*a", "é",
             '"', "lr@10", "[1, 2]", "{a: b}", "off", "012", "!x"],
    "data.path": ["/a #1/b.csv", "a: b.csv", "~/w.csv", "2026-01-02", "7", "%d", "[x].csv"],
    "data.revision": ["0123", "1e10", "7.10", "main", "1234567"],
    "tracking.group": ["1:30", "a, b"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, ts in AS_IT_STANDS.items() for t in ts])
def test_a_text_after_set_is_taken_as_it_stands(name: str, text: str) -> None:
    assert parse_override(f"{name}={text}") == (name, text)
    setting = by_name()[name]
    assert from_text(setting, text) == text  # as in the form and in its address
    assert parse_override(override_text(setting, text)) == (name, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lora.r=16", 16), ("lora.r= 16 ", 16), ("training.seed=007", 7), ("lora.alpha=16", 16.0),
        ("training.learning_rate=1e-4", 1e-4), ("training.learning_rate=.5", 0.5),
        ("model.load_in_4bit=true", True), ("model.load_in_4bit=False", False),
        ("early_stopping.patience=null", None), ("data.path=null", None),
        ("lora.target_modules=null", None), ("lora.target_modules=c_attn", ["c_attn"]),
        ("lora.target_modules=c_attn, c_fc", ["c_attn", "c_fc"]),
        ("lora.target_modules=[c_attn, c_fc]", ["c_attn", "c_fc"]),
        ('lora.target_modules=["c_attn"]', ["c_attn"]), ("tracking.tags=[]", []),
        ("tracking.tags=7, 2026-01-02, true", ["7", "2026-01-02", "true"]),
        ("tracking.tags=[7.10, 'a, b', off]", ["7.10", "a, b", "off"]),
        ('name="a\\nb"', "a\nb"), ('data.path="null"', "null"),
        ("scheduler.name=linear", "linear"), ("tracking.mode=off", "off"),
    ],
)  # fmt: skip
def test_a_value_after_set_is_read_by_its_setting(text: str, value: object) -> None:
    name, read = parse_override(text)
    assert read == value and type(read) is type(value)
    setting = by_name()[name]
    assert parse_override(override_text(setting, value)) == (name, value)


@pytest.mark.parametrize("text", ["data.path=", "data.hub_id= ", "tracking.group=", 'data.path=""',
                                  "evaluation.max_rows=", "lora.target_modules="])  # fmt: skip
def test_a_variable_that_is_not_set_is_refused(text: str) -> None:
    name, value = parse_override(text)
    with pytest.raises(ConfigError) as refused:
        load_config(overrides={name: value})
    assert refused.value.problems.keys() == {name}
    assert "is empty; write null for none" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["name=", "lora.r=", "data.template=", "tracking.tags=", "optimizer.name=", "lora=",
     "lora.r=4.5", "lora.r=[4]"],
)  # fmt: skip
def test_a_value_that_its_setting_cannot_take_is_refused(text: str) -> None:
    name, value = parse_override(text)
    with pytest.raises(ConfigError) as refused:
        load_config(overrides={name: value})
    assert refused.value.problems.keys() == {name}


def test_a_setting_that_is_set_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="lora.r: is set twice, to 4 and to 8; keep one"):
        overrides(["lora.r=4", "name=a", "lora.r=8"])
    assert overrides(["lora.r=4", "lora.r=4"]) == {"lora.r": 4}


def test_a_number_keeps_all_its_digits_in_an_address() -> None:
    rate = by_name()["training.learning_rate"]
    for value in (0.0017782794100389228, 1e-4, 64.0, 1 / 3):
        assert from_text(rate, to_text(rate, value)) == value


def test_differences_name_what_was_edited() -> None:
    config = load_config()
    edited = load_config(overrides={"lora.r": 4})
    assert differences(edited, config) == {"lora.r": (4, 16)}


def test_a_config_cannot_change_after_it_was_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().lora.r = 2  # type: ignore[misc]


def test_the_rows_document_is_read_back() -> None:
    config = load_config()
    assert parse_config(config.model_dump()) == config


def test_requirements_differ_by_unsloth_alone() -> None:
    def lines(name: str) -> list[str]:
        text = (ROOT / name).read_text().splitlines()
        return [line for line in text if line and not line.startswith("#")]

    include, *more = lines("requirements.txt")
    assert include == "-r requirements-cpu.txt"
    assert {line.split("==")[0] for line in more} == {"unsloth", "unsloth_zoo"}
    assert all("==" in line for line in [*more, *lines("requirements-cpu.txt")])


def test_a_row_of_a_built_in_task_without_its_later_settings_reads_as_its_run_did():
    later = ("right_words", "length_spread", "score_right_words")
    values = load_config(preset="tiny-correct").model_dump()
    for name in later:
        del values["data"][name]
    then = stored_config(values).data
    assert [getattr(then, name) for name in later] == [0, 0, False]
    assert load_splits(**then.source).fingerprint == load_splits(task="correct").fingerprint
    flat = stored_values(values)
    assert [flat[f"data.{name}"] for name in later] == [0, 0, False]
    # Elsewhere they mean nothing, and older and newer runs are repetitions of each other.
    values["data"]["path"] = "words.csv"
    assert stored_config(values).data.right_words == load_config().data.right_words
