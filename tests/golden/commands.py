"""The calls of `spelltune` whose documents are held, on the store that make_fixture.py wrote.

Names no module of src: what is held is what people and programs outside see.
"""

import contextlib
import importlib
import json
import math
import os
import shlex
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WRITTEN_AT = "/tmp/spelltune-golden"  # home of the store when it was written
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "SPELLTUNE_DATABASE_URL": "",
}

# Of these nothing may differ: they tell of what lies on the disk.
RECORDED = [
    "runs",
    *(f"show {name}" for name in ("whole-trl", "whole-packed", "stopped-trl", "stopped-packed")),
    *(f"show {name}" for name in ("failed", "forked", "'rates 0'")),
    "metrics failed",
    "compare whole-trl forked",
    "compare 'rates 0' 'rates 1' 'rates 2' 'rates 3'",
    "errors whole-trl",
    "errors whole-trl@40 --split test",
    "errors whole-trl --all --split test",
    "errors whole-trl --vs whole-packed",
    "checkpoints whole-trl",
    "checkpoints stopped-packed",
    "preview {home}/config.yaml",
    "sweep list",
    "sweep show rates",
    "sweep export rates",
    "export whole-trl whole-packed --format json",
    "reconcile",
]
# These do or measure something: the keys, the types and the exit code are held.
DONE = [
    "doctor",
    "launch {home}/config.yaml {home}/config.yaml --dry-run",
    "evaluate whole-trl --data {home}/words/test.jsonl",
    "merge whole-trl@20 --to {home}/merged",
    "capsule whole-trl --output {home}/whole.zip",
    "push whole-trl --repo me/speller --dry-run",
]
# The same, of calls that train.
TRAINED = [
    "preflight {home}/config.yaml",
    "resume stopped-trl --wait",
    "resume stopped-packed --wait",
]
# The same, while no slot is free: what is queued stays so.
QUEUED = [
    "launch {home}/config.yaml --set name=one",
    "launch {home}/config.yaml {home}/wrong.yaml --set name=two",
    "fork whole-trl --from 20 --set name=three",
    "first three one",
    "hold one",
    "release one",
    "stop one",
    "resume failed",
    "delete whole-packed@20 --yes",
    "delete forked --yes",
    "sweep plan {home}/rates.yaml",
    "sweep launch {home}/rates.yaml --budget '3 trials'",
    "sweep pause rates",
    "sweep resume rates",
    "sweep add rates '1 trials'",
    "sweep cancel rates",
]
REFUSED = [
    "show nobody",
    "show whole-trl@20 --nothing",
    "compare whole-trl",
    "launch --set lora.rank=16",
    "launch {home}/wrong.yaml",
    "errors failed --split test",
    "resume whole-trl",
    "sweep show nothing",
    "export whole-trl --format docx",
    "merge whole-trl --to {home}/words",
]

# Keys of documents and files, and columns of tables, that came since; nothing may go.
NEW_KEYS = {"end_reason", "confirmed_rank", "scoring", "failed_starts"}
NEW_KEYS |= {"data_fingerprint", "searched", "of_seeds", "notes", "lost"}  # of sweeps and compare
NEW_KEYS |= {"look", "under_way"}  # of the verdicts of compare and of a sweep
NEW_KEYS |= {"right_words", "length_spread", "score_right_words"}
NEW_KEYS |= {"model", "scores", "kinds", "base_predicted", "base_correct"}  # of evaluate
NEW_KEYS |= {
    "cut_by",
    "labels",
    "unseen_labels",
    "not_composed",
    "kind",
}  # of the preview, and "lost"
NEW_KEYS |= {"imports", "standby_trainers", "lease", "locks"}  # of doctor
NEW_KEYS |= {"standby_minutes"}  # of supervision, in a config
NEW_KEYS |= {"router_aux_loss_coef"}  # of the arguments of TRL that were used
NEW_KEYS |= {"trainer_seconds", "tokens"}  # of what a run used, and its metrics
NEW_KEYS |= {"driver_started_at", "failed_at"}  # of sweeps
NEW_KEYS |= {"number"}  # of run.json
NEW_KEYS |= {"arithmetic", "vectors"}  # of checkpoints; arithmetic of packed runs
NEW_KEYS |= {"suites", "suite_every", "suite_rows", "suite_seen_rows"}  # of a config's evaluation
NEW_KEYS |= {"separator", "phrasings", "held_out_phrasings"}  # of a config's data
NEW_KEYS |= {"multi_token_words"}  # of a config's data, and of the preview
NEW_KEYS |= {"mix"}  # of a config's data
NEW_KEYS |= {"corrections"}  # of the preview
NEW_KEYS |= {"rows_by_task"}  # of the preview, and of what a run used
NEW_KEYS |= {"task"}  # of a prediction
NEW_KEYS |= {"system_prompt"}  # of a config's data
NEW_KEYS |= {"study"}  # of compare, which has "suites" too
NEW_KEYS |= {"suite", "left_out", "examples", "decoding", "answers"}  # of evaluate
NEW_KEYS |= {"program", "size_bytes"}  # of merge
NEW_KEYS |= {"archived_at", "tags", "config_key"}  # of runs, run.json and show
NEW_KEYS |= {"machine_seconds", "energy_wh", "cost"}  # of show, sweep show, and run.json
NEW_KEYS |= {"constant"}  # of the configs and suites of compare
NEW_KEYS |= {"starts_in_seconds", "seconds_left"}  # of show
NEW_KEYS |= {"earlier_seconds", "seconds"}  # of run.json; of runs and show
NEW_KEYS |= {"started_at"}  # of the trials of a sweep
NEW_COLUMNS = {("run", "end_reason"), ("run", "confirmed_rank"), ("run", "failed_starts")}
NEW_COLUMNS |= {("run", "archived_at"), ("run", "config_key")}
NEW_COLUMNS |= {("sweep", "failed_starts"), ("sweep", "driver_started_at"), ("sweep", "failed_at")}
NEW_INDEXES = {"index listed_runs"}

NEW_TABLES = {"notice", "machine_sample"}
NEW_COLUMNS |= {("run", "machine_seconds"), ("run", "energy_wh"), ("run", "earlier_seconds")}

RECORD = json.loads((HERE / "documents.json").read_text())
NUMBER = (int, float)


def spelltune(arguments: str, home: Path) -> tuple[int, str]:
    """Exit code and standard output of one call in this process."""
    module, _, name = scripts()["spelltune"].partition(":")
    app = getattr(importlib.import_module(module), name)
    words = [word.format(home=home) for word in shlex.split(arguments)]
    if not arguments.startswith("export"):
        words.append("--json")
    result = CliRunner().invoke(app, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        traceback.print_exception(result.exception)
        return 1, json.dumps(repr(result.exception))
    return result.exit_code, result.stdout


def scripts() -> dict[str, str]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def document(arguments: str, home: Path) -> dict[str, Any]:
    """The exit code and the JSON document of one call, its paths as in the recorded one."""
    code, text = spelltune(arguments, home)
    text = text.replace(str(home), "HOME").replace(str(ROOT), "ROOT")
    return {"exit": code, "document": json.loads(text) if text else None}


def cpu() -> str:
    """The processor's name and the width of its vectors: another one may round otherwise."""
    told: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    flags = told.get("flags", "").split()
    wide = next((flag for flag in ("avx512f", "avx2") if flag in flags), "no AVX2")
    return f"{told.get('model name', '')} {wide}"


def unpack(home: Path) -> None:
    """The store in `home`, as if it had been written there."""
    with tarfile.open(HERE / "store.tar.xz") as archive:
        archive.extractall(home, filter="data")
    for file in home.rglob("*"):
        if file.suffix in (".json", ".yaml", ".jsonl", ".log") and "checkpoints" not in file.parts:
            file.write_text(file.read_text().replace(WRITTEN_AT, str(home)))
    table = sqlite3.connect(home / "results" / "spelltune.db")
    tables = [
        name for (name,) in table.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    for name in tables:
        for column in [row[1] for row in table.execute(f'PRAGMA table_info("{name}")')]:
            moved = f'UPDATE "{name}" SET "{column}" = replace("{column}", ?, ?) '
            table.execute(moved + f"WHERE typeof(\"{column}\") = 'text'", (WRITTEN_AT, str(home)))
    # The folder that it was launched from, which the recorded documents name ROOT.
    table.execute("UPDATE sweep SET folder = ?", (str(ROOT),))
    table.commit()
    table.close()


@contextlib.contextmanager
def no_slot_free(home: Path) -> Iterator[None]:
    """Another process holds the slots."""
    folder = home / "results" / "locks"
    folder.mkdir(exist_ok=True)
    hold = (
        "import fcntl, sys; files = [open(name, 'w') for name in sys.argv[1:]];"
        "[fcntl.lockf(file, fcntl.LOCK_EX) for file in files]; print(flush=True); sys.stdin.read()"
    )
    names = [str(folder / f"slot-{number}.lock") for number in range(16)]
    with subprocess.Popen(
        [sys.executable, "-c", hold, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout and holder.stdin
        holder.stdout.readline()
        yield
        holder.stdin.close()


def kill_all(home: Path) -> None:
    """SIGKILL to every process that works for this home."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            own = process.pid == os.getpid()
            if not own and process.environ().get("SPELLTUNE_HOME") == str(home):
                process.kill()
                process.wait(120)


def documents(home: Path) -> dict[str, dict[str, Any]]:
    """{call: its exit code and document}, all on one store; without those that train."""
    found = {call: document(call, home) for call in [*RECORDED, *DONE]}
    with no_slot_free(home):
        found |= {call: document(call, home) for call in [*QUEUED, *REFUSED]}
        kill_all(home)
    return found


@contextlib.contextmanager
def unpacked(home: Path) -> Iterator[Path]:
    """The old store in `home`, which is this process's home meanwhile."""
    unpack(home)
    cores = os.sched_getaffinity(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ENVIRONMENT | {"SPELLTUNE_HOME": str(home)}).items():
            patch.setenv(name, value)
        os.sched_setaffinity(0, {min(cores)})  # as many threads as when it was written
        try:
            yield home
        finally:
            os.sched_setaffinity(0, cores)
            kill_all(home)


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


def same_keys(call: str, new: dict[str, Any]) -> None:
    old = RECORD["calls"][call]
    assert new["exit"] == old["exit"], new
    found = differences(old["document"], new["document"], values=False)
    assert not found, found
