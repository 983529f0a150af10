"""Run the CPU presets as a user would and print what docs/results.md shows: `make bench`.

Launches each preset with `spelltune launch --wait` in a fresh SPELLTUNE_HOME and prints Markdown:
times from launch to first step and to the end, the curve of exact match, and misspelled words.
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

PRESETS = ("tiny-spell", "tiny-correct")
WORDS = 20
HEAD = (
    "preset", "status", "first loss, s", "whole run, s", "steps", "val exact match",
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
    details = []
    with tempfile.TemporaryDirectory() as home:
        for preset in PRESETS:
            run = spelltune("launch", "--preset", preset, "--wait", home=home)
            log = Path(run["paths"]["metrics_log"]).read_text().splitlines()
            points = [json.loads(line) for line in log]
            first = min(p["at"] for p in points if p["name"] == "train/loss") - run["created_at"]
            whole = run["ended_at"] - run["created_at"]
            test = next(e for e in run["evaluations"] if e["split"] == "test")
            scores = run["metrics"]
            cells = (preset, run["status"], f"{first:.0f}", f"{whole:.0f}", f"{run['max_steps']:,}",
                     f"{scores['val/exact_match']:.3f}", f"{scores['test/exact_match']:.3f}",
                     f"{test['rows']:,}")  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
            details.append(curve(preset, points))
            details.append(
                words(preset, spelltune("errors", run["id"], "--split", "test", home=home))
            )
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    print("\n".join(rows + details))


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
