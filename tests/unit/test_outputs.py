"""Files that commands write: into a folder that is not there, or with the current folder gone."""

from pathlib import Path
from typing import Any

import pytest
import typer

from src.cli import app
from tests.helpers.store import fill_run, fill_sweep
from tests.helpers.sweeps import TINY, cli

pytestmark = pytest.mark.usefixtures("home")


def commands(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """{command: its option that names a file or folder to write}."""
    found: dict[tuple[str, ...], str] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, (*path, name))
            continue
        for parameter in command.params:
            for option in parameter.opts:
                if option in ("--output", "--to", "--out"):
                    found[(*path, name)] = option
    return found


WRITING = commands(typer.main.get_command(app))


def test_every_command_that_writes_a_file_is_known() -> None:
    known = {("export",), ("sweep", "export"), ("capsule",), ("merge",), ("report",)}
    assert known <= WRITING.keys()


@pytest.mark.parametrize("command", sorted(WRITING), ids=" ".join)
@pytest.mark.parametrize("gone", [False, True], ids=["no folder", "current folder gone"])
def test_a_file_that_cannot_be_written_is_a_sentence(
    command: tuple[str, ...], gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fill_sweep(TINY, trials=2) if command[0] == "sweep" else fill_run(name="whole")
    (tmp_path / "a file").touch()
    target = "out" if gone else str(tmp_path / "a file" / "deeper" / "out")
    if gone:
        folder = tmp_path / "gone"
        folder.mkdir()
        monkeypatch.chdir(folder)
        folder.rmdir()
    option = WRITING[command]
    if option == "--out":  # its ending says what is written
        target += ".html"
    answer = cli(*command, name, option, target)
    if gone:
        monkeypatch.chdir(tmp_path)
    assert answer.exit_code == 2 and isinstance(answer.exception, SystemExit), answer.exception
    assert answer.stderr.startswith("error: ")
