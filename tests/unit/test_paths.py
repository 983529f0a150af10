"""Folders and files that the environment and a config name: found once, and the same ones later."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from src import paths, store
from src.config import load_config, parse_config, with_absolute_paths
from src.errors import explain_os_error
from src.store.sqlite import database_url, sqlite_file


@pytest.mark.parametrize("given", ["mine", "./mine", "../{here}/mine", "~/mine"])
def test_a_home_is_absolute_from_its_first_read_on(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPELLTUNE_HOME", given.format(here=tmp_path.name))
    monkeypatch.chdir(tmp_path)
    assert paths.home() == tmp_path / "mine"
    monkeypatch.chdir("/")
    assert paths.home() == tmp_path / "mine"
    assert Path(os.environ["SPELLTUNE_HOME"]).is_absolute()


@pytest.mark.parametrize(
    "given", ["sqlite:///runs.db", "sqlite:///./runs.db", "sqlite:///~/runs.db"]
)
def test_a_run_table_is_absolute_from_its_first_read_on(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPELLTUNE_DATABASE_URL", given)
    monkeypatch.chdir(tmp_path)
    assert sqlite_file() == tmp_path / "runs.db"
    monkeypatch.chdir("/")
    assert sqlite_file() == tmp_path / "runs.db"
    assert make_url(os.environ["SPELLTUNE_DATABASE_URL"]).database == str(tmp_path / "runs.db")


def test_an_address_of_a_server_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "postgresql+psycopg://me:p%40ss@there/runs"
    monkeypatch.setenv("SPELLTUNE_DATABASE_URL", given)
    assert database_url().render_as_string(hide_password=False) == given
    assert os.environ["SPELLTUNE_DATABASE_URL"] == given and sqlite_file() is None


@pytest.mark.parametrize(
    "name", ["a b", "50%20off", "why?", "a#b", "a&b=c", "é", "a;b", "[x]", "'q'"]
)
def test_any_name_of_a_home_holds_its_run_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / name
    monkeypatch.setenv("SPELLTUNE_HOME", str(home))
    monkeypatch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
    with store.writing() as session:
        run = store.enqueue(session, load_config())
    assert (home / "results" / "spelltune.db").is_file()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with store.reading() as session:
        assert store.find(session, run.id).id == run.id


def test_a_relative_home_is_that_of_the_child_processes_too(tmp_path: Path) -> None:
    code = (
        "from src.cli import main; from src.runs.environment import child_environment;"
        "main.prepare(); print(child_environment()['SPELLTUNE_HOME'])"
    )
    environment = os.environ | {"SPELLTUNE_HOME": "here", "PYTHONPATH": str(paths.ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert told.stdout.strip() == str(tmp_path / "here"), told.stderr


def test_a_tilde_is_the_home_folder_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").mkdir()
    file = tmp_path / "tilde.yaml"
    file.write_text("data: {path: ~/words.csv}\nmodel: {name: ~/base}\n")
    for config in (
        load_config(file),
        load_config(overrides={"data.path": "~/words.csv", "model.name": "~/base"}),
        parse_config(load_config(file).model_dump()),
    ):
        assert config.data.path == str(tmp_path / "words.csv")
        assert config.model.name == str(tmp_path / "base")
        assert with_absolute_paths(config, Path("/elsewhere")) == config


def test_errors_of_the_operating_system_are_sentences(tmp_path: Path) -> None:
    def told(path: Path, mode: str) -> str:
        with pytest.raises(OSError) as caught:
            path.open(mode)
        return explain_os_error(caught.value)

    assert told(tmp_path / "no" / "file", "w") == f"{tmp_path}/no/file: no such file or directory"
    assert told(tmp_path, "w") == f"{tmp_path}: is a directory"
    full = explain_os_error(OSError(28, "No space left on device", "x"))
    assert full == "x: no space left on device; free some space, and try again"
    assert "current folder is gone" in explain_os_error(FileNotFoundError(2, "No such file"))


def test_a_command_in_a_deleted_folder_or_into_none_ends_with_a_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"{sys.executable} -m src.cli"
    environment = os.environ | {"SPELLTUNE_HOME": str(tmp_path), "PYTHONPATH": str(paths.ROOT)}
    for line in (
        f"cd {gone}; rmdir {gone}; SPELLTUNE_HOME=here {command} runs",
        f"{command} sweep export nothing --output {tmp_path}/no/file.csv",
        f"{command} panel --port 99999",
    ):
        told = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert told.returncode == 2 and "Traceback" not in told.stderr, told.stderr
