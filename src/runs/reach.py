"""The files that readers of the panel, and clients over HTTP, may name"""

from contextlib import suppress
from pathlib import Path

from src import paths
from src.config import RunConfig, names_file


def out_of_reach(config: RunConfig, base: RunConfig) -> dict[str, str]:
    """{setting: why it is refused} of paths that leave the folders that readers may use.

    They may name hub ids, files in SPELLTUNE_HOME/data, and what `base` named before.
    """
    named: dict[str, list[str]] = {}
    if config.data.path and config.data.path != base.data.path:
        named["data.path"] = [config.data.path]
    known = base.evaluation.suites
    named["evaluation.suites"] = [
        suite for suite in config.evaluation.suites if names_file(suite) and suite not in known
    ]
    folder = paths.home() / "data"
    advice = "upload the file, or launch from the command line"
    return {
        setting: f"the panel reads files under {folder} alone; {advice}"
        for setting, own in named.items()
        if not all(_is_inside(path, folder) for path in own)
    }


def _is_inside(path: str, folder: Path) -> bool:
    # Resolved: a link inside may lead outside.
    with suppress(RuntimeError, ValueError):  # an unknown user's home, or no valid path
        return Path(path).expanduser().resolve().is_relative_to(folder.resolve())
    return False
