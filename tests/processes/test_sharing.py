"""What leaves this machine: capsules that replay elsewhere, and folders for the hub."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from starlette.applications import Starlette

from src import paths, store
from src.analysis import capsule
from src.analysis.capsule import CannotPack
from src.analysis.misspellings import read as read_predictions
from src.files import bytes_of
from src.models.gguf.header import read_header
from src.models.metrics import METRICS, PARTIAL
from src.panel.server import routes
from src.paths import ROOT
from src.runs import exporting
from src.runs.exporting import Form
from src.runs.locks import FileLock
from src.runs.timeouts import TIMEOUTS
from src.store.tables import Status
from tests.helpers import live
from tests.helpers.browser import wait_for
from tests.helpers.store import fill_run

CANARY = "canary-58d0e7b4"
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
           "SPELLTUNE_NOTIFY_URLS")  # fmt: skip


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run, `mine`, that completed four steps with secrets in its environment."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        for name in SECRETS:
            patch.setenv(name, CANARY)
        few = live.FEW | {
            "name": "mine",
            "backend": "peft",
            "model.name": str(base / "gpt2"),
            "evaluation.max_new_tokens": 4,
            "tracking.mode": "off",
        }
        run_id = live.launch(live.words(home), **few)
        assert live.wait(run_id, live.ended).status == Status.COMPLETED
    return home


@pytest.fixture
def run_id(made: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SPELLTUNE_HOME", str(made))
    return live.row("mine").id


@pytest.mark.slow
def test_a_capsule_replays_on_another_clean_copy(
    run_id: str, made: Path, base: Path, tmp_path: Path
) -> None:
    zipped = tmp_path / "mine.zip"
    live.command("capsule", "mine", "--output", str(zipped))
    with zipfile.ZipFile(zipped) as packed:
        packed.extractall(tmp_path)
    folder = tmp_path / run_id
    for file in (file for file in folder.rglob("*") if file.suffix != ".safetensors"):
        assert file.is_dir() or str(made).encode() not in file.read_bytes(), file
    about = json.loads((folder / "capsule.json").read_text())
    assert about["seed"] == 42 and about["versions"]["torch"] and about["data_fingerprint"]

    copy = tmp_path / "copy"
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, copy / name)
    environment = os.environ | {"SPELLTUNE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(copy)}

    def replay(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, str(folder / "replay.py"), "--model", str(base / "gpt2"), *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    done = replay()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and all("agrees" in line for line in lines), done.stdout
    # On the machine that made it the scores are the very same.
    for line in lines:
        then, now = line.partition(": ")[2].split(", ")[:2]
        assert then.split()[0] == now.split()[0]

    # Another score than the one that was promised, and a file that was changed.
    about["scores"]["test/loss"] += 1
    (folder / "capsule.json").write_text(json.dumps(about))
    wrong = replay("--adapter-only")
    assert wrong.returncode == 1 and "DIFFERS" in wrong.stdout
    (folder / "config.yaml").write_text("")
    assert "config.yaml is not as it was packed" in replay("--adapter-only").stderr


def test_no_secret_leaves_with_a_run(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    live.command("capsule", "mine", "--output", str(tmp_path / "mine.zip"))
    with zipfile.ZipFile(tmp_path / "mine.zip") as packed:
        packed.extractall(tmp_path / "capsule")
    for kind in ("csv", "json", "parquet"):
        file = tmp_path / f"words.{kind}"
        live.command("export", "mine", "--format", kind, "--output", str(file))
    live.command("push", "mine", "--repo", "me/speller", "--dry-run")
    left = [*tmp_path.rglob("*"), *(paths.output_dir(run_id) / "hub").rglob("*")]
    files = [file for file in left if file.is_file()]
    assert len(files) > 15
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []


def test_what_makes_no_capsule_says_why(home: Path) -> None:
    stopped = live.row(fill_run(status=Status.STOPPED, steps=20))
    with pytest.raises(CannotPack, match="is STOPPED: only a completed run"):
        capsule.write(stopped, home / "x.zip")
    other = live.row(fill_run())
    with pytest.raises(CannotPack, match="are not those that it was trained on"):
        capsule.write(other, home / "x.zip")
    assert not (home / "x.zip").exists()


@pytest.mark.parametrize("merged", [False, True])
def test_a_dry_run_writes_the_folder_for_the_hub_without_a_network(
    run_id: str, base: Path, merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens there: a request would fail.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    options = ["--repo", "me/speller", "--dry-run", "--json", *(["--merged"] if merged else [])]
    told = json.loads(live.command("push", "mine", *options).stdout)
    folder = Path(told["folder"])
    assert told["url"] is None and folder == paths.output_dir(run_id) / "hub"
    weights = "model.safetensors" if merged else "adapter_model.safetensors"
    assert {weights, "README.md", "tokenizer.json"} <= set(told["files"])
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == ("transformers" if merged else "peft")
    (result,) = head["model-index"][0]["results"]
    assert {m["type"] for m in result["metrics"]} == set(METRICS) - set(PARTIAL)
    assert str(base) not in card and "Spell the word: " in card
    if merged:
        from transformers import AutoModelForCausalLM

        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    else:
        known = json.loads((folder / "adapter_config.json").read_text())
        assert known["base_model_name_or_path"] == "gpt2"


def test_a_push_without_a_network_or_a_token_is_a_sentence(
    run_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    without = live.command("push", "mine", "--repo", "me/speller", check=False)
    assert without.returncode == 2 and "Traceback" not in without.stderr, without.stderr
    assert "no token for the hub here: `hf auth login`" in " ".join(without.stderr.split())
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    cut_off = live.command("push", "mine", "--repo", "me/speller", check=False)
    assert cut_off.returncode == 2 and "the hub cannot be reached" in cut_off.stderr
    assert "xxxx" not in cut_off.stderr


def test_a_merged_model_is_one_gguf_file_and_a_modelfile(run_id: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    options = ["mine", "--gguf", "q8_0", "--to", str(file)]
    told = json.loads(live.command("merge", *options, "--json").stdout)
    modelfile = tmp_path / "mine.Modelfile"
    assert told.pop("program").startswith(f"# First, in another terminal: llama-server -m {file}")
    assert told == {
        "id": run_id,
        "step": None,
        "path": str(file),
        "modelfile": str(modelfile),
        "size_bytes": file.stat().st_size,
        "command": f"ollama create mine -f {modelfile}",
    }
    header = read_header(file)
    assert header.architecture == "gpt2" and header.metadata["general.name"] == "mine"
    assert modelfile.read_text().startswith("FROM ./mine.gguf\nTEMPLATE ")
    for wrong, why in ((options, "already exists"), ([*options[:-1], "x.bin"], ".gguf")):
        refused = live.command("merge", *wrong, check=False)
        assert refused.returncode == 2 and why in refused.stderr


def first_answer(run_id: str) -> tuple[str, str]:
    """The first test question of a run, and what it answered."""
    with store.reading() as session:
        evaluation = store.final_evaluation(session, store.find(session, run_id), split="test")
    assert evaluation is not None
    row = read_predictions(evaluation.path).iloc[0]
    return str(row["question"]), str(row["predicted"])


def printed_by(program: str, folder: Path) -> str:
    """What a program prints, in a process that does not know Spelltune."""
    file = folder / "program.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, "-I", str(file)], cwd=folder, capture_output=True,
                          text=True, env={"HF_HUB_OFFLINE": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_adapter_is_a_zip_whose_program_answers_as_the_run_did(
    run_id: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.zip"
    told = json.loads(live.command("adapter", "mine", "--to", str(file), "--json").stdout)
    assert (told["path"], told["size_bytes"]) == (str(file), file.stat().st_size)
    with zipfile.ZipFile(file) as packed:
        assert packed.testzip() is None
        packed.extractall(file.with_suffix(""))
    folder = file.with_suffix("") / run_id
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= names
    assert not {"MANIFEST.json", "optimizer.pt"} & names
    question, answer = first_answer(run_id)
    assert json.dumps(question) in told["program"]
    assert printed_by(told["program"], tmp_path) == answer.strip()
    again = live.command("adapter", "mine", "--to", str(file), check=False)
    assert again.returncode == 2 and "already exists" in again.stderr


def test_a_merged_model_has_a_program_that_answers_as_the_run_did(
    run_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "merged"
    told = json.loads(live.command("merge", "mine", "--to", str(folder), "--json").stdout)
    assert told["size_bytes"] == bytes_of(folder) > 10_000
    assert printed_by(told["program"], tmp_path) == first_answer(run_id)[1].strip()


def test_a_checkpoint_leaves_without_what_only_a_resume_needs(run_id: str, tmp_path: Path) -> None:
    options = ["--repo", "me/speller", "--dry-run", "--json"]
    told = json.loads(live.command("push", "mine@4", *options).stdout)
    assert "adapter_model.safetensors" in told["files"]
    assert not {"optimizer.pt", "rng_state.pth", "trainer_state.json"} & set(told["files"])
    card = (Path(told["folder"]) / "README.md").read_text()
    assert "adapter of step 4" in card and "What it still gets wrong" not in card


# --- exports by a process of their own, as the panel has them written -----------------------------


def fetched(address: str) -> httpx.Response:
    """What the panel's server answers to an address below exports/."""

    async def get() -> httpx.Response:
        app = httpx.ASGITransport(Starlette(routes=routes()))
        async with httpx.AsyncClient(transport=app, base_url="http://localhost") as browser:
            return await browser.get(f"/exports/{address}")

    return asyncio.run(get())


def waited(run_id: str, step: int | None, what: str) -> exporting.Export:
    """An export once its process has ended."""
    while (found := exporting.look(run_id, step, what)).writing:
        time.sleep(0.05)
    return found


def test_an_export_is_written_by_a_process_and_given_to_a_browser(
    run_id: str, tmp_path: Path
) -> None:
    absent = fetched(f"{run_id}/q8_0")
    assert absent.status_code == 404 and "write it first" in absent.text
    for form in (Form.MERGED, Form.Q8_0):
        assert exporting.look(run_id, None, form) == exporting.Export()
        exporting.start(run_id, None, form)
        assert exporting.look(run_id, None, form).writing
        found = waited(run_id, None, form)
        assert (found.path, found.problem) == (exporting.path_of(run_id, None, form), None)
    gguf = fetched(f"{run_id}/q8_0")
    assert gguf.content == exporting.path_of(run_id, None, Form.Q8_0).read_bytes()
    assert gguf.headers["content-disposition"] == f'attachment; filename="{run_id}.q8_0.gguf"'
    modelfile = fetched(f"{run_id}/q8_0-modelfile").text
    assert modelfile.startswith(f"FROM ./{run_id}.q8_0.gguf\n")
    for what, ending in (("merged", ""), ("adapter", ""), ("adapter", "?step=4")):
        zipped = tmp_path / "download.zip"
        zipped.write_bytes(fetched(f"{run_id}/{what}{ending}").content)
        with zipfile.ZipFile(zipped) as packed:
            assert packed.testzip() is None
            names = {Path(name).name for name in packed.namelist()}
        weights = "model.safetensors" if what == "merged" else "adapter_model.safetensors"
        assert {weights, "tokenizer.json"} <= names


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nobody/adapter", "no run"),
        ("mine/adapter?step=77", "verified are: 2, 4"),
        ("mine/adapter?step=x", "'x' is no step"),
        ("mine/run.json", "there is no export 'run.json'"),
        ("mine/..%2Frun.json", "Not Found"),
        ("..%2F..%2Fetc/passwd", "Not Found"),
    ],
)
def test_an_address_of_no_export_is_a_sentence(run_id: str, address: str, why: str) -> None:
    told = fetched(address)
    assert told.status_code == 404 and why in told.text, told.text


def test_an_export_that_fails_says_why_and_one_that_was_killed_is_no_export(
    run_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exporting.start(run_id, 4, Form.F16)
    # With it goes the process of an export before this one that has not ended yet.
    live.kill_all(paths.home(), only="src.workers.export")
    monkeypatch.setattr(exporting, "TIMEOUTS", replace(TIMEOUTS, start=0))
    assert "ended early" in str(waited(run_id, 4, Form.F16).problem)
    assert not exporting.path_of(run_id, 4, Form.F16).exists()
    # Without a token of the hub.
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(exporting, "TIMEOUTS", TIMEOUTS)
    exporting.start(run_id, None, exporting.HUB, repo="me/speller")
    assert "no token for the hub here" in str(waited(run_id, None, exporting.HUB).problem)
    lock = FileLock(paths.export_lock(run_id))
    wait_for(lock.acquire, "the upload's process lets go of its lock after its last word")
    refused = live.command("merge", "mine", "--to", str(tmp_path / "x"), check=False)
    lock.release()
    assert refused.returncode == 2 and "already being written" in refused.stderr
