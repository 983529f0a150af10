"""Every setting of a run: its definition, its description, and the YAML that it is read from."""

from src.config.fields import Setting, differences, get, settings
from src.config.loading import (
    DEFAULT_PRESET,
    ConfigError,
    Loader,
    defaults,
    load_config,
    parse_config,
    parse_override,
    parse_yaml,
    presets,
    read_text,
    read_yaml,
    stored_config,
    to_yaml,
    with_absolute_paths,
    with_overrides,
)
from src.config.schema import (
    BUILT_IN_TASKS,
    EarlyStoppingConfig,
    RunConfig,
    Section,
    TrackingConfig,
)

__all__ = [
    "BUILT_IN_TASKS",
    "DEFAULT_PRESET",
    "ConfigError",
    "EarlyStoppingConfig",
    "Loader",
    "RunConfig",
    "Section",
    "Setting",
    "TrackingConfig",
    "defaults",
    "differences",
    "get",
    "load_config",
    "parse_config",
    "parse_override",
    "parse_yaml",
    "presets",
    "read_text",
    "read_yaml",
    "settings",
    "stored_config",
    "to_yaml",
    "with_absolute_paths",
    "with_overrides",
]
