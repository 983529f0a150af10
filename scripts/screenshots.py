"""Take screenshots of each page into docs/images: light and dark, 1280 and 800 pixels wide.

`make screenshots` trains three real runs and a small sweep first, on the base model that ships: ten
minutes on two CPU cores. benchmarks/showcase.py takes those of the Compare page, because it trains
runs worth comparing.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from src import store
from src.config import load_config
from src.paths import ROOT
from src.runs import launcher
from src.store.tables import Status, Sweep, SweepStatus
from src.sweeps import control

IMAGES = ROOT / "docs" / "images"
LOOKS = [("light", 1280), ("dark", 1280), ("light", 800), ("dark", 800)]

# Short, with an evaluation every few seconds: the pictures show curves, not records.
BRISK = {
    "training.max_steps": 240,
    "training.logging_steps": 4,
    "evaluation.eval_steps": 24,
    "evaluation.max_rows": 200,
}

SWEEP = """
name: rank-and-rate
base:
  preset: tiny-spell
  overrides:
    engine: packed
    pack_size: 4
    training.max_steps: 120
    evaluation.eval_steps: 24
    evaluation.max_rows: 200
method: tpe
pruner: median
metric: val/exact_match
space:
  lora.r: [4, 8, 16, 32]
  training.learning_rate: {low: 1.0e-3, high: 2.0e-2, log: true}
budget: 16 trials
"""


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"SPELLTUNE_HOME": home, "WANDB_MODE": "disabled"}
        with serving() as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            try:
                journey(browser, address)
            finally:
                end_all()


def journey(browser: Any, address: str) -> None:
    photograph(browser, f"{address}/", "first-visit", LOOKS[:2])
    spell = launch("tiny-spell", name="spell it out", **BRISK)
    wait_for(spell, ended)
    correct = launch("tiny-correct", **BRISK)
    launch("tiny-correct", name="more rank", **{"lora.r": 64})
    wait_for(correct, lambda run: (run.step or 0) > 0.4 * run.max_steps)
    photograph(browser, f"{address}/monitor?run={correct}", "first-screen", LOOKS[:1], most=756)
    photograph(browser, f"{address}/monitor?run={correct}", "monitor", LOOKS)
    photograph(browser, f"{address}/", "overview", LOOKS)
    photograph(browser, f"{address}/launch?lora.r=32&name=more+rank", "launch", LOOKS)
    photograph(browser, f"{address}/launch?training.max_steps=0", "refusal", LOOKS[:2])
    wait_for(correct, ended)
    photograph(browser, f"{address}/errors?run={correct}", "errors", LOOKS)
    photograph(browser, f"{address}/try?run={correct}", "try", LOOKS[:1])
    photograph(browser, f"{address}/machine", "machine", LOOKS[:1])
    end_all()
    file = Path(os.environ["SPELLTUNE_HOME"]) / "sweep.yaml"
    file.write_text(SWEEP)
    sweep = control.launch(file)
    photograph(browser, f"{address}/sweeps", "sweep-form", LOOKS[:2])
    wait_for_trials(sweep)
    photograph(browser, f"{address}/sweeps?sweep={sweep}", "sweep-live", LOOKS[:1])
    while (row := found(sweep)).status == SweepStatus.ACTIVE:
        time.sleep(0.5)
    assert row.status == SweepStatus.COMPLETED, row.reason
    photograph(browser, f"{address}/sweeps?sweep={sweep}", "sweep", LOOKS)
    photograph(browser, f"{address}/sweeps?sweep={sweep}&view=Trials", "trials", LOOKS[:2])


def wait_for_trials(sweep: str) -> None:
    """Wait until a trial has ended and others train."""
    while found(sweep).status == SweepStatus.ACTIVE:
        with store.reading() as session:
            statuses = [Status(run.status) for run in store.list_trials(session, sweep)]
        if Status.RUNNING in statuses and any(status.ended for status in statuses):
            return
        time.sleep(0.5)


def found(sweep: str) -> Sweep:
    with store.reading() as session:
        return store.find_sweep(session, sweep)


def ended(run: Any) -> bool:
    return Status(run.status).ended


def end_all() -> None:
    """No run and no sweep may outlive its folder."""
    with store.reading() as session:
        sweeps = list(store.list_sweeps(session, statuses=control.OPEN))
    for sweep in sweeps:
        control.cancel(sweep.id)
    with store.reading() as session:
        runs = store.list_runs(session)
    for run in runs:
        launcher.stop(run.id)
    for run in runs:
        wait_for(run.id, ended)


def launch(preset: str, **overrides: Any) -> str:
    return launcher.launch(load_config(preset=preset, overrides=overrides))


def wait_for(run_id: str, condition: Callable[[Any], bool]) -> None:
    while True:
        with store.reading() as session:
            run = store.find(session, run_id)
        if condition(run) or ended(run):
            return
        time.sleep(0.5)


def photograph(
    browser: Any, address: str, name: str, looks: list[tuple[str, int]], *, most: int = 1500
) -> None:
    """The page, at most so many pixels tall, once its charts and its data check are there."""
    for scheme, width in looks:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            timezone_id="Europe/Berlin",
        )
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(
            ".stMainBlockContainer :is(table, dl, .empty, .stNumberInput)", timeout=60_000
        )
        page.wait_for_timeout(4000)
        page.wait_for_function(
            "!document.querySelector('.stSkeleton, .plot:not(:has(.main-svg))')"
            " && !document.body.innerText.includes('Reading the data')",
            timeout=120_000,
        )
        height = page.evaluate("document.querySelector('.stMainBlockContainer').scrollHeight") + 60
        page.set_viewport_size({"width": width, "height": min(max(height, 500), most)})
        page.wait_for_timeout(1500)
        page.wait_for_function("!document.querySelector('.plot:not(:has(.main-svg))')")
        file = IMAGES / f"{name}-{scheme}-{width}.png"
        page.screenshot(path=file)
        shrink(file)
        context.close()


def shrink(file: Path) -> None:
    """Keep a picture with 256 colours, in half the bytes: the panel has few more."""
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """A panel on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health")
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
