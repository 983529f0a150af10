"""Run the CPU presets as a user would and print what docs/results.md shows: `make bench`.

Launches each preset with `spelltune launch --wait` in a fresh SPELLTUNE_HOME and prints Markdown:
times from launch to first step and to the end, the curve of exact match, and misspelled words.
The first preset also runs with `engine: trl`, for how much of its time `auto` takes.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from src.paths import ROOT

RUNS = (("tiny-spell", "auto"), ("tiny-spell", "trl"), ("tiny-correct", "auto"))
WORDS = 20
HEAD = (
    "preset", "engine", "status", "first loss, s", "whole run, s", "steps", "val exact match",
    "test exact match", "test words",
)  # fmt: skip


def spelltune(*arguments: str, home: str) -> Any:
    """The JSON document that a command prints."""
    command = [sys.executable, "-m", "src.cli", *arguments, "--json"]
    answer = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"SPELLTUNE_HOME": home},
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(answer.stdout)


def main() -> None:
    print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}\n"
    )
    rows = []
    details: list[str] = []
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home:
        for preset, engine in RUNS:
            options = ("--preset", preset, "--set", f"engine={engine}", "--wait")
            run = spelltune("launch", *options, home=home)
            log = Path(run["paths"]["metrics_log"]).read_text().splitlines()
            points = [json.loads(line) for line in log]
            first = min(p["at"] for p in points if p["name"] == "train/loss") - run["created_at"]
            whole = run["ended_at"] - run["created_at"]
            test = next(e for e in run["evaluations"] if e["split"] == "test")
            scores = run["metrics"]
            times.setdefault(preset, []).append(whole)
            cells = (preset, engine, run["status"], f"{first:.0f}", f"{whole:.0f}",
                     f"{run['max_steps']:,}", f"{scores['val/exact_match']:.3f}",
                     f"{scores['test/exact_match']:.3f}", f"{test['rows']:,}")  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
            if engine == "auto":
                wrong = spelltune("errors", run["id"], "--split", "test", home=home)
                details += [curve(preset, points), words(preset, wrong)]
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    print("\n".join(rows))
    auto, trl = times[RUNS[0][0]]
    print(f"\n{RUNS[0][0]} with `engine: auto` takes {auto / trl:.2f} of its time with `trl`.")
    print("\n".join(details))


def curve(preset: str, points: list[dict[str, Any]]) -> str:
    scored = {p["step"]: p["value"] for p in points if p["name"] == "val/exact_match"}
    steps = " | ".join(f"{step:,}" for step in scored)
    values = " | ".join(f"{value:.3f}" for value in scored.values())
    rule = "|---" * (len(scored) + 1) + "|"
    return f"\n**{preset}**\n\n| step | {steps} |\n{rule}\n| val exact match | {values} |"


def words(preset: str, wrong: list[dict[str, Any]]) -> str:
    lines = [f"\nThe first {WORDS} of {len(wrong)} test words that {preset} still misspells:\n"]
    lines += ["| question | expected | predicted | edits |", "|---|---|---|---|"]
    for word in wrong[:WORDS]:
        cells = (word["question"], word["expected"], word["predicted"], str(word["edit_distance"]))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown CPU"
    )


if __name__ == "__main__":
    main()
