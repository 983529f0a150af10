"""What leaves this machine: capsules that replay elsewhere, and folders for the hub."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from src import paths
from src.analysis import capsule
from src.analysis.capsule import CannotPack
from src.models.gguf.header import read_header
from src.models.metrics import METRICS, PARTIAL
from src.paths import ROOT
from src.store.tables import Status
from tests.helpers import live
from tests.helpers.store import fill_run

CANARY = "canary-58d0e7b4"
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY")


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
