"""Every setting of a run: its definition, its description, and the YAML that it is read from."""

from src.config.alike import config_key, distinguishes
from src.config.data import CHAT, DataConfig
from src.config.evaluation import EvaluationConfig, names_file
from src.config.fields import (
    Setting,
    affecting,
    by_name,
    differences,
    flattened,
    get,
    paths_found,
    settings,
    subset,
)
from src.config.loading import (
    DEFAULT_PRESET,
    ConfigError,
    defaults,
    load_config,
    override_text,
    parse_config,
    parse_override,
    parse_yaml,
    presets,
    read_text,
    read_yaml,
    set_arguments,
    to_yaml,
    with_absolute_paths,
    with_overrides,
)
from src.config.machine import (
    MachineSettings,
    change_machine,
    load_machine,
    usable_machine,
)
from src.config.mixture import trained_on
from src.config.schema import (
    EarlyStoppingConfig,
    RunConfig,
    TrackingConfig,
)
from src.config.section import Section
from src.config.sentences import sentence, shortened
from src.config.stored import stored_config, stored_values, values_before
from src.config.values import from_text, to_text
from src.config.yaml_text import YamlError, dump_flow, dump_yaml, load_flow

__all__ = [
    "CHAT",
    "DEFAULT_PRESET",
    "ConfigError",
    "DataConfig",
    "EarlyStoppingConfig",
    "EvaluationConfig",
    "MachineSettings",
    "RunConfig",
    "Section",
    "Setting",
    "TrackingConfig",
    "YamlError",
    "affecting",
    "by_name",
    "change_machine",
    "config_key",
    "defaults",
    "differences",
    "distinguishes",
    "dump_flow",
    "dump_yaml",
    "flattened",
    "from_text",
    "get",
    "load_config",
    "load_flow",
    "load_machine",
    "names_file",
    "override_text",
    "parse_config",
    "parse_override",
    "parse_yaml",
    "paths_found",
    "presets",
    "read_text",
    "read_yaml",
    "sentence",
    "set_arguments",
    "settings",
    "shortened",
    "stored_config",
    "stored_values",
    "subset",
    "to_text",
    "to_yaml",
    "trained_on",
    "usable_machine",
    "values_before",
    "with_absolute_paths",
    "with_overrides",
]
