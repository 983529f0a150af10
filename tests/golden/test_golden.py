"""What users have on their disks and in their scripts: it goes on to work as it did.

The store and the documents were written by commit fd6c598. Nothing here names a module of src.
"""

import ast
import importlib
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from streamlit.testing.v1 import AppTest

from tests.golden.commands import (
    DONE,
    HERE,
    NEW_COLUMNS,
    NEW_INDEXES,
    NEW_TABLES,
    QUEUED,
    RECORD,
    RECORDED,
    REFUSED,
    ROOT,
    differences,
    documents,
    same_keys,
    scripts,
    spelltune,
    unpacked,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The home of the old store, in which every call was made once, and what they answered."""
    with unpacked(tmp_path_factory.mktemp("golden")) as home:
        yield home, documents(home)


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", RECORDED)
def test_what_lies_on_the_disk_is_told_as_before(store, call):
    assert not differences(RECORD["calls"][call], store[1][call], values=True)


@pytest.mark.parametrize("call", [*DONE, *QUEUED, *REFUSED])
def test_a_command_answers_with_the_same_keys_and_exit_code(store, call):
    same_keys(call, store[1][call])


def test_every_command_and_option_is_there():
    module, _, name = scripts()["spelltune"].partition(":")
    app = typer.main.get_command(getattr(importlib.import_module(module), name))

    def options(command: Any, path: str) -> dict[str, list[str]]:
        if subcommands := getattr(command, "commands", None):
            return {
                name: told
                for key, one in subcommands.items()
                for name, told in options(one, f"{path} {key}".strip()).items()
            }
        own = [option for parameter in command.params for option in parameter.opts]
        return {path: sorted(option for option in own if option.startswith("-"))}

    known = json.loads((HERE / "commands.json").read_text())
    there = options(app, "")
    missing = {name: sorted({*known[name]} - {*there.get(name, ())}) for name in known}
    assert {name: gone for name, gone in missing.items() if gone or name not in there} == {}
    for name, own in there.items():
        if "--json" in own and name in known:
            assert any(call.startswith(f"{name} ") or call == name for call in RECORD["calls"])


# --- the table ------------------------------------------------------------------------------------


def schema(home: Path) -> dict[str, Any]:
    """{table: {column: what SQLite knows of it}} and {index: its columns}."""
    table = sqlite3.connect(home / "results" / "spelltune.db")
    found: dict[str, Any] = {}
    rows = table.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
    for kind, name in ((kind, name) for kind, name, of in rows if of not in NEW_TABLES):
        if f"index {name}" in NEW_INDEXES:
            continue
        if kind == "index":
            found[f"index {name}"] = table.execute(f'PRAGMA index_xinfo("{name}")').fetchall()
        else:
            columns = table.execute(f'PRAGMA table_info("{name}")').fetchall()
            for _, column, *rest in columns:
                if (name, column) not in NEW_COLUMNS:
                    found[f"{name}.{column}"] = rest
            keys = table.execute(f'PRAGMA foreign_key_list("{name}")').fetchall()
            found[f"foreign keys of {name}"] = sorted(key[2:] for key in keys)
    table.close()
    return found


def test_an_old_table_is_brought_to_the_schema_of_a_new_one(store, old, tmp_path, monkeypatch):
    was = schema(old)
    assert schema(store[0]) == was
    monkeypatch.setenv("SPELLTUNE_HOME", str(tmp_path))
    assert spelltune("runs", tmp_path) == (0, "[]\n")
    new = schema(tmp_path)
    # Columns that a migration added have their defaults in another place.
    assert new.keys() == was.keys()
    assert {name: told[:2] for name, told in new.items()} == {
        name: told[:2] for name, told in was.items()
    }


# --- settings, words, environment -----------------------------------------------------------------


def test_a_sweep_file_may_have_every_key(store):
    code, text = spelltune(f"sweep plan {HERE / 'every_key.yaml'}", store[0])
    assert code == 0, text


def python_files() -> list[Path]:
    return [*(ROOT / "src").rglob("*.py"), *(ROOT / "pages").glob("*.py"), ROOT / "app.py"]


def test_status_words_are_the_same():
    words: dict[str, dict[str, str]] = {}
    for file in python_files():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.name in ("Status", "SweepStatus"):
                words[node.name] = {
                    line.targets[0].id: line.value.value
                    for line in node.body
                    if isinstance(line, ast.Assign)
                }
    runs = ["QUEUED", "STARTING", "RUNNING", "STOPPING", "STOPPED", "COMPLETED", "FAILED"]
    runs += ["INTERRUPTED", "CANCELLED"]
    assert words["Status"] == {word: word for word in runs}
    sweeps = ["ACTIVE", "PAUSED", "CANCELLED", "COMPLETED"]
    assert words["SweepStatus"] == {word: word for word in sweeps}


def test_the_environment_is_read_under_the_same_names():
    text = "\n".join(file.read_text() for file in python_files())
    names = {"HOME", "DATABASE_URL", "TIMEOUTS", "ALLOWED_HOSTS", "PROXY", "TOKEN", "THREADS"}
    names |= {"CUTE", "NOTIFY_URLS", "LOGIN"}
    assert {*re.findall(r"SPELLTUNE_([A-Z_]+)", text)} == names


# --- addresses ------------------------------------------------------------------------------------

ERRORS = [
    {"split": "test"}, {"step": "20"}, {"vs": "{whole-packed}"}, {"map": "Letters and lengths"},
    {"kind": "substitution"}, {"length": "4"}, {"distance": "1"}, {"find": "b"}, {"every": "true"},
    {"order": "expected, A to Z"}, {"at": "2"}, {"letter": "b"}, {"letters": "e>u"},
    {"word": "b e n t"},
]  # fmt: skip
ADDRESSES: dict[str, tuple[dict[str, str], list[dict[str, str]]]] = {
    "overview": ({}, [{"pick": "{failed}"}]),
    "monitor": ({}, [{"run": "{failed}"}]),
    "compare": ({"run": "{whole-trl} {whole-packed}"}, [{"view": "Runs"}, {"view": "Settings"}]),
    "errors": ({"run": "{whole-trl}"}, ERRORS),
    "launch": ({}, [{"preset": "tiny-correct"}, {"from": "{whole-trl}"}, {"lora.r": "5"}]),
    "sweeps": (
        {},
        [{"sweep": "{rates}"}, {"file": "seed-grid"}, {"budget": "7 trials"},
         {"space.lora.r": "3, 5"}],
    ),
}  # fmt: skip


def drawn(page: str, home: Path, query: dict[str, str]) -> str:
    """All that a page shows at an address."""
    test = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=120)
    ids = {f.name.rpartition("_")[0]: f.name for f in (home / "results/runs").iterdir()}
    ids["rates"] = "rates"
    for name, value in query.items():
        values = [part.strip("{}") for part in value.split()] if "{" in value else [value]
        values = [ids.get(part, part) for part in values]
        test.query_params[name] = values if len(values) > 1 else values[0]
    test.run()
    assert not test.exception, test.exception[0].message
    bodies = [str(element.proto) for element in test.get("html")]
    widgets = [(w.label, str(w.value)) for kind in ("selectbox", "text_input", "number_input",
               "segmented_control", "toggle", "text_area") for w in test.get(kind)]  # fmt: skip
    charts = [str(element.proto)[:100_000] for element in test.get("bidi_component")]
    return "\n".join([*bodies, *map(str, widgets), *charts])


@pytest.mark.parametrize(("page", "base", "query"), [
    (page, base, query) for page, (base, queries) in ADDRESSES.items() for query in queries
])  # fmt: skip
def test_an_address_still_means_something(store, page, base, query):
    assert drawn(page, store[0], base | query) != drawn(page, store[0], base)
