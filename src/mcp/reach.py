"""The files that a client may name: over HTTP those that a reader of the panel may, else any"""

from pathlib import Path

from src.config import ConfigError, RunConfig, load_config
from src.errors import UserError, did_you_mean
from src.mcp import caller
from src.paths import SWEEPS
from src.runs import reach
from src.sweeps import reach as of_sweeps
from src.sweeps.file import SweepConfig


class OutOfReach(UserError, ValueError):
    """A file that this client cannot use."""


def check_settings(config: RunConfig, base: RunConfig | None = None) -> None:
    """ConfigError where settings name a file that the client may not use, and `base` does not."""
    if caller.is_remote() and (problems := reach.out_of_reach(config, base or load_config())):
        raise ConfigError(problems)


def check_questions(data: str | None, suite: str | None) -> None:
    """ConfigError where the client may not use this file of questions, or a file as a suite."""
    named = {"data.path": data, "evaluation.suites": None if suite is None else [suite]}
    given = {setting: value for setting, value in named.items() if value is not None}
    if caller.is_remote() and given:
        check_settings(load_config(overrides=given))


def check_sweep(sweep: SweepConfig) -> None:
    """ConfigError where a sweep names a file that the client may not use."""
    if caller.is_remote() and (problems := of_sweeps.out_of_reach(sweep)):
        raise ConfigError(problems)


def check_output(file: str | None) -> None:
    """OutOfReach where a client over HTTP says which file to write."""
    if file is not None and caller.is_remote():
        raise OutOfReach("over HTTP reports are written into the home; leave `file` out")


def sweep_file(name: str) -> Path:
    """The sweep file of a path or of a name in configs/sweeps. OutOfReach over HTTP for others."""
    shipped = {file.stem: file for file in sorted(SWEEPS.glob("*.yaml"))}
    found = shipped.get(name.removesuffix(".yaml"))
    if found is not None or not caller.is_remote():
        return found or Path(name)
    raise OutOfReach(
        f"there is no sweep file {name!r} in configs/sweeps{did_you_mean(name, shipped)}; "
        "over HTTP send what the file holds, as `sweep`"
    )
