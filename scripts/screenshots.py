"""Take screenshots of each page into docs/images: light and dark, 1280 and 800 pixels wide.

`make screenshots` trains some real runs and a small sweep first, on the base model that ships: ten
minutes on two CPU cores. They stay in results/screenshots, so that `make screenshots PAGE=compare`
renews the pictures of one page in a minute. Those of "Comparisons and mistakes" in docs/results.md
show the runs of benchmarks/showcase.py.
"""

import argparse
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
from src.runs import deletion, launcher
from src.store.tables import Status, Sweep, SweepStatus
from src.sweeps import control

IMAGES = ROOT / "docs" / "images"
HOME = ROOT / "results" / "screenshots"
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"some of {', '.join(PICTURES)}")
    asked = parser.parse_args().pages or list(PICTURES)
    if unknown := set(asked) - PICTURES.keys():
        parser.error(f"no such page: {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    for folder in (IMAGES, HOME):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"SPELLTUNE_HOME": str(HOME), "WANDB_MODE": "disabled"}
    with serving(HOME) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            for page in asked:
                print(f"{page} ...", flush=True)
                PICTURES[page](browser, address)
        finally:
            end_all()


# --- the pages ------------------------------------------------------------------------------------


def first_visit(browser: Any, _address: str) -> None:
    with tempfile.TemporaryDirectory() as home, serving(Path(home)) as empty:
        photograph(browser, f"{empty}/", "first-visit", LOOKS[:2])


def overview(browser: Any, address: str) -> None:
    for name in ("spell it out", "more rank"):
        trained(name)
    ranks()
    with training() as _:
        photograph(browser, f"{address}/", "overview", LOOKS)


def launch_form(browser: Any, address: str) -> None:
    trained("spell it out")
    photograph(browser, f"{address}/launch?lora.r=32&name=more+rank", "launch", LOOKS)
    photograph(browser, f"{address}/launch?training.max_steps=0", "refusal", LOOKS[:2])


def monitor(browser: Any, address: str) -> None:
    trained("spell it out")
    with training() as run:
        seen = f"{address}/monitor?run={run}"
        photograph(browser, seen, "first-screen", LOOKS[:1], most=756)
        photograph(browser, seen, "monitor", LOOKS)


def compare(browser: Any, address: str) -> None:
    query = "&".join(f"run={run}" for run in ranks())
    photograph(browser, f"{address}/compare?{query}", "compare", LOOKS[:2])


def errors(browser: Any, address: str) -> None:
    photograph(browser, f"{address}/errors?run={trained('more rank')}", "errors", LOOKS)


def try_words(browser: Any, address: str) -> None:
    photograph(browser, f"{address}/try?run={trained('more rank')}", "try", LOOKS[:1])


def machine(browser: Any, address: str) -> None:
    trained("spell it out")
    photograph(browser, f"{address}/machine", "machine", LOOKS[:1])


def sweeps(browser: Any, address: str) -> None:
    photograph(browser, f"{address}/sweeps", "sweep-form", LOOKS[:2])
    file = HOME / "sweep.yaml"
    file.write_text(SWEEP)
    with store.reading() as session:
        done = [s.id for s in store.list_sweeps(session, statuses=[SweepStatus.COMPLETED])]
    sweep = control.launch(file)
    wait_for_trials(sweep)
    photograph(browser, f"{address}/sweeps?sweep={sweep}", "sweep-live", LOOKS[:1])
    if done:
        control.cancel(sweep)
        sweep = done[0]
    while (row := found(sweep)).status == SweepStatus.ACTIVE:
        time.sleep(0.5)
    assert row.status == SweepStatus.COMPLETED, row.reason
    photograph(browser, f"{address}/sweeps?sweep={sweep}", "sweep", LOOKS)
    photograph(browser, f"{address}/sweeps?sweep={sweep}&view=Trials", "trials", LOOKS[:2])


PICTURES: dict[str, Callable[[Any, str], None]] = {
    "first-visit": first_visit,
    "overview": overview,
    "launch": launch_form,
    "monitor": monitor,
    "compare": compare,
    "errors": errors,
    "try": try_words,
    "machine": machine,
    "sweeps": sweeps,
}


# --- the runs they show ---------------------------------------------------------------------------

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "spell it out": ("tiny-spell", BRISK),
    "more rank": ("tiny-correct", BRISK | {"lora.r": 64}),
}


def trained(name: str, preset: str = "", **overrides: Any) -> str:
    """Id of the completed run of a name, one of RUNS or with these settings; trains it if there is
    none."""
    with store.reading() as session:
        known = [run.id for run in store.list_runs(session) if run.name == name and going(run)]
    preset, own = RUNS.get(name, (preset, {}))
    run_id = known[0] if known else launch(preset, name=name, **own | overrides)
    wait_for(run_id, ended)
    return run_id


def going(run: Any) -> bool:
    """True of a run that completed or may do so yet."""
    return run.status == Status.COMPLETED or not ended(run)


def ranks() -> list[str]:
    """Ids of three seeds each of two ranks, trained at once."""
    wanted = {(rank, seed) for rank in (4, 32) for seed in (1, 2, 3)}
    with store.reading() as session:
        known = store.list_runs(session)
    by_place = {
        (run.config["lora"]["r"], run.config["training"]["seed"]): run.id
        for run in known if run.name.startswith("rank ") and going(run)
    }  # fmt: skip
    missing = sorted(wanted - by_place.keys())
    own = BRISK | {"engine": "packed", "pack_size": 6}
    configs = [
        load_config(preset="tiny-correct", overrides=own | {
            "name": f"rank {rank}", "lora.r": rank, "training.seed": seed})
        for rank, seed in missing
    ]  # fmt: skip
    ids = launcher.launch_all(configs) if configs else []
    by_place |= dict(zip(missing, ids, strict=True))
    for run_id in by_place.values():
        wait_for(run_id, ended)
    return [by_place[place] for place in sorted(wanted)]


@contextlib.contextmanager
def training() -> Iterator[str]:
    """A run that is some way on, which is deleted in the end."""
    run_id = launch("tiny-correct", name="as it ships", **BRISK)
    wait_for(run_id, lambda run: (run.step or 0) > 0.4 * run.max_steps)
    yield run_id
    launcher.stop(run_id)
    wait_for(run_id, ended)
    with store.reading() as session:
        gone = store.find(session, run_id)
    deletion.delete(gone)


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
def serving(home: Path) -> Iterator[str]:
    """A panel of a home on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    environment = {**os.environ, "SPELLTUNE_HOME": str(home)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
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
