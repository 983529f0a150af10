"""Writes tests/golden/store.tar.xz and tests/golden/documents.json with the code of this tree.

    python -m tests.golden.make_fixture

Both were written by the code of commit fd6c598 and hold what its users have on their disks. Run
it again only where that promise is given up, and say so in the commit.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from tests.golden.commands import (
    ENVIRONMENT,
    HERE,
    ROOT,
    TRAINED,
    WRITTEN_AT,
    cpu,
    document,
    documents,
    unpack,
)

HOME = Path(WRITTEN_AT)
OWN = {**ENVIRONMENT, "SPELLTUNE_HOME": WRITTEN_AT}
SETTINGS = {
    "backend": "peft",
    "engine": "trl",
    "model.name": "spelltune-tiny",
    "lora.r": 1,
    "lora.alpha": 16,
    "lora.dropout": 0.1,
    "lora.target_modules": ["c_attn"],
    "data.path": str(HOME / "words"),
    "training.max_steps": 40,
    "training.per_device_train_batch_size": 16,
    "training.learning_rate": 1e-2,
    "training.logging_steps": 4,
    "scheduler.warmup_steps": 4,
    "evaluation.eval_steps": 20,
    "checkpointing.save_steps": 20,
    "early_stopping.patience": None,
    "tracking.mode": "off",
}
SWEEP = """name: rates
base:
  overrides:
{overrides}
method: grid
metric: val/exact_match
space:
  training.learning_rate: [0.001, 0.01]
seeds: 2
"""


def spelltune(*arguments: str, fails: bool = False) -> str:
    """Standard output of a command."""
    answer = subprocess.run(
        [sys.executable, "-m", "src.cli", *arguments],
        cwd=ROOT, env=os.environ | OWN, capture_output=True, text=True,
    )  # fmt: skip
    if bool(answer.returncode) != fails:
        raise SystemExit(f"{arguments} ended with {answer.returncode}\n{answer.stderr}")
    return answer.stdout


def sets(name: str, **changes: object) -> list[str]:
    values = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return [f"--set={key}={json.dumps(v)}" for key, v in ({"name": name} | values).items()]


def column(name: str, of: str) -> object:
    with sqlite3.connect(HOME / "results" / "spelltune.db") as table:
        found = table.execute(f"SELECT {of} FROM run WHERE name = ?", [name]).fetchone()
    table.close()
    return found and found[0]


def write_words() -> None:
    """Made-up words to spell: 60 to train on, 20 to choose by, 20 to judge by."""
    made = [f"{a}{b}{c}t" for a in "bdfglmnprs" for b in "aeiou" for c in "nk"]
    words = sorted(made, key=lambda word: word[::-1])
    (HOME / "words").mkdir(parents=True)
    for split, few in (("train", words[:60]), ("validation", words[60:80]), ("test", words[80:])):
        rows = [{"question": f"Spell the word: {word}", "answer": " ".join(word)} for word in few]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (HOME / "words" / f"{split}.jsonl").write_text(lines)


def stop_midway(name: str, engine: str) -> None:
    spelltune("launch", *sets(name, engine=engine))
    while (column(name, "step") or 0) < 4:
        time.sleep(0.05)
    spelltune("stop", name)
    while column(name, "status") != "STOPPED":
        assert column(name, "status") in ("RUNNING", "STOPPING"), column(name, "reason")
        time.sleep(0.1)


def fill() -> None:
    write_words()
    for engine in ("trl", "packed"):
        spelltune("launch", "--wait", *sets(f"whole-{engine}", engine=engine))
        stop_midway(f"stopped-{engine}", engine)
    diverges = {"optimizer__name": "sgd", "training__learning_rate": 10, "lora__alpha": 4096,
                "training__max_grad_norm": 1e9}  # fmt: skip
    spelltune("launch", "--wait", *sets("failed", **diverges), fails=True)
    spelltune("fork", "whole-trl", "--from=20", "--wait", "--set=name=forked",
              "--set=training.max_steps=24")  # fmt: skip
    with sqlite3.connect(HOME / "results" / "spelltune.db") as table:
        table.execute("UPDATE run SET tags = ?, notes = ? WHERE name = 'whole-trl'",
                      ['["kept"]', "a note"])  # fmt: skip
    table.close()
    nested: dict[str, dict[str, object]] = {}
    for name, value in (SETTINGS | {"model.load_in_4bit": False}).items():
        section, _, leaf = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = value  # type: ignore
    (HOME / "config.yaml").write_text(json.dumps(nested))
    (HOME / "wrong.yaml").write_text("lora: {r: 0}\n")
    changes = {"engine": "packed", "pack_size": 4, "training.max_steps": 4}
    base = {k: v for k, v in (SETTINGS | changes).items() if k != "training.learning_rate"}
    overrides = "\n".join(f"    {name}: {json.dumps(value)}" for name, value in base.items())
    file = HOME / "rates.yaml"
    file.write_text(SWEEP.format(overrides=overrides))
    spelltune("sweep", "launch", str(file))
    while json.loads(spelltune("sweep", "show", "rates", "--json"))["status"] == "ACTIVE":
        time.sleep(1)


def pack() -> None:
    """The store as one file, without what every process makes anew."""
    for reserve in (HOME / "results").glob(".reserve*"):
        reserve.unlink()
    shutil.rmtree(HOME / "results" / "locks")
    with tarfile.open(HERE / "store.tar.xz", "w:xz") as archive:
        for part in sorted(HOME.iterdir()):
            archive.add(part, part.name)


def record() -> None:
    """The documents of all calls, on the store as a test finds it."""
    moved = HOME.with_name(f"{HOME.name}-moved")
    shutil.rmtree(moved, ignore_errors=True)
    moved.mkdir()
    os.environ |= ENVIRONMENT | {"SPELLTUNE_HOME": str(moved)}
    unpack(moved)
    calls = {call: document(call, moved) for call in TRAINED} | documents(moved)
    found = {"cpu": cpu(), "calls": calls}
    (HERE / "documents.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    os.umask(0o077)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # trainers use one thread per core
    shutil.rmtree(HOME, ignore_errors=True)
    fill()
    pack()
    record()
