"""The notebooks run from their first cell to their last on a store that is made here.

`SPELLTUNE_KEEP_OUTPUTS=1` writes what they show into the files, for readers who do not run them.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from src.paths import CONFIGS, ROOT
from src.runs import machine
from src.runs.locks import FileLock
from src.store.tables import Status
from tests.helpers import live
from tests.helpers.store import MISSPELLED, fill_predictions, fill_run, fill_sweep

pytestmark = pytest.mark.slow

NOTEBOOKS = ROOT / "notebooks"
MOST_BYTES = 40_000


def execute(name: str, folder: Path, *, keep: bool = True, **parameters: Any) -> str:
    """Run a notebook with other values for its parameters; all that it printed and showed."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "colab" in tags:
            cell.source = "pass  # needs Colab"
        if "parameters" in tags:
            cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}, record_timing=False
    )
    client.execute()
    shown = "\n".join(
        text if isinstance(text, str) else json.dumps(text)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for text in (output.get("text"), *output.get("data", {}).values())
        if text
    )
    assert "Traceback" not in shown
    if keep and os.environ.get("SPELLTUNE_KEEP_OUTPUTS"):
        for cell, source in zip(notebook.cells, sources, strict=True):
            cell.source = source
            if cell.cell_type == "code":  # a library's warnings are no result
                cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
    return shown


@pytest.fixture(autouse=True)
def kernel(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel of this Python that finds src and the command, and keeps its files in the home."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    command = tmp_path / "bin" / "spelltune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m src.cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")


def test_the_monitor_shows_a_stopped_run_and_resumes_it(home: Path) -> None:
    run_id = fill_run(status=Status.STOPPED, steps=300, reason="stopped at step 300")
    slot = FileLock(machine.slot_lock(0))
    assert slot.acquire()  # so that the resumed run waits in the queue
    shown = execute("training_monitor", home)
    assert f"{run_id} STOPPED 300 of 600 steps" in shown
    assert "resumes from step 300" in shown and "nats per token" in shown
    assert live.row(run_id).status == Status.QUEUED
    execute("training_monitor", home, keep=False, RUN=fill_run(), STOP=True)
    slot.release()


def with_wrong(count: int) -> list[tuple[str, str, str]]:
    """The same questions for every run, of which so many are answered wrong."""
    known = MISSPELLED
    return known[:count] + [(asked, expected, expected) for asked, expected, _ in known[count:]]


def test_performance_compares_two_configs_and_reads_a_sweep(home: Path) -> None:
    fill_sweep(CONFIGS / "sweeps" / "tiny.yaml")
    for rank, wrong in ((8, 12), (16, 4)):
        for seed in range(3):
            settings = {"name": f"rank {rank}", "lora__r": rank, "training__seed": seed}
            fill_run(words=with_wrong(wrong - seed % 2), rows=60, **settings)
    shown = execute("performance_analysis", home)
    assert "rank 16 spells 13.3 points better than rank 8" in shown
    assert "360 predictions" in shown
    assert "{'completed': 24}" in shown and "lora.r " in shown


def test_error_analysis_tells_what_was_fixed(home: Path) -> None:
    run_id = fill_run(words=with_wrong(5), rows=60)
    fill_predictions(run_id, 100, MISSPELLED, rows=60)
    shown = execute("error_analysis", home)
    assert "5 of 60 wrong; compared with step 100" in shown
    assert "fixed" in shown and "-> never" in shown


def test_colab_trains_and_finds_its_run_after_a_disconnect(
    home: Path, base: Path, data: Path
) -> None:
    few = live.FEW | {"backend": "peft", "model.name": base / "gpt2"}
    sets = " ".join(live.sets(data, few | {"evaluation.max_new_tokens": 4, "tracking.mode": "off"}))
    settings = sets.replace("--set=", "--set ")
    assert "COMPLETED" in execute("colab", home, keep=False, SETTINGS=settings)
    # A second time, as after a disconnect: nothing is trained again.
    shown = execute("colab", home, keep=False, SETTINGS=settings)
    assert "COMPLETED" in shown
    assert len(json.loads(live.command("runs", "--json").stdout)) == 1


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_is_kept_is_small_and_tells_nothing_of_a_machine(file: Path) -> None:
    text = file.read_text()
    assert len(text) < MOST_BYTES
    assert not re.search(r"/tmp/|/home/|/root/|Traceback", text)
    cells = json.loads(text)["cells"]
    kept = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    assert file.stem == "colab" or sum(map(bool, kept)) > 4
