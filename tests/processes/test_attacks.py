"""Attacks that must come to nothing, beside those in the tests of the parts that they aim at."""

import asyncio
import http.server
import json
import os
import pickle
import stat
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from src import files, paths, store
from src.config import load_config
from src.files import sha256
from src.panel.server import LoopbackOnly
from src.paths import ROOT
from src.runs import launcher, reach
from src.store.tables import Status
from src.training import checkpointing
from src.training.data_files import DataError
from src.training.data_hub import read_hub
from src.training.train import train
from tests.helpers import tiny
from tests.helpers.live import command, ended, left_over, training, wait

CANARY = "canary-7f3a91c2"
HOSTILE = ';$(touch {0}) `touch {0}` ../<img src=x onerror="alert(1)">'


@pytest.mark.real_start
@pytest.mark.slow
def test_a_run_leaves_no_secret_no_trace_of_its_name_and_nothing_for_others(
    home: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run under a hostile name, with secrets in the environment of whoever launched it."""
    secrets = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HUGGING_FACE_HUB_TOKEN")
    for name in (*secrets, "SPELLTUNE_NOTIFY_URLS"):
        monkeypatch.setenv(name, f"{CANARY}-{name.lower()}")
    touched = home / "touched"
    settings = small | {"name": HOSTILE.format(touched)[:80], "tracking.mode": "offline"}
    command("launch", *(f"--set={k}={json.dumps(v)}" for k, v in settings.items()))
    with store.reading() as session:
        run = store.list_runs(session)[0]
    run = wait(run.id, training)
    for pid in (run.supervisor_pid, run.trainer_pid):
        assert CANARY not in " ".join(psutil.Process(pid).cmdline())
        # What it may need is handed on, and nothing else.
        assert "AWS_SECRET_ACCESS_KEY" not in psutil.Process(pid).environ()
    launcher.stop(run.id)
    assert wait(run.id, ended).status == Status.STOPPED
    shown = command("show", run.id, "--json").stdout + command("metrics", run.id, "--json").stdout
    for page in ("overview", "monitor"):
        seen = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=300).run()
        shown += "".join(str(node.proto) for node in seen.main)
    assert "nats per token" in shown and CANARY not in shown
    # Who still has the run table open takes files of it away at its end.
    assert not left_over(home, seconds=300)
    files = [f for f in home.rglob("*") if f.is_file()]
    assert len(files) > 15
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == []
    assert not touched.exists() and not (ROOT / "touched").exists()
    made = [f for folder in ("results", "checkpoints") for f in (home / folder).rglob("*")]
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, f"{path} {mode:o}"


class Evil:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_runs_nothing(base: Path, tmp_path: Path, name: str) -> None:
    config = tiny.config_of(base)
    where = {"output_dir": tmp_path / "out", "checkpoints_dir": tmp_path / "steps"}
    train(config, tiny.Recorder(stop_at=2), **where)
    folder, touched = tmp_path / "steps/step-3", tmp_path / "touched"
    (folder / name).write_bytes(pickle.dumps(Evil(touched)))
    # The attacker has mended the manifest too.
    manifest = json.loads((folder / checkpointing.MANIFEST).read_text())
    file = folder / name
    manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    checkpointing.write_manifest(folder, manifest)
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        train(config, tiny.Recorder(), **where, resume_from=folder)
    assert not touched.exists()


@pytest.mark.parametrize(("kind", "read"), [("pandas", False), ("csv", True)])
def test_a_data_set_that_is_kept_as_pickles_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, read: bool
) -> None:
    import datasets

    touched = tmp_path / "touched"
    file = tmp_path / "words"
    file.write_bytes(b"question,answer\na,b\n" if read else pickle.dumps(Evil(touched)))
    options = {"data_files": str(file), "cache_dir": str(tmp_path / "cache")}
    builder = datasets.load_dataset_builder(kind, **options)
    # As the hub would give it, once only: what is read is what was looked at.
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    monkeypatch.setattr(datasets, "load_dataset", None)
    if read:
        assert list(read_hub("someone/words", None)[""]["answer"]) == ["b"]
    else:
        with pytest.raises(DataError, match="kept as pandas; only json, csv, parquet, text"):
            read_hub("someone/words", None)
    assert not touched.exists()


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "..", "a/../b", "x@1"])
@pytest.mark.parametrize("verb", ["show", "stop", "resume", "delete", "checkpoints", "merge"])
def test_a_name_is_looked_up_and_never_a_path(home: Path, verb: str, name: str) -> None:
    if verb in ("show", "stop", "resume", "checkpoints") or name != "x@1":
        from typer.testing import CliRunner

        from src.cli import app

        answer = CliRunner().invoke(app, [verb, name, *(["--yes"] if verb == "delete" else [])])
        assert answer.exit_code == 2 and "no run" in answer.stderr


def test_nul_in_a_path_is_a_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # else the default model is looked for, at length
    for setting in ("data.path", "model.name"):
        section, leaf = setting.split(".")
        file = tmp_path / "nul.yaml"
        file.write_text(yaml.safe_dump({section: {leaf: "a\0b"}}))
        answer = command("launch", str(file), check=False)
        assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr


def test_an_address_is_no_model_and_is_never_asked(home: Path) -> None:
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()

        do_HEAD = do_GET

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/model"
        for setting in ("model.name", "data.hub_id", "data.path"):
            answer = command("launch", f"--set={setting}={address}", check=False)
            assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr
        server.shutdown()
    assert asked == []


def test_the_panel_reads_only_its_own_folders(home: Path, tmp_path_factory: Any) -> None:
    base = load_config()
    outside = tmp_path_factory.mktemp("outside") / "secret.csv"
    outside.write_text("question,answer\na,b\n")
    inside = files.keep(b"question,answer\na,b\n", paths.home() / "data", "mine.csv")
    link = inside.parent / "link.csv"
    link.symlink_to(outside)

    def problems(path: str) -> dict[str, str]:
        config = load_config(overrides={"data.path": path})
        return reach.out_of_reach(config, base)

    assert problems(str(inside)) == {}
    for path in (str(outside), str(link), f"{inside.parent}/../../../etc/passwd", "/etc/passwd"):
        assert list(problems(path)) == ["data.path"], path
    # What a run of the command line named may be launched again.
    before = load_config(overrides={"data.path": str(outside)})
    assert reach.out_of_reach(before, before) == {}


@pytest.mark.parametrize(
    ("address", "proxy", "answered"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("10.0.0.7", None, False),
        ("0.0.0.0", None, False),
        ("10.0.0.7", "oauth2-proxy", True),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_loopback_is_answered_unless_a_proxy_is_named(
    kind: str, address: str, proxy: str | None, answered: bool
) -> None:
    reached, sent = [], []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": kind, "server": (address, 8501), "headers": [], "method": "GET", "path": "/"}
    asyncio.run(LoopbackOnly(inner, proxy)(scope, receive, send))
    assert bool(reached) is answered
    if not answered:
        refused = {"http": 403, "websocket": 1008}[kind]
        assert refused in (sent[0].get("status"), sent[0].get("code"))


def test_nothing_trusts_remote_code() -> None:
    folders = ("src", "pages", "scripts", "benchmarks", "notebooks")
    files = [f for folder in folders for f in (ROOT / folder).rglob("*.[pi]*") if f.is_file()]
    sources = [f for f in (ROOT / "app.py", *files) if f.suffix in (".py", ".ipynb")]
    assert len(sources) > 80
    text = "".join(file.read_text() for file in sources)
    assert "trust_remote_code=True" not in text.replace(" ", "")
    assert "weights_only=False" not in text.replace(" ", "")
