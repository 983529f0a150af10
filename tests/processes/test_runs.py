"""Runs as a user starts them: the command line, detached processes, the real tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from sqlmodel import col, update

from src import paths, store
from src.config import load_config
from src.paths import ROOT
from src.runs import machine
from src.store.tables import Run, Status
from src.training.train import run_experiments
from tests.helpers.live import (
    FEW,
    MANY,
    alive,
    command,
    ended,
    launch,
    left_over,
    row,
    sets,
    training,
    wait,
)

pytestmark = pytest.mark.usefixtures("data")


def test_a_run_from_the_command_line_leaves_all_that_was_promised(home: Path, data: Path) -> None:
    answer = command("launch", "--wait", "--json", "--set=name=first", *sets(data, FEW))
    run = json.loads(answer.stdout)  # one document and nothing else
    assert (run["status"], run["step"], run["attempt"]) == ("COMPLETED", 4, 1), run["reason"]
    for name in ("train/loss", "val/loss", "val/exact_match", "val/token_accuracy", "lr",
                 "grad_norm", "tokens_per_second", "test/exact_match"):  # fmt: skip
        assert isinstance(run["metrics"][name], float), name
    assert run["best"]["metric"] == "val/exact_match" and run["checkpoints"]
    assert run["pids"]["supervisor"] != run["pids"]["trainer"]
    adapter = Path(run["paths"]["final_adapter"])
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 16
    assert (adapter / "adapter_model.safetensors").stat().st_size < 2**21
    results = yaml.safe_load(Path(run["paths"]["output_dir"], "eval_results.yaml").read_text())
    assert results["metrics"]["test/exact_match"] == run["metrics"]["test/exact_match"]
    summary = yaml.safe_load(paths.summary_file().read_text())
    assert [e["run"] for e in summary["experiments"]] == [run["id"]]
    assert paths.final_metrics(run["id"]).exists()
    assert home in adapter.parents
    offline = list(Path(run["paths"]["output_dir"], "wandb").glob("offline-run-*/*.wandb"))
    assert len(offline) == 1

    points = json.loads(command("metrics", "first", "--json").stdout)
    lines = [json.loads(x) for x in Path(run["paths"]["metrics_log"]).read_text().splitlines()]
    assert {(p["step"], p["name"]) for p in points} == {(p["step"], p["name"]) for p in lines}
    assert {p["step"] for p in points if p["name"] == "val/exact_match"} == {0, 2, 4}
    every = json.loads(command("errors", "first", "--all", "--json").stdout)
    wrong = json.loads(command("errors", "first", "--json").stdout)
    assert every and [w for w in every if not w["correct"]] == wrong
    columns = {"question", "expected", "predicted", "correct", "edit_distance", "kind", "edits"}
    assert columns <= set(every[0])
    assert json.loads(command("runs", "--json").stdout)[0]["id"] == run["id"]
    assert json.loads(command("show", "first", "--json").stdout)["status"] == "COMPLETED"

    fresh = home / "unseen.csv"
    fresh.write_text("question,answer\nSpell the word: zeta,z e t a\n")
    scored = json.loads(command("evaluate", "first", "--data", str(fresh), "--json").stdout)
    assert scored["rows"] == 1 and 0 <= scored["metrics"]["exact_match"] <= 1

    refused = command("delete", "first", "--json", check=False)  # nobody there to answer
    assert refused.returncode != 0 and row(run["id"])
    command("delete", "first", "--yes", "--json")
    left = [f for f in home.rglob("*") if run["id"] in str(f)]
    assert not left
    assert yaml.safe_load(paths.summary_file().read_text()) == {"experiments": []}


@pytest.mark.slow
def test_one_slot_serves_the_queue_in_order_and_a_killed_trainer_frees_it(data: Path) -> None:
    first, second = launch(data, **MANY), launch(data, **FEW)
    run = wait(first, training)
    assert row(second).status == Status.QUEUED
    assert run.trainer_pid and run.supervisor_pid
    # A child of the trainer that has left its process group, as some workers do.
    environment = os.environ | {"SPELLTUNE_TOKEN": run.token or ""}
    worker = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
    os.kill(run.trainer_pid, signal.SIGKILL)
    failed = wait(first, ended)
    assert failed.status == Status.FAILED and "signal 9" in (failed.reason or "")
    assert not alive(run.trainer_pid) and worker.wait(60) == -signal.SIGKILL
    assert wait(second, ended).status == Status.COMPLETED
    summary = yaml.safe_load(paths.summary_file().read_text())["experiments"]
    assert [(e["run"], e.get("failed"), e["reason"]) for e in summary] == [
        (first, True, failed.reason),
        (second, None, None),
    ]


def test_a_run_outlives_whoever_launched_it_and_stops_when_asked(home: Path, data: Path) -> None:
    shell = subprocess.Popen(
        [sys.executable, "-m", "src.cli", "launch", "--wait", *sets(data, MANY)],
        cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    run_id = ""
    while not run_id:
        with store.reading() as session:
            run_id = next((r.id for r in store.list_runs(session)), "")
        time.sleep(0.1)
    wait(run_id, training)
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    step = row(run_id).step or 0
    wait(run_id, lambda run: (run.step or 0) > step)
    answer = json.loads(command("stop", run_id, "--json").stdout)
    assert answer["id"] == run_id
    run = wait(run_id, ended)
    assert run.status == Status.STOPPED and run.step and run.step < run.max_steps
    with store.reading() as session:
        assert [c.step for c in store.list_checkpoints(session, run_id)][-1] == run.step
    assert (paths.output_dir(run_id) / "final" / "adapter_config.json").exists()
    assert not left_over(home, seconds=300)


@pytest.mark.slow
def test_a_killed_run_is_interrupted_and_resumes_to_the_same_bits(data: Path) -> None:
    settings = FEW | {"training.max_steps": 30, "evaluation.eval_steps": 10, "lora.dropout": 0.1}
    whole = launch(data, **settings)
    assert wait(whole, ended).status == Status.COMPLETED

    slow = settings | {"name": "killed"}
    run_id = launch(data, **slow)
    run = wait(run_id, lambda run: (run.step or 0) >= 11)
    for pid in (run.supervisor_pid, run.trainer_pid):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    document = json.loads(command("show", run_id, "--json").stdout)  # reading reconciles
    assert document["status"] == "INTERRUPTED" and "gone" in document["reason"]

    kept = json.loads(command("checkpoints", run_id, "--json").stdout)
    assert kept and all(c["verified"] for c in kept)
    refused = command("resume", run_id, "--from", "999", check=False)
    assert refused.returncode == 2 and str(kept[-1]["step"]) in refused.stderr
    done = json.loads(command("resume", run_id, "--wait", "--json").stdout)
    assert (done["status"], done["attempt"], done["step"]) == ("COMPLETED", 2, 30)
    assert done["used"]["resume"].startswith("exact from step-")
    adapters = [
        (paths.output_dir(i) / "final" / "adapter_model.safetensors").read_bytes()
        for i in (whole, run_id)
    ]
    assert adapters[0] == adapters[1]
    points = json.loads(command("metrics", run_id, "--json").stdout)
    steps = [p["step"] for p in points if p["name"] == "train/loss"]
    assert steps == list(range(1, 31))
    again = command("resume", run_id, check=False)
    assert again.returncode == 2 and "COMPLETED" in again.stderr


def test_a_trainer_that_lost_its_supervisor_is_adopted(data: Path) -> None:
    run_id = launch(data, **MANY)
    run = wait(run_id, training)
    assert run.supervisor_pid
    os.kill(run.supervisor_pid, signal.SIGKILL)
    assert json.loads(command("show", run_id, "--json").stdout)["status"] == "RUNNING"
    other = wait(run_id, lambda r: r.supervisor_pid != run.supervisor_pid)
    assert other.trainer_pid == run.trainer_pid and alive(run.trainer_pid)
    command("stop", run_id)
    assert wait(run_id, ended).status == Status.STOPPED


def test_another_boot_means_interrupted_and_no_signal(data: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    with store.writing() as session:
        run = store.enqueue(session, load_config())
        session.execute(
            update(Run)
            .where(col(Run.id) == run.id)
            .values(status="RUNNING", boot_id="another", trainer_pid=stranger.pid, token="t")
        )
    assert json.loads(command("reconcile", "--json").stdout) == [run.id]
    assert row(run.id).status == Status.INTERRUPTED and stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_who_lost_the_run_writes_no_more(data: Path) -> None:
    run_id = launch(data, **MANY)
    run = wait(run_id, training)
    with store.writing() as session:
        session.execute(update(Run).where(col(Run.id) == run_id).values(token="another", attempt=2))
        before = len(store.metric_points(session, run_id))
    pids = (run.trainer_pid, run.supervisor_pid)
    end = time.monotonic() + 300
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, pids))
    after = row(run_id)
    assert (after.status, after.token, after.reason) == (Status.RUNNING, "another", None)
    with store.reading() as session:
        assert len(store.metric_points(session, run_id)) == before


@pytest.mark.slow
def test_a_failed_experiment_does_not_stop_the_others(home: Path, data: Path) -> None:
    empty = home / "empty.jsonl"
    bare = home / "bare.csv"
    bare.write_text("question,reply\na,b\n")
    configs = []
    for name, file in (("missing", empty), ("column", bare), ("good", data)):
        config = home / f"{name}.yaml"
        own = yaml.safe_load((paths.CONFIGS / "presets" / "tiny-spell.yaml").read_text())
        own["data"]["path"] = str(file)
        own["training"]["max_steps"] = 2
        own["tracking"] = {"mode": "off"}
        config.write_text(yaml.safe_dump(own))
        configs.append(config)
    missing, column, good = run_experiments(configs)
    assert missing[0] is None and "no file" in missing[1]["reason"].lower()
    assert column[0] is None and "answer" in column[1]["reason"]
    assert good[0] is not None and Path(good[0], "final").is_dir()
    assert good[1]["metrics"]["test/exact_match"] >= 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "--set", "lora.rank=4"], "lora.rank: no such setting"),
        (["launch", "--set", "lora.r=0"], "lora.r: must be at least 1"),
        (["launch", "--preset", "tiny-spel"], "did you mean 'tiny-spell'"),
        (["launch", "nowhere.yaml"], "no file nowhere.yaml"),
        (["launch", "--set", "model.load_in_4bit=true"], "needs an NVIDIA GPU"),
        (["launch", "--set", "data.path=nowhere.csv"], "nowhere.csv"),
        (["launch", "--set", "engine=packed", "--set", "lora.bias=all"], "trains no biases"),
        (["show", "nobody"], "no run 'nobody'"),
    ],
)
def test_a_bad_call_is_refused_with_a_sentence_and_queues_nothing(
    arguments: list[str], words: str
) -> None:
    if "4bit" in arguments[-1] and machine.gpus():
        pytest.skip("this machine has a GPU")
    answer = command(*arguments, check=False)
    assert answer.returncode == 2 and answer.stdout == ""
    assert words in " ".join(answer.stderr.split()) and "Traceback" not in answer.stderr
    with store.reading() as session:
        assert not store.list_runs(session)


def test_doctor_says_what_a_launch_cannot_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jellyfish.py").write_text("raise ImportError('libjelly.so: no such file')")
    (tmp_path / "wandb.py").write_text("raise OSError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    document = json.loads(command("doctor", "--json").stdout)
    assert document["versions"]["trl"] == "1.14.2"
    assert document["slots"] >= 1 and document["disk_free_gib"] > 0
    assert document["imports"]["rapidfuzz"] == "3.14.6" and "datasets" in document["imports"]
    reason = "ImportError: libjelly.so: no such file"
    assert document["imports"]["jellyfish"] == reason
    assert document["imports"]["wandb"] == "OSError: a broken installation"
    assert document["a_launch_would_use"].startswith(
        f"nothing, as training cannot import jellyfish: {reason}"
    )
    assert document["backends"]["peft"] == f"no: jellyfish: {reason}"


@pytest.mark.slow
def test_doctor_says_what_would_run_and_which_module_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(command("doctor", "--json").stdout)
    assert document["backends"]["peft"] == "yes"
    assert document["a_launch_would_use"].startswith(("peft on ", "unsloth on "))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # A module that ends the process, as a broken library of CUDA does.
    (tmp_path / "jellyfish.py").write_text("import os; os.abort()")
    document = json.loads(command("doctor", "--json").stdout)
    assert document["imports"]["jellyfish"].startswith("ended the process: ")
    assert document["a_launch_would_use"].startswith("nothing, ")
