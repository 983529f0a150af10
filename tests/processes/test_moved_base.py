"""A home that is moved with the base model of its runs inside."""

import shutil
from pathlib import Path

import pytest

from src.config import load_config
from src.runs import launcher
from src.store.tables import Status
from tests.golden.commands import spelltune
from tests.helpers import live


@pytest.mark.slow
def test_runs_whose_base_model_lies_in_a_moved_home_go_on_and_are_shared(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(base / "gpt2", before / "models/own")
    monkeypatch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
    monkeypatch.setenv("SPELLTUNE_HOME", str(before))
    settings = live.FEW | {
        "backend": "peft", "model.name": str(before / "models/own"), "evaluation.max_new_tokens": 4,
        "data.path": str(live.words(before)), "tracking.mode": "off",
    }  # fmt: skip
    try:
        whole = launcher.launch(load_config(overrides=settings))
        endless = launcher.launch(load_config(overrides=settings | live.MANY))
        assert live.wait(whole, live.ended).status == Status.COMPLETED
        live.wait(endless, live.training)
        launcher.stop(endless)
        assert live.wait(endless, live.ended).status == Status.STOPPED
        assert not live.left_over(before, 60)
        shutil.move(before, after)
        monkeypatch.setenv("SPELLTUNE_HOME", str(after))
        for call in (
            f"evaluate {whole} --data {after}/words.jsonl --baseline",
            f"merge {whole} --to {tmp_path}/merged",
            f"capsule {whole} --output {tmp_path}/whole.zip",
            f"push {whole} --repo me/speller --dry-run",
        ):
            code, text = spelltune(call, after)
            assert code == 0 and str(before) not in text, call + text
        files = [*(tmp_path / "merged").iterdir(), *(after / "results/hub").rglob("*")]
        assert len(files) > 4
        assert not [f for f in files if f.is_file() and str(before).encode() in f.read_bytes()]
        step = live.row(endless).step
        assert spelltune(f"resume {endless}", after)[0] == 0
        resumed = live.wait(endless, lambda run: run.step is not None and run.step > step)
        assert resumed.used["resume"].startswith("exact")
        launcher.stop(endless)
        assert live.wait(endless, live.ended).status == Status.STOPPED
        call = f"fork {whole} --from 4 --set name=child --set training.max_steps=6 --wait"
        code, text = spelltune(call, after)
        assert code == 0, text
    finally:
        for home in (before, after):
            live.kill_all(home)
