"""What commands print: untrusted text in a terminal, and terminals that are not UTF-8."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from src import paths, store
from src.cli import output
from src.format import full_stop
from src.store.tables import EventKind, Status
from src.training.data_files import DataError
from src.training.data_loaders import load_splits
from tests.helpers.store import end, fill_run, fill_sweep
from tests.helpers.sweeps import TINY, cli, trials_of

HOSTILE = "\x1b]0;owned\x07\x1b[2J[/red][bold]\x9b31m\u202egnp.exe\rback\x08"
SHOWN = r"\x1b]0;owned\x07\x1b[2J[/red][bold]\x9b31m\u202egnp.exe\rback\x08"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SHOWN), ("é 日本 \U0001f600", "é 日本 \U0001f600"), ("a\nb\tc", "a\nb\tc"),
        ("a\udcffb", r"a\udcffb"), ("\x00", r"\x00"), ("\x7f", r"\x7f"), ("a\u2028b", r"a\u2028b"),
        ("soft\u00adhyphen, non\u00a0breaking", "soft\u00adhyphen, non\u00a0breaking"),
    ],
)  # fmt: skip
def test_control_characters_are_visible(text: str, shown: str) -> None:
    assert output.visible(text) == shown


@pytest.fixture
def hostile(home: Path) -> str:
    """A run in whose row everything that people and models wrote is hostile."""
    words = [(f"q{HOSTILE}", "right", f"w{HOSTILE}")]
    run_id = fill_run(name="nice", words=words, rows=5)
    end(run_id, Status.FAILED, f"oom: {HOSTILE}")
    with store.writing() as session:
        store.set_notes(session, run_id, tags=[HOSTILE], notes=HOSTILE)
        run = store.find(session, run_id)
        run.name = HOSTILE
        store.record_event(session, run_id, 1, EventKind.HEALED, HOSTILE)
    paths.log_file(run_id).write_text(HOSTILE)
    return run_id


def test_no_command_sends_escape_codes_of_data_to_a_terminal(hostile: str, home: Path) -> None:
    other = fill_run(name="other")
    sweep_id = fill_sweep(TINY, states={3: (Status.FAILED, HOSTILE)})
    first = trials_of(sweep_id)[0].id
    data = home / "w.csv"
    data.write_text(f'question,answer\n"a{HOSTILE}",b\n')
    calls = [
        ("runs",), ("show", hostile), ("metrics", hostile), ("checkpoints", hostile),
        ("compare", hostile, other), ("errors", hostile), ("errors", hostile, "--vs", other),
        ("errors", f"no{HOSTILE}"), ("stop", hostile), ("hold", hostile), ("first", HOSTILE),
        ("sweep", "list"), ("sweep", "show", sweep_id), ("sweep", "show", HOSTILE),
        ("sweep", "plan", HOSTILE), ("launch", "--set", f"data.task={HOSTILE}"),
        ("launch", "--set", f"{HOSTILE}=1"), ("preview", "--set", f"data.path={data}"),
        ("launch", "--preset", HOSTILE), ("resume", hostile), ("delete", first, "--yes"),
        ("export", hostile, "--format", "docx"),
    ]  # fmt: skip
    for call in calls:
        answer = cli(*call)
        assert answer.exception is None or isinstance(answer.exception, SystemExit), call
        for text in (answer.stdout, answer.stderr):
            signs = {c for c in text if output._is_control(c)}
            assert not signs, (call, signs)
    shown = cli("errors", hostile).stdout
    assert r"q\x1b]0;owned\x1b[2J[/red][b" in shown
    assert r"\x1b]0;owned" in cli("show", hostile).stdout
    # A document and a file hold what is there.
    assert json.loads(cli("show", hostile, "--json").stdout)["notes"] == HOSTILE


def test_a_console_shows_its_own_colours_and_not_those_of_data() -> None:
    file = io.StringIO()
    console = output.terminal()
    console.file, console._color_system = file, Console(force_terminal=True)._color_system
    console.print("a \x1b[31mred[/]", highlight=False)
    assert file.getvalue() == "a \\x1b[31mred[/]\n"


@pytest.mark.parametrize(
    "encoding",
    ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("latin-1", "cp1252", "koi8-r"))],
)
def test_a_terminal_that_is_not_utf_8_gets_what_it_can_show(encoding: str, home: Path) -> None:
    name = "naïve 日本 – “x” …"
    run_id = fill_run(name=name, steps=0, status=Status.RUNNING)
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for call in (
        ["show", run_id],
        ["runs"],
        ["show", "日本"],
        ["--help"],
        ["show", run_id, "--json"],
    ):
        answer = subprocess.run(
            [sys.executable, "-m", "src.cli", *call],
            cwd=paths.ROOT, env=environment, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert b"Traceback" not in answer.stderr, answer.stderr.decode(encoding)
        assert answer.returncode == (2 if call[1:] == ["日本"] else 0)
        if call[-1] == "--json":
            assert json.loads(answer.stdout)["name"] == name
        elif call == ["runs"]:
            assert (" - " if encoding != "cp1252" else " – ") in answer.stdout.decode(encoding)


def test_a_sign_that_an_encoding_lacks_has_one_like_it() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    output.adapt_to_encoding()
    stream.reconfigure(errors="spelltune.nearest")
    stream.write("87.5% – “é” …")
    stream.flush()
    assert stream.buffer.getvalue() == b'87.5% - "\\xe9" ...'


# --- sentences ------------------------------------------------------------------------------------


def test_a_sentence_ends_once() -> None:
    assert full_stop("a") == "a." and full_stop("a.") == "a." and full_stop("a?") == "a?"


def test_a_missing_column_is_told_in_whole_sentences(tmp_path: Path) -> None:
    cases = {
        "messages": "it has messages. Rename one",
        "questoin,answer": "; did you mean 'questoin'? Rename one",
    }
    for columns, told in cases.items():
        file = tmp_path / "words.csv"
        file.write_text(f"{columns}\n{columns}\n")
        with pytest.raises(DataError) as refused:
            load_splits(task="mine", path=str(file))
        assert told in str(refused.value)


# --- names ----------------------------------------------------------------------------------------


def test_a_run_may_be_called_like_a_checkpoint(home: Path) -> None:
    run_id = fill_run(name="lr@10")
    other = fill_run(name="rate")
    for call in ("show", "checkpoints", "errors"):
        assert cli(call, "lr@10").exit_code == 0
    with store.reading() as session:
        assert [store.find_checkpoint(session, name)[1] for name in ("lr@10", "lr@10@800")] == [
            None, 800,
        ]  # fmt: skip
        assert store.find_checkpoint(session, "lr@10")[0].id == run_id
        assert store.find_checkpoint(session, "rate@800")[0].id == other
        assert store.scored(session, "lr@10")[0].id == run_id
        with pytest.raises(store.UnknownRun, match="no run 'rate@²'"):
            store.find_checkpoint(session, "rate@²")
        with pytest.raises(store.UnknownRun):
            store.find_checkpoint(session, "rate@" + "9" * 400)
    lr = fill_run(name="lr")
    with store.reading() as session, pytest.raises(store.UnknownRun) as unclear:
        store.find_checkpoint(session, "lr@10")
    assert run_id in str(unclear.value) and f"{lr}@10" in str(unclear.value)
