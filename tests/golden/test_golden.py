"""What users have on their disks and in their scripts: it goes on to work as it did.

The store and the documents were written by commit fd6c598. Nothing here names a module of src.
"""

import ast
import importlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from safetensors.numpy import load_file
from streamlit.testing.v1 import AppTest

from tests.golden.commands import (
    DONE,
    ENVIRONMENT,
    HERE,
    QUEUED,
    RECORDED,
    REFUSED,
    ROOT,
    cpu,
    documents,
    kill_all,
    scripts,
    spelltune,
    unpack,
)

# Keys of documents and files, and columns of tables, that came since; nothing may go.
NEW_KEYS = {"end_reason", "confirmed_rank", "scoring"}
NEW_COLUMNS = {("run", "end_reason"), ("run", "confirmed_rank")}

RECORD = json.loads((HERE / "documents.json").read_text())
NUMBER = (int, float)


def differences(old: Any, new: Any, *, values: bool, at: str = "") -> list[str]:
    """Where two documents differ in their keys and types, and with `values` in those too."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [f"{at}.{key} is gone" for key in old.keys() - new.keys()]
        found += [f"{at}.{key} is new" for key in new.keys() - old.keys() - NEW_KEYS]
        for key in old.keys() & new.keys():
            found += differences(old[key], new[key], values=values, at=f"{at}.{key}")
        return found
    if isinstance(old, list) and isinstance(new, list):
        if len(old) == len(new):
            pairs = list(zip(old, new, strict=True))
        elif values:
            return [f"{at} has {len(new)} entries; it had {len(old)}"]
        else:
            pairs = [(old[0], one) for one in new] if old else []
        return [
            text
            for place, (a, b) in enumerate(pairs)
            for text in differences(a, b, values=values, at=f"{at}[{place}]")
        ]
    if values and isinstance(old, float) and isinstance(new, float):
        return [] if math.isclose(old, new, rel_tol=1e-6) else [f"{at} is {new}; it was {old}"]
    if values:
        return [] if old == new else [f"{at} is {new!r}; it was {old!r}"]
    alike = old is None or new is None or type(old) is type(new)
    numbers = isinstance(old, NUMBER) and isinstance(new, NUMBER)
    return [] if alike or numbers else [f"{at} is {new!r}; it was {old!r}"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The home of the old store, in which every call was made once, and what they answered."""
    home = tmp_path_factory.mktemp("golden")
    unpack(home)
    cores = os.sched_getaffinity(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ENVIRONMENT | {"SPELLTUNE_HOME": str(home)}).items():
            patch.setenv(name, value)
        os.sched_setaffinity(0, {min(cores)})  # as many threads as when it was written
        try:
            yield home, documents(home)
        finally:
            os.sched_setaffinity(0, cores)
            kill_all(home)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old store as it was left."""
    folder = tmp_path_factory.mktemp("old")
    unpack(folder)
    return folder


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", RECORDED)
def test_what_lies_on_the_disk_is_told_as_before(store, call):
    assert not differences(RECORD["calls"][call], store[1][call], values=True)


@pytest.mark.parametrize("call", [*DONE, *QUEUED, *REFUSED])
def test_a_command_answers_with_the_same_keys_and_exit_code(store, call):
    old, new = RECORD["calls"][call], store[1][call]
    assert new["exit"] == old["exit"]
    assert not differences(old["document"], new["document"], values=False)


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
        if "--json" in own:
            assert any(call.startswith(f"{name} ") or call == name for call in RECORD["calls"])


# --- a run that goes on ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_a_stopped_run_of_the_old_store_ends_as_the_undisturbed_one(store, engine):
    home, _ = store
    resumed, whole = (
        load_file(
            folder(home, f"{name}-{engine}", "results/runs") / "final/adapter_model.safetensors"
        )
        for name in ("stopped", "whole")
    )
    assert resumed.keys() == whole.keys()
    same_cpu = cpu() == RECORD["cpu"]
    for name in whole:
        if same_cpu:
            assert np.array_equal(resumed[name], whole[name])
        else:
            assert np.allclose(resumed[name], whole[name], rtol=1e-5, atol=1e-8)


def folder(home: Path, name: str, under: str) -> Path:
    return next((home / under).glob(f"{name}_*"))


FILES = (
    "results/runs/{}/**/*",
    "checkpoints/{}/**/*",
    "results/error_analysis/{}/*",
    "results/training_logs/{}.*",
    "results/metrics/{}.json",
)


def files_of(home: Path, name: str) -> set[str]:
    """Every file of a run, without its id and with steps that depend on when it was stopped as
    20."""
    run_id = folder(home, name, "results/runs").name
    found = (str(f.relative_to(home)) for glob in FILES for f in home.glob(glob.format(run_id)))
    return {re.sub(r"step-(16|21)\b", "step-20", one.replace(run_id, "RUN")) for one in found}


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_a_run_leaves_the_same_files(store, old, engine):
    files = files_of(old, f"whole-{engine}") - {"checkpoints/RUN/step-20.fork"}
    assert files_of(store[0], f"stopped-{engine}") == files


@pytest.mark.parametrize("engine", ["trl", "packed"])
@pytest.mark.parametrize(
    "file",
    [
        "results/runs/{}/result.json",
        "results/runs/{}/run.json",
        "results/runs/{}/eval_results.yaml",
        "results/metrics/{}.json",
        "results/training_logs/{}.jsonl",
        "checkpoints/{}/step-40/MANIFEST.json",
        "checkpoints/{}/step-40/trainer_state.json",
        "checkpoints/{}/step-40/adapter_config.json",
    ],
)
def test_a_file_of_a_run_has_the_same_keys(store, old, engine, file):
    def read(home: Path, name: str) -> Any:
        run_id = folder(home, f"{name}-{engine}", "results/runs").name
        text = (home / file.format(run_id)).read_text()
        if file.endswith(".jsonl"):
            return json.loads(text.splitlines()[0])
        document = yaml.safe_load(text)
        if file.endswith("run.json"):
            document["run"]["used"].pop("resume", None)  # only a run that was resumed has it
        return document

    assert not differences(read(old, "whole"), read(store[0], "stopped"), values=False)


def test_the_summary_has_the_same_keys(store, old):
    was, now = (
        {
            entry["run"].rpartition("_")[0]: entry
            for entry in yaml.safe_load(
                (home / "results/experiment_results_summary.yaml").read_text()
            )["experiments"]
        }
        for home in (old, store[0])
    )
    for engine in ("trl", "packed"):
        assert not differences(was[f"whole-{engine}"], now[f"stopped-{engine}"], values=False)


# --- the table ------------------------------------------------------------------------------------


def schema(home: Path) -> dict[str, Any]:
    """{table: {column: what SQLite knows of it}} and {index: its columns}."""
    table = sqlite3.connect(home / "results" / "spelltune.db")
    found: dict[str, Any] = {}
    for kind, name in table.execute("SELECT type, name FROM sqlite_master").fetchall():
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
