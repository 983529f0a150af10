"""Measure each page on a store of 1,000 runs, 5,000 points and 2,000 predictions each.

`make bench-pages` fills a fresh SPELLTUNE_HOME, then prints two tables: the server's time for each
page, as a browser asks for it over a WebSocket, each time in a new session and of other runs; and
in Chromium the time from a click to the error table of a run that nobody has opened yet.
"""

import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
from sqlalchemy import update
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from src import paths, store
from src.analysis import misspellings
from src.config import load_config
from src.models.metrics import edit_distance
from src.store.tables import Run, Status, Sweep, SweepStatus
from src.training.data_loaders import load_splits

NAMES = ("train/loss", "lr", "grad_norm", "tokens_per_second", "val/exact_match")
VISITS = 40
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


# --- the store ------------------------------------------------------------------------------------


SWEEP = """
name: many
base: {preset: tiny-correct}
method: random
metric: val/exact_match
space:
  lora.r: [1, 2, 4, 8, 16, 32, 64]
  training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
budget: {runs} trials
"""


def fill(runs: int, points: int, rows: int) -> list[str]:
    """Completed trials of one sweep with their curves and predictions; returns their ids, oldest
    first."""
    with store.writing() as session:
        session.add(
            Sweep(
                id="many", name="many", file=SWEEP.replace("{runs}", str(runs)), path="many.yaml",
                folder=str(paths.ROOT), status=SweepStatus.COMPLETED, seed=0,
                created_at=time.time() - 60 * runs,
            )
        )  # fmt: skip
    asked = load_splits(task="correct").test
    distinct = len(asked)
    asked = pd.concat([asked] * (rows // len(asked) + 1), ignore_index=True).head(rows)
    asked["question"] += [f" #{i}" if i >= distinct else "" for i in range(rows)]
    ids = []
    for number in range(runs):
        noise = random.Random(number)
        drawn = {"lora.r": 2 ** (number % 7), "training.learning_rate": 10 ** noise.uniform(-4, -2)}
        own = {"name": f"run {number}", "training.seed": number}
        config = load_config(preset="tiny-correct", overrides=own | drawn)
        frame = answered(asked, noise, skill=0.4 + 0.4 * noise.random())
        with store.writing() as session:
            run = store.enqueue(
                session, config, now=time.time() - 60 * (runs - number),
                sweep_id="many", number=number, seed_index=0, searched=drawn,
            )  # fmt: skip
            values = np.random.default_rng(number).random((points // len(NAMES), len(NAMES)))
            store.record_metrics(
                session, run.id, 1,
                [(step, name, float(values[step - 1, i]), run.created_at + step)
                 for step in range(1, len(values) + 1) for i, name in enumerate(NAMES)],
            )  # fmt: skip
            last = len(values)
            file = paths.predictions_dir(run.id) / f"step-{last}.parquet"
            file.parent.mkdir(parents=True)
            frame.to_parquet(file, index=False)
            correct = int(frame["correct"].sum())
            store.record_evaluation(session, run.id, 1, last, "validation", file,
                                    rows=rows, correct=correct)  # fmt: skip
            session.execute(
                update(Run).where(Run.id == run.id).values(  # type: ignore[arg-type]
                    status=Status.COMPLETED, step=last, best_step=last,
                    started_at=run.created_at + 1, ended_at=run.created_at + last,
                )
            )  # fmt: skip
            ids.append(run.id)
    return ids


def answered(asked: pd.DataFrame, noise: random.Random, *, skill: float) -> pd.DataFrame:
    """Predictions as a trainer writes them, a share of `skill` correct."""
    expected = asked["answer"].tolist()
    predicted = [e if noise.random() < skill else slip(e, noise) for e in expected]
    frame = pd.DataFrame({"word": expected, "question": asked["question"], "expected": expected})
    frame["predicted"] = predicted
    frame["correct"] = frame["predicted"] == frame["expected"]
    frame["edit_distance"] = [edit_distance(p, e) for p, e in zip(predicted, expected, strict=True)]
    frame["answer_tokens"] = [2 + len(e) // 3 for e in expected]
    frame["log_probability"] = [-noise.expovariate(0.5) for _ in expected]
    return misspellings.with_kinds(frame)


def slip(word: str, noise: random.Random) -> str:
    """The word with one or two misspellings."""
    i = noise.randrange(1, len(word))
    made = noise.choice(
        [
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + noise.choice("aeioutrns") + word[i:],
            word[:i] + noise.choice("aeiou") + word[i + 1 :],
            word[: i - 1] + word[i] + word[i - 1] + word[i + 1 :],
            word[: max(2, i)],
            word + word[-2:],
        ]
    )
    return slip(made, noise) if noise.random() < 0.3 and len(made) > 2 else made


# --- the server's time ----------------------------------------------------------------------------


def visits(ids: Sequence[str], noise: random.Random) -> dict[str, Callable[[], tuple[str, str]]]:
    """{page: its name and query, with other runs at each call}."""

    def of(page: str, **query: str | list[str]) -> Callable[[], tuple[str, str]]:
        def drawn(value: str) -> str:
            return noise.choice(ids) if value == "RUN" else value

        def made() -> tuple[str, str]:
            chosen = {
                k: [drawn(v) for v in value] if isinstance(value, list) else drawn(value)
                for k, value in query.items()
            }
            return page, urlencode(chosen, doseq=True)

        return made

    return {
        "Overview": of(""),
        "Overview, filtered and sorted": of(
            "", find="status:completed lora.r>=4 val/exact_match>30%", sort="learning_rate"
        ),
        "Overview, folded by config": of("", group="true", sort="val/exact_match"),
        "Overview, all runs chosen": of("", all="archived:no"),
        "Launch": of("launch"),
        "Sweeps, one of all these runs": of("sweeps", sweep="many"),
        "Monitor": of("monitor", run="RUN"),
        "Compare, six runs": of("compare", run=["RUN"] * 6),
        "Errors": of("errors", run="RUN"),
        "Errors, filtered by kind and length": of("errors", run="RUN", kind="omission", length="8"),
        "Errors, two runs beside each other": of("errors", run="RUN", vs="RUN"),
        "Errors, one word's history": of("errors", run="RUN", word="Correct the spelling: symol"),
    }


def server_time(address: str, page: str, query: str) -> float:
    """Seconds from the request of a page in a new session to the end of the server's answer."""
    with connect(f"{address.replace('http', 'ws')}/_stcore/stream", subprotocols=["streamlit"],
                 max_size=None) as socket:  # fmt: skip
        asked = BackMsg()
        asked.rerun_script.query_string = query
        asked.rerun_script.page_name = page
        start = time.perf_counter()
        socket.send(asked.SerializeToString())
        while True:
            told = ForwardMsg.FromString(socket.recv(timeout=60))
            assert told.delta.new_element.WhichOneof("type") != "exception", told
            if told.WhichOneof("type") == "script_finished":
                return time.perf_counter() - start


def server_times(ids: Sequence[str], only: str) -> None:
    print(f"| page ({VISITS} visits each) | p50, ms | p95, ms | slowest, ms |\n|---|---|---|---|")
    with serving() as address:
        for what, query in visits(ids, random.Random(1)).items():
            if only not in what:
                continue
            # The first two warm up what the server loads once.
            took = [server_time(address, *query()) for _ in range(VISITS + 2)][2:]
            p50, p95, slowest = np.quantile(took, [0.5, 0.95, 1]) * 1000
            print(f"| {what} | {p50:.0f} | {p95:.0f} | {slowest:.0f} |", flush=True)


# --- in the browser -------------------------------------------------------------------------------


def browser_times(ids: Sequence[str], tries: int = 10) -> None:
    from playwright.sync_api import sync_playwright

    table = "table.rows td.word"
    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        clicks, links = [], []
        # The runs of the overview's page: newest first, each opened once.
        for run in ids[-tries:]:
            page.goto(address)
            link = page.locator(f'a[href="errors?run={run}"]')
            link.wait_for()
            page.wait_for_timeout(1000)
            start = time.perf_counter()
            link.click()
            page.wait_for_selector(table)
            clicks.append(time.perf_counter() - start)
        for run in ids[:tries]:
            start = time.perf_counter()
            page.goto(f"{address}/errors?run={run}")
            page.wait_for_selector(table)
            links.append(time.perf_counter() - start)
        browser.close()
    print("\n| the error table of a run, in Chromium | median, s | slowest, s |\n|---|---|---|")
    for what, took in (
        ("by a click on the overview", clicks),
        ("by its address, panel and all", links),
    ):
        print(f"| {what} | {np.median(took):.2f} | {max(took):.2f} |")


@contextmanager
def serving() -> Iterator[str]:
    """A panel on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    server = subprocess.Popen(command, cwd=paths.ROOT, stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health")
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--home", type=Path, help="keep the store here, and take it if it is there")
    parser.add_argument("--only", default="", help="only pages whose name has this text")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPELLTUNE_HOME"] = str(asked.home or folder)
        os.environ.pop("SPELLTUNE_DATABASE_URL", None)
        with store.reading() as session:
            ids = [run.id for run in reversed(store.list_runs(session))]
        if not ids:
            ids = fill(asked.runs, asked.points, asked.rows)
        print(f"{len(ids):,} runs, {os.cpu_count()} cores\n")
        server_times(ids, asked.only)
        if shutil.which("chromium") and not asked.only:
            browser_times(ids)


if __name__ == "__main__":
    main()
